package kms

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/cryptflow/cryptflow/go/audit"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/storage"
	"github.com/cryptflow/cryptflow/go/task"
)

// defaultVerdictWait is how long the next round waits for a published round's
// cohort to say what it opened.
const defaultVerdictWait = 30 * time.Second

// maxWait bounds how long one call waits for others.
const maxWait = 10 * time.Second

// bell wakes everybody who waits for it.
type bell struct {
	mu   sync.Mutex
	rung chan struct{}
}

// wait returns a channel that is closed when the bell rings next. Take it before
// looking at what the bell announces.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung == nil {
		b.rung = make(chan struct{})
	}
	return b.rung
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rung != nil {
		close(b.rung)
		b.rung = nil
	}
}

// reportRow is a client's report as it is kept: the signature and the
// certificate that it verifies under are evidence.
type reportRow struct {
	Report      []byte `json:"report"`
	Signature   []byte `json:"signature"`
	Certificate []byte `json:"certificate"`
}

// ReportResult takes a client's signed word on what it opened and answers with
// the verdict of the cohort's majority, for which it waits some seconds.
// Disagreement is an alarm, in whatever order reports and results come. When the
// whole cohort has reported, the round's keys go.
func (s *Service) ReportResult(ctx context.Context, in *pb.ReportRequest) (*pb.ReportReply, error) {
	caller, err := rpc.Caller(ctx)
	if err != nil {
		return nil, err
	}
	report, err := task.ParseReport(in.Report)
	if err != nil {
		return nil, fmt.Errorf("%w; a client of an older version reports otherwise, update it", err)
	}
	if report.Client != caller.Name {
		return nil, fmt.Errorf("a report of %s sent by %s: %w", report.Client, caller.Name, errs.ErrDenied)
	}
	certificate, err := rpc.VerifyCaller(ctx, in.Report, in.Signature)
	if err != nil {
		return nil, err
	}
	row := reportRow{Report: in.Report, Signature: in.Signature, Certificate: certificate}
	if err := s.take(ctx, report, &row); err != nil {
		return nil, err
	}
	s.reported.ring()
	deadline := time.NewTimer(min(maxWait, time.Duration(in.Seconds)*time.Second))
	defer deadline.Stop()
	for {
		rung := s.reported.wait()
		reply, err := s.verdictReply(ctx, report.Spec, in.KnownSize)
		if err != nil || reply.Verdict != nil {
			return reply, err
		}
		select {
		case <-rung:
		case <-deadline.C:
			return reply, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take stores a report, once, and draws the verdict when it can.
func (s *Service) take(ctx context.Context, report *task.Report, row *reportRow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.update(ctx, func(w storage.Writer) error {
		x, err := s.member(ctx, w, report.Spec)
		if err != nil {
			return err
		}
		if x.Manifest == nil {
			return fmt.Errorf("round %d of %s was not released: %w", x.Round, x.Task, errs.ErrState)
		}
		m, err := task.ParseManifest(x.Manifest)
		if err != nil {
			return err
		}
		if !contains(m, report.Client) {
			return fmt.Errorf("round %d of %s: %w", x.Round, x.Task, errs.ErrNotInCohort)
		}
		key := report.Spec.String() + "/" + report.Client
		before, err := w.Get(bucketReport, key)
		if err != nil || before != nil || x.Destroyed {
			return err
		}
		b, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("a report: %w", errs.ErrInternal)
		}
		if err := w.Put(bucketReport, key, b); err != nil {
			return err
		}
		reports, err := reportsOf(w, report.Spec)
		if err != nil {
			return err
		}
		if err := s.alarm(w, report.Spec, x, reports, report); err != nil {
			return err
		}
		if err := s.judge(w, report.Spec, x, reports, len(m.Entries), false); err != nil {
			return err
		}
		if len(reports) < len(m.Entries) || (x.Result == nil && x.Verdict == nil) {
			return putRound(w, report.Spec, x)
		}
		return s.destroy(w, report.Spec, x, "the whole cohort has reported")
	})
}

func reportsOf(r storage.Reader, spec task.Digest) (out []task.Report, err error) {
	return out, r.List(bucketReport, spec.String()+"/", func(_ string, b []byte) error {
		var row reportRow
		if err := json.Unmarshal(b, &row); err != nil {
			return fmt.Errorf("a report: %w", errs.ErrStorage)
		}
		report, err := task.ParseReport(row.Report)
		if err != nil {
			return err
		}
		out = append(out, *report)
		return nil
	})
}

// alarm records that a client's report differs from another's, or from the
// aggregator's result.
func (s *Service) alarm(
	w storage.Writer, spec task.Digest, x *round, reports []task.Report, report *task.Report,
) error {
	with := ""
	for _, other := range reports {
		if other.Opening != report.Opening || other.Sums != report.Sums || other.Result != report.Result {
			with = "client " + other.Client
			break
		}
	}
	if x.Result != nil && report.Opening == task.Opened && sha256.Sum256(x.Result) != report.Result {
		with = "the aggregator's published result"
	}
	if with == "" {
		return nil
	}
	s.c.Noticed(NoticedDisagreement, 1)
	s.c.Log.Error("what a client opened differs from others",
		"task", x.Task, "round", x.Round, "client", report.Client, "with", with)
	_, err := s.record(w, audit.Record{
		Event: audit.Disagreement, Task: x.Task, Round: x.Round, Spec: spec.String(), By: report.Client,
		Detail: fmt.Sprintf("%v, result %s, sums %s; differs from %s", report.Opening, report.Result, report.Sums, with),
	})
	return err
}

// compareReports raises the alarm for reports that came before the result.
func (s *Service) compareReports(w storage.Writer, spec task.Digest, x *round) error {
	reports, err := reportsOf(w, spec)
	if err != nil {
		return err
	}
	result := task.Digest(sha256.Sum256(x.Result))
	for _, r := range reports {
		if r.Opening == task.Opened && r.Result != result {
			if err := s.alarm(w, spec, x, nil, &r); err != nil {
				return err
			}
		}
	}
	return nil
}

// verdictReply is the verdict with its proof; empty while there is none.
func (s *Service) verdictReply(ctx context.Context, spec task.Digest, known int64) (out *pb.ReportReply, err error) {
	out = &pb.ReportReply{}
	return out, s.view(ctx, func(r storage.Reader) error {
		x, err := s.member(ctx, r, spec)
		if err != nil || x.Verdict == nil {
			return err
		}
		out.Verdict = &pb.Signed{Object: x.Verdict, Signature: x.VerdictBy}
		out.Proof, err = s.proof(r, x.VerdictRecord, known)
		return err
	})
}
