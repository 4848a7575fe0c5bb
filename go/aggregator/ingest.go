package aggregator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/grpc/metadata"

	"github.com/cryptflow/cryptflow/go/arrowio"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/frame"
	"github.com/cryptflow/cryptflow/go/merkle"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// maxUploads bounds the uploads of one client that are not committed, one for
// each round that is open.
const maxUploads = 16

// transfer is an upload and whose it is.
type transfer struct {
	*Upload
	id, client, blob string
	spec             task.Digest
}

// BeginUpload answers where a contribution is sent and how much of it has
// arrived. A client has one upload a round; a new process of it that has other
// secrets asks for a fresh one.
func (s *Service) BeginUpload(ctx context.Context, in *pb.BeginRequest) (*pb.UploadInfo, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	if len(in.Spec) != len(task.Digest{}) {
		return nil, fmt.Errorf("a digest of %d bytes: %w", len(in.Spec), errs.ErrArgument)
	}
	spec := task.Digest(in.Spec)
	// The upload is looked up before the row. Commit writes the row first and
	// forgets the upload afterwards, so a contribution that is being committed
	// is seen in one of the two places and never begins again.
	standing, _ := s.uploadOf(spec, caller.Name)
	var p *place
	var done *commitRow
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		if p, err = find(ctx, r, in.Spec); err != nil {
			return err
		}
		done, err = getRow[commitRow](r, bucketCommit, commitKey(spec, caller.Name))
		return err
	}); err != nil {
		return nil, err
	}
	if done != nil {
		return &pb.UploadInfo{Next: done.Frames, Locations: here(ctx)}, nil
	}
	if err := p.ended(); err != nil {
		return nil, err
	}
	if standing != nil && !in.Fresh {
		return &pb.UploadInfo{Upload: standing.id, Next: uint32(standing.Next()), Locations: here(ctx)}, nil
	}
	g, err := p.geometry()
	if err != nil {
		return nil, err
	}
	if in.Fresh {
		s.giveUp(spec, caller.Name)
	}
	u, open := s.uploadOf(spec, caller.Name)
	if u != nil {
		return &pb.UploadInfo{Upload: u.id, Next: uint32(u.Next()), Locations: here(ctx)}, nil
	}
	if open >= maxUploads {
		return nil, fmt.Errorf("%s has %d uploads in other rounds: %w", caller.Name, open, errs.ErrLimit)
	}
	// The disk is asked without the lock: a client that begins over and over
	// would otherwise hold everybody up.
	if u, err = s.newTransfer(ctx, spec, caller.Name, g); err != nil {
		return nil, err
	}
	u = s.register(u)
	// The round may have been sealed since it was looked at.
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		if p, err = find(ctx, r, in.Spec); err != nil {
			return err
		}
		return p.ended()
	}); err != nil {
		s.giveUp(spec, caller.Name)
		return nil, err
	}
	return &pb.UploadInfo{Upload: u.id, Next: uint32(u.Next()), Locations: here(ctx)}, nil
}

// register makes an upload known, unless another call of its client was first.
func (s *Service) register(u *transfer) *transfer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.uploads {
		if x.spec == u.spec && x.client == u.client && !x.dead() {
			_ = u.Abort() // its file is removed at the next start at the latest
			return x
		}
	}
	s.uploads[u.id] = u
	return u
}

// uploadOf is a client's upload in a round, if one goes on, and how many it
// has in other rounds.
func (s *Service) uploadOf(spec task.Digest, client string) (found *transfer, others int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range s.uploads {
		switch {
		case u.client != client:
		case u.spec != spec:
			others++
		case u.dead():
			delete(s.uploads, id)
		default:
			found = u
		}
	}
	return found, others
}

// giveUp ends a client's uploads in a round.
func (s *Service) giveUp(spec task.Digest, client string) {
	s.mu.Lock()
	var gone []*transfer
	for id, u := range s.uploads {
		if u.spec == spec && u.client == client {
			gone = append(gone, u)
			delete(s.uploads, id)
		}
	}
	s.mu.Unlock()
	for _, u := range gone {
		_ = u.Abort() // its file is removed at the next start at the latest
	}
}

// newTransfer begins an upload that nobody knows of yet.
func (s *Service) newTransfer(ctx context.Context, spec task.Digest, client string,
	g frame.Geometry) (*transfer, error) {
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("naming an upload: %w", errs.ErrInternal)
	}
	u := &transfer{id: hex.EncodeToString(random[:]), client: client, spec: spec}
	u.blob = uploadBlob(spec, client, u.id)
	segment, err := s.c.Blobs.Create(ctx, u.blob)
	if err != nil {
		return nil, err
	}
	if u.Upload, err = NewUpload(g, segment); err != nil {
		return nil, errors.Join(err, segment.Abort())
	}
	return u, nil
}

// here is where the caller sends its frames: for now one location, the address
// under which it reached this aggregator.
func here(ctx context.Context) []string {
	if m, ok := metadata.FromIncomingContext(ctx); ok {
		return m.Get(":authority")
	}
	return nil
}

func (s *Service) transfer(ctx context.Context, id string) (*transfer, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	if u == nil || u.client != caller.Name {
		return nil, errs.ErrUpload
	}
	return u, nil
}

// Upload returns the caller's upload, for Arrow Flight.
func (s *Service) Upload(ctx context.Context, id string) (arrowio.Upload, error) {
	u, err := s.transfer(ctx, id)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// Commit makes a complete upload part of the round and signs its receipt. The
// same commit again gets the same receipt.
func (s *Service) Commit(ctx context.Context, in *pb.CommitRequest) (*pb.Signed, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	var p *place
	var done *commitRow
	if err := s.c.Ledger.View(ctx, func(r storage.Reader) (err error) {
		if p, err = find(ctx, r, in.Spec); err != nil {
			return err
		}
		done, err = getRow[commitRow](r, bucketCommit, commitKey(task.Digest(in.Spec), caller.Name))
		return err
	}); err != nil {
		return nil, err
	}
	if len(in.Root) != len(merkle.Hash{}) {
		return nil, fmt.Errorf("a root of %d bytes: %w", len(in.Root), errs.ErrArgument)
	}
	if done != nil {
		return s.receipt(task.Digest(in.Spec), caller.Name, done, in)
	}
	if err := p.ended(); err != nil {
		return nil, err
	}
	if err := checkDeposit(p, caller.Name, in); err != nil {
		return nil, err
	}
	u, err := s.transfer(ctx, in.Upload)
	if err != nil {
		return nil, err
	}
	if u.spec != task.Digest(in.Spec) {
		return nil, fmt.Errorf("the upload is of another round: %w", errs.ErrUpload)
	}
	if err := u.Upload.Commit(merkle.Hash(in.Root)); err != nil {
		return nil, err
	}
	row := &commitRow{Root: in.Root, Weight: in.Weight, Blob: u.blob, Frames: uint32(u.geometry.Frames()), Bytes: uint64(u.geometry.Size()), Path: u.Path()}
	if err := s.admit(ctx, in, caller.Name, row); err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.uploads, u.id)
	s.mu.Unlock()
	s.signal(p.task.Name)
	return s.receipt(u.spec, caller.Name, row, in)
}

// admit adds a durable contribution to the round, in one transaction with the
// check that the round still takes it. The first starts the deadline.
func (s *Service) admit(ctx context.Context, in *pb.CommitRequest, client string, row *commitRow) error {
	return s.c.Ledger.Update(ctx, func(w storage.Writer) error {
		p, err := find(ctx, w, in.Spec)
		if err != nil {
			return err
		}
		key := commitKey(task.Digest(in.Spec), client)
		before, err := getRow[commitRow](w, bucketCommit, key)
		if err != nil {
			return err
		}
		if before != nil {
			*row = *before // another connection of this client was first
			return nil
		}
		if err := p.ended(); err != nil {
			return err
		}
		if p.row.Ended != "" {
			return fmt.Errorf("%s: %w", p.row.Ended, errs.ErrTaskEnded)
		}
		if p.round.Committed >= p.task.MaxClients {
			return fmt.Errorf("round %d of %s has its %d clients: %w", p.n, p.task.Name, p.round.Committed, errs.ErrNotInCohort)
		}
		if p.round.State == task.RoundKeyed {
			if err := p.round.move(task.RoundCollecting); err != nil {
				return err
			}
			p.round.Deadline = s.c.Now().Add(seconds(p.task.Deadline))
		}
		p.round.Committed++
		if err := putRow(w, bucketRound, roundKey(p.task.Name, p.n), p.round); err != nil {
			return err
		}
		return putRow(w, bucketCommit, key, row)
	})
}

// checkDeposit verifies the key service's receipt: without the deposit the
// round could not be released with this contribution.
func checkDeposit(p *place, client string, in *pb.CommitRequest) error {
	receipt := task.Signed{Bytes: in.Deposit.GetObject(), Signature: in.Deposit.GetSignature()}
	if err := receipt.Verify(p.task.KMS); err != nil {
		return fmt.Errorf("the deposit's receipt: %w", err)
	}
	d, err := task.ParseDeposit(receipt.Bytes)
	if err != nil {
		return err
	}
	spec, err := task.ParseRoundSpec(p.round.Spec)
	if err != nil {
		return err
	}
	if d.Spec != task.Digest(in.Spec) || d.Client != client || d.Root != task.Digest(in.Root) || d.ModelDigest != spec.ModelDigest {
		return fmt.Errorf("the receipt is of another deposit: %w", errs.ErrDeposit)
	}
	if d.Weight != in.Weight && (d.Weight != 0 || in.Weight != 1) {
		return fmt.Errorf("weight %d is committed and %d was deposited: %w", in.Weight, d.Weight, errs.ErrWeight)
	}
	if in.Weight < 1 || in.Weight > p.task.PublicWeightCap() {
		return fmt.Errorf("public weight %d, allowed are 1 to %d: %w", in.Weight, p.task.PublicWeightCap(), errs.ErrWeight)
	}
	return nil
}

// receipt signs what was committed, if it is what the client says.
func (s *Service) receipt(spec task.Digest, client string, row *commitRow, in *pb.CommitRequest) (*pb.Signed, error) {
	if string(row.Root) != string(in.Root) || row.Weight != in.Weight {
		return nil, errs.ErrContribution
	}
	r := task.Sign(&task.Receipt{Spec: spec, Client: client, Root: task.Digest(row.Root), Frames: row.Frames, Bytes: row.Bytes, Weight: row.Weight}, s.c.Signing)
	return &pb.Signed{Object: r.Bytes, Signature: r.Signature}, nil
}

// dropUploads gives up what was not committed when a round stops taking
// contributions.
func (s *Service) dropUploads(spec task.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, u := range s.uploads {
		if u.spec == spec {
			_ = u.Abort() // its file is removed at the next start at the latest
			delete(s.uploads, id)
		}
	}
}
