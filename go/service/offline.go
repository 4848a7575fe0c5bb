package service

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/kms"
	"github.com/cryptflow/cryptflow/go/storage/sqlite"
)

// prepareKMS opens what a key service runs with. The ledger is open, and with it
// the data folder is this process's alone.
func prepareKMS(c *config.KMS, name, version string, log *slog.Logger) (*kms.Config, error) {
	admins, err := c.Admins()
	if err != nil {
		return nil, err
	}
	signing, err := identity.OpenSigning(filepath.Join(c.Data, "signing.pem"), true)
	if err != nil {
		return nil, err
	}
	if err := kms.CheckKEK(c.KEK); err != nil {
		return nil, err
	}
	kek, err := kms.OpenKEK(c.KEK)
	if err != nil {
		return nil, err
	}
	ledger, err := sqlite.Open(filepath.Join(c.Data, "ledger.db"))
	if err != nil {
		return nil, err
	}
	return &kms.Config{
		Name: name, Version: version, Signing: signing, Admins: admins,
		Gate: kms.Gate{Floor: c.Floor}, Ledger: ledger, Keys: keysOf(c), Epoch: c.Epoch, Wrapper: kek,
		ReleaseLife: time.Duration(c.ReleaseSeconds) * time.Second, RoundLife: time.Duration(c.RoundSeconds) * time.Second, Log: log,
	}, nil
}

func keysOf(c *config.KMS) string { return filepath.Join(c.Data, "keys") }

// RecoverKMS makes the key service of a restored ledger serve again; see
// [kms.Recover]. The service must not run.
func RecoverKMS(ctx context.Context, c *config.KMS, log *slog.Logger) (tasks int, err error) {
	credentials, err := c.Credentials.Load(time.Now())
	if err != nil {
		return 0, err
	}
	prepared, err := prepareKMS(c, credentials.Self.Name, "", log)
	if err != nil {
		return 0, err
	}
	tasks, err = kms.Recover(ctx, *prepared)
	return tasks, errors.Join(err, prepared.Ledger.Close())
}

// RotateKEK changes a key service's key-encryption key; see [kms.RotateKEK]. The
// service must not run.
func RotateKEK(c *config.KMS) (keys int, err error) {
	ledger, err := sqlite.Open(filepath.Join(c.Data, "ledger.db")) // holds the data folder
	if err != nil {
		return 0, err
	}
	keys, err = kms.RotateKEK(c.KEK, keysOf(c))
	return keys, errors.Join(err, ledger.Close())
}
