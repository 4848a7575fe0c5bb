package aggregator

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cryptflow/cryptflow/go/canary"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
)

// canaries reads those of every contribution of the set from its stored control
// frame, in the manifest's order, for the key service to check. damaged are the
// clients whose stored frames are no longer what they committed: the set has to
// do without them, and the key service counts them as missing.
func (s *Service) canaries(ctx context.Context, p *place) (out []*pb.Canary, damaged []string, err error) {
	if p.task.Canaries == 0 {
		return nil, nil, nil
	}
	g, err := p.geometry()
	if err != nil {
		return nil, nil, err
	}
	spec := p.round.spec()
	control := make([]byte, g.FrameSize(g.ControlIndex()))
	err = s.c.Ledger.View(ctx, func(r storage.Reader) error {
		return eachCommit(r, spec, func(key string, c *commitRow) error {
			client := key[len(commitKey(spec, "")):]
			residues, err := s.canary(ctx, g, c, control)
			switch {
			case isDamage(err):
				s.c.Log.Error("a contribution is damaged", "task", p.task.Name, "round", p.n, "client", client, "error", err.Error())
				damaged = append(damaged, client)
				return nil
			case err != nil:
				return fmt.Errorf("contribution %s: %w", key, err)
			}
			out = append(out, &pb.Canary{Residues: residues, Path: c.Path})
			return nil
		})
	})
	return out, damaged, err
}

// canary reads one contribution's, with the help of room for a control frame.
func (s *Service) canary(ctx context.Context, g frame.Geometry, c *commitRow, control []byte) (residues []byte, err error) {
	blob, err := s.c.Blobs.Open(ctx, c.Blob)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	switch n, err := blob.ReadAt(control, g.Offset(g.ControlIndex())); {
	case n == len(control):
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("the control frame ends early: %w", errs.ErrStorage)
	default:
		return nil, err
	}
	if residues, err = g.Canary(control); err != nil {
		return nil, err
	}
	if len(c.Root) != len(merkle.Hash{}) {
		return nil, fmt.Errorf("a committed root: %w", errs.ErrStorage)
	}
	_, err = canary.Open(g, merkle.Hash(c.Root), residues, c.Path)
	return residues, err
}

// isDamage says whether stored bytes are not those that were committed.
func isDamage(err error) bool {
	return errors.Is(err, errs.ErrFrame) || errors.Is(err, errs.ErrFrameContext) || errors.Is(err, errs.ErrStorage)
}
