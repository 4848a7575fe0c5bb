package aggregator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// pollsBetween is how many polls pass before the key service is asked again
// whether it ended a round that nobody has committed to.
const pollsBetween = 5

// watch asks the key service whether it ended a round that waits for its first
// commit: nothing else would tell, since no deadline runs yet.
func (s *Service) watch(ctx context.Context, p *place) (again bool, wait time.Duration, err error) {
	spec := p.round.spec()
	reply, err := s.c.Keys.GetDecision(ctx, &pb.SpecId{Spec: spec[:]})
	if err = rpc.FromStatus(err, "key service"); errors.Is(err, errs.ErrLost) {
		return true, 0, s.lose(ctx, p, err)
	}
	if err != nil || reply.Decision == nil {
		return false, pollsBetween * s.c.Poll, err
	}
	d, err := s.decision(p, reply)
	if err != nil {
		return false, 0, err
	}
	return true, 0, s.abort(ctx, p, d.Reason)
}

// lose ends a task whose round the key service lost. Nobody can decide such a
// round any more, and no round can follow it.
func (s *Service) lose(ctx context.Context, p *place, lost error) error {
	err := s.update(ctx, p, func(_ storage.Writer, row *taskRow, x *roundRow) error {
		x.Reason = lost.Error()
		if row.Ended == "" {
			row.Ended = fmt.Sprintf("round %d: %v", p.n, lost)
		}
		return x.move(task.RoundAborted)
	})
	if err == nil && p.round.Spec != nil {
		s.dropUploads(p.round.spec())
		err = s.dropBlobs(ctx, p.round.spec())
	}
	return err
}
