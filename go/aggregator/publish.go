package aggregator

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

func signBytes(key ed25519.PrivateKey, b []byte) []byte { return ed25519.Sign(key, b) }

// publish adds the released set and makes its sum and digest durable. Done
// again after a crash it gives the same bytes.
func (s *Service) publish(ctx context.Context, p *place) error {
	spec := p.round.spec()
	g, err := p.geometry()
	if err != nil {
		return err
	}
	kind, err := p.kind()
	if err != nil {
		return err
	}
	var set []Contribution
	var blobs []storage.Blob
	defer func() {
		for _, b := range blobs {
			_ = b.Close() // read only
		}
	}()
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) error {
		return eachCommit(r, spec, func(key string, c *commitRow) error {
			b, err := s.c.Blobs.Open(ctx, c.Blob)
			if err != nil {
				return fmt.Errorf("contribution %s: %w", key, err)
			}
			blobs = append(blobs, b)
			set = append(set, Contribution{Client: key[len(commitKey(spec, "")):], Weight: c.Weight, Frames: b})
			return nil
		})
	}); err != nil {
		return err
	}
	segment, err := s.c.Blobs.Create(ctx, resultBlob(spec))
	if err != nil {
		return err
	}
	root, err := Sum(ctx, g, set, s.c.Workers, func(_ int, frame []byte) error {
		_, err := segment.Write(frame)
		return err
	})
	if err != nil {
		return errors.Join(err, segment.Abort())
	}
	if err := segment.Commit(); err != nil {
		return err
	}
	manifest := task.Signed{Bytes: p.round.Manifest}.Digest()
	result := &task.Result{Spec: spec, Manifest: manifest, Root: root, Frames: uint32(g.Frames()), Terms: uint32(len(set))}
	return s.update(ctx, p, func(w storage.Writer, row *taskRow, x *roundRow) error {
		x.Result = result.Canonical()
		if kind == task.KindValues {
			row.Published++
		}
		model := task.NextModel(task.Digest(row.Model), spec, task.DigestOf(result))
		row.Model = model[:]
		if err := w.Put(bucketLive, p.task.Name+"/"+spec.String(), []byte{}); err != nil {
			return err
		}
		return x.move(task.RoundPublished)
	})
}

// GetResult returns the signed result of a published round, with what was
// decided on which set.
func (s *Service) GetResult(ctx context.Context, in *pb.SpecId) (*pb.ResultReply, error) {
	p, err := s.published(ctx, in.Spec)
	if err != nil {
		return nil, err
	}
	x := p.round
	return &pb.ResultReply{
		Result:   &pb.Signed{Object: x.Result, Signature: signBytes(s.c.Signing, x.Result)},
		Manifest: &pb.Signed{Object: x.Manifest, Signature: signBytes(s.c.Signing, x.Manifest)},
		Decision: &pb.Signed{Object: x.Decision, Signature: x.DecidedBy},
	}, nil
}

// published returns a round whose result can be fetched, and says otherwise
// why not.
func (s *Service) published(ctx context.Context, spec []byte) (p *place, err error) {
	return p, s.c.Ledger.View(ctx, func(r storage.Reader) error {
		if p, err = find(ctx, r, spec); err != nil {
			return err
		}
		switch p.round.State {
		case task.RoundPublished:
			return nil
		case task.RoundAborted:
			return p.ended()
		case task.RoundKeysDestroyed:
			return fmt.Errorf("round %d of %s: %w", p.n, p.task.Name, errs.ErrKeysDestroyed)
		}
		return fmt.Errorf("round %d of %s has no result yet: %w", p.n, p.task.Name, errs.ErrState)
	})
}

// Frames reads a published result, for Arrow Flight.
func (s *Service) Frames(ctx context.Context, ticket []byte, emit func(frame []byte) error) error {
	digest, from, to, err := rpc.ParseTicket(ticket)
	if err != nil {
		return err
	}
	p, err := s.published(ctx, digest[:])
	if err != nil {
		return err
	}
	spec := task.Digest(digest)
	g, err := p.geometry()
	if err != nil {
		return err
	}
	if from > to || to > g.Frames() {
		return fmt.Errorf("frames %d to %d of %d: %w", from, to, g.Frames(), errs.ErrArgument)
	}
	blob, err := s.c.Blobs.Open(ctx, resultBlob(spec))
	if err != nil {
		return err
	}
	defer blob.Close()
	buf := make([]byte, max(g.FrameSize(0), g.FrameSize(g.ControlIndex())))
	for i := from; i < to; i++ {
		frame := buf[:g.FrameSize(i)]
		if _, err := blob.ReadAt(frame, g.Offset(i)); err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if err := emit(frame); err != nil {
			return err
		}
	}
	return nil
}

// destroyed asks the key service which published rounds can no longer be
// opened and drops their bytes. It reports whether some still can.
func (s *Service) destroyed(ctx context.Context, t *task.Task) (live bool, err error) {
	var specs []task.Digest
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) error {
		return r.List(bucketLive, t.Name+"/", func(key string, _ []byte) error {
			spec, err := task.ParseDigest(strings.TrimPrefix(key, t.Name+"/"))
			specs = append(specs, spec)
			return err
		})
	}); err != nil {
		return false, err
	}
	for _, spec := range specs {
		reply, err := s.c.Keys.GetDecision(ctx, &pb.SpecId{Spec: spec[:]})
		err = rpc.FromStatus(err, "key service")
		lost := errors.Is(err, errs.ErrLost) // by a key service that forgot its release
		if err != nil && !lost {
			return true, err
		}
		if !lost && !reply.KeysDestroyed {
			live = true
			continue
		}
		if err := s.c.Ledger.Update(ctx, func(w storage.Writer) error {
			where, err := getRow[specRow](w, bucketSpec, spec.String())
			if err != nil || where == nil {
				return err
			}
			x, err := getRow[roundRow](w, bucketRound, roundKey(where.Task, where.Round))
			if err != nil || x == nil {
				return err
			}
			if err := x.move(task.RoundKeysDestroyed); err != nil {
				return err
			}
			if err := putRow(w, bucketRound, roundKey(where.Task, where.Round), x); err != nil {
				return err
			}
			return w.Delete(bucketLive, t.Name+"/"+spec.String())
		}); err != nil {
			return true, err
		}
		if err := s.dropBlobs(ctx, spec); err != nil {
			return true, err
		}
		s.signal(t.Name)
	}
	return live, nil
}

// dropBlobs removes a round's contributions and result.
func (s *Service) dropBlobs(ctx context.Context, spec task.Digest) error {
	var names []string
	if err := s.c.Blobs.List(ctx, uploadFolder(spec), func(name string) error {
		names = append(names, name)
		return nil
	}); err != nil {
		return err
	}
	for _, name := range append(names, resultBlob(spec)) {
		if err := s.c.Blobs.Delete(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes, at the start, what a crash left: contributions that were
// durable but never became part of a round, and the bytes of rounds that can
// no longer be opened.
func (s *Service) tidy(ctx context.Context) error {
	keep := map[string]bool{}
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) error {
		var keys []string
		if err := r.List(bucketSpec, "", func(key string, _ []byte) error {
			keys = append(keys, key)
			return nil
		}); err != nil {
			return err
		}
		for _, key := range keys {
			spec, err := task.ParseDigest(key)
			if err != nil {
				return err
			}
			where, err := getRow[specRow](r, bucketSpec, key)
			if err != nil {
				return err
			}
			x, err := getRow[roundRow](r, bucketRound, roundKey(where.Task, where.Round))
			if err != nil {
				return err
			}
			if x == nil || x.State.Final() {
				continue
			}
			keep[resultBlob(spec)] = true
			if err := eachCommit(r, spec, func(_ string, c *commitRow) error {
				keep[c.Blob] = true
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, folder := range []string{"contributions/", "results/"} {
		var drop []string
		if err := s.c.Blobs.List(ctx, folder, func(name string) error {
			if !keep[name] {
				drop = append(drop, name)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, name := range drop {
			if err := s.c.Blobs.Delete(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}
