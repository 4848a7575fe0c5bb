package rpc

import (
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/storage/disk"
)

// withoutRoom are the key service's methods that go on when its disk has no
// more than the reserve: what decides, ends and tells of rounds that are open.
// Whatever is not listed could fill the disk and is refused.
var withoutRoom = map[string]bool{
	keys + "Info": true, keys + "GetTask": true, keys + "GetSpec": true, keys + "Decide": true, keys + "Abort": true,
	keys + "GetDecision": true, keys + "FetchRelease": true, keys + "CloseRound": true, keys + "ReportResult": true,
	keys + "Audit": true, health + "Check": true, health + "Watch": true,
}

// KeepFree refuses calls that store something new while the disk of a folder
// has less than reserve bytes free, so that a decision can always be written.
func KeepFree(folder string, reserve int64) func(method string) error {
	return func(method string) error {
		if withoutRoom[method] {
			return nil
		}
		free, err := disk.Free(folder)
		if err != nil {
			return fmt.Errorf("asking how much disk is free: %w", disk.Error(err))
		}
		if free < reserve {
			return fmt.Errorf("%d MiB are free on the key service's disk, reserve_mib keeps %d MiB for decisions: %w",
				free>>20, reserve>>20, errs.ErrDiskFull)
		}
		return nil
	}
}
