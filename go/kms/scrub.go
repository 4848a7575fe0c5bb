package kms

import "context"

// scrubber is a ledger that can make what was deleted unreadable in its files.
type scrubber interface {
	Scrub(ctx context.Context) error
}

// scrub removes what a decision deleted from the ledger's files: sealed seeds
// would otherwise stay in its log and its free pages until they are reused.
func (s *Service) scrub(ctx context.Context) error {
	if l, ok := s.c.Ledger.(scrubber); ok {
		return l.Scrub(ctx)
	}
	return nil
}
