package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/rpc/pb"
	"github.com/cryptflow/cryptflow/go/task"
)

// What task show says of a first model follows from who keeps it.
func TestATaskSaysWhereItsFirstModelIs(t *testing.T) {
	x := &task.Task{
		Name: "t", Mode: 1, Preset: "n4096-q102", Bits: 16, Rounding: 1, Encoding: 1, Ranges: task.RangesFixed,
		Layout: task.Layout{{Name: "a", Shape: []uint64{5}, Range: 1}}, WeightCap: 10,
		Members:    []task.Member{{Name: "a", Organisation: "a"}, {Name: "b", Organisation: "b"}},
		MaxClients: 2, MinCohort: 2, Deadline: 1, Rounds: 1,
	}
	for want, s := range map[string]*pb.TaskStatus{
		"first model missing":          {Round: &pb.RoundStatus{State: pb.RoundState_CREATED, Reason: "waiting for its first model"}},
		"first model with the clients": {Round: &pb.RoundStatus{State: pb.RoundState_KEYED}},
		"first model stored":           {Round: &pb.RoundStatus{State: pb.RoundState_KEYED}, HasModel: true},
	} {
		s.Task = &pb.Signed{Object: x.Canonical()}
		var out bytes.Buffer
		if err := printTask(&out, s); err != nil {
			t.Fatal(err)
		}
		waits := strings.Contains(out.String(), "waiting for its first model: create it again")
		if !strings.Contains(out.String(), want) || waits != (want == "first model missing") {
			t.Errorf("%s:\n%s", want, &out)
		}
	}
}
