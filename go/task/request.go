package task

// OpenRequest is what the aggregator of a task signs to have a round's
// specification signed: no other aggregator can open the task's rounds.
type OpenRequest struct {
	Task  Digest
	Round uint32
	Model Digest // that the round starts from
}

const tagOpenRequest = "cryptflow/v1/open-request"

// Canonical bytes.
func (x *OpenRequest) Canonical() []byte {
	w := start(tagOpenRequest)
	w.fixed(x.Task)
	w.u32(x.Round)
	w.fixed(x.Model)
	return w.b
}

// AbortRequest is what the aggregator of a task, or an admin, signs to have a
// round given up.
type AbortRequest struct {
	Task   Digest
	Round  uint32
	Spec   Digest
	Reason string
}

const tagAbortRequest = "cryptflow/v1/abort-request"

// Canonical bytes.
func (x *AbortRequest) Canonical() []byte {
	w := start(tagAbortRequest)
	w.fixed(x.Task)
	w.u32(x.Round)
	w.fixed(x.Spec)
	w.text(x.Reason)
	return w.b
}
