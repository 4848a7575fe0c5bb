package client

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"time"

	"google.golang.org/grpc"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/params"
	"github.com/cryptflow/cryptflow/go/task"
)

// Dial connects as a profile says; name overrides its task. Options are added to
// both connections.
func Dial(
	ctx context.Context, p *config.Profile, name string, threads int, options ...grpc.DialOption,
) (*Client, error) {
	c, err := p.Credentials.Load(time.Now())
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = p.Task
	}
	if name == "" {
		return nil, fmt.Errorf("no task is named; set task in the profile or CRYPTFLOW_TASK: %w", errs.ErrConfig)
	}
	if p.AdminKey == "" {
		return nil, fmt.Errorf("admin_key is not set: without it nobody vouches for the task; ask the admin for it: %w", errs.ErrConfig)
	}
	key, err := config.ParseKey(p.AdminKey)
	if err != nil {
		return nil, err
	}
	return Connect(ctx, Config{Aggregator: p.Aggregator, KMS: p.KMS, Task: name, Credentials: c, Admin: key, Threads: threads, Dial: options})
}

// AdminOf prepares an admin's connections as a profile says.
func AdminOf(p *config.Profile) (*Admin, error) {
	c, err := p.Credentials.Load(time.Now())
	if err != nil {
		return nil, err
	}
	if c.Self.Role != identity.Admin {
		return nil, fmt.Errorf("%s is the certificate of %s, not of an admin: %w", p.Certificate, c.Self, errs.ErrCertificate)
	}
	var signing ed25519.PrivateKey
	if p.SigningKey != "" {
		if signing, err = identity.OpenSigning(p.SigningKey, false); err != nil {
			return nil, err
		}
	}
	return NewAdmin(p.Aggregator, p.KMS, c, signing)
}

// ReadModel reads a first model from a file of little-endian float32 values,
// or makes one of zeros when path is empty.
func ReadModel(path string, layout []TensorSpec) ([]float32, error) {
	n := int64(0)
	for _, t := range layout {
		if n += (task.Tensor{Shape: t.Shape}).Count(); n > params.MaxValues {
			return nil, fmt.Errorf("more than %d values: %w", int64(params.MaxValues), errs.ErrLayout)
		}
	}
	out := make([]float32, n)
	if path == "" {
		return out, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("the first model: %v: %w", err, errs.ErrArgument)
	}
	if int64(len(raw)) != 4*n {
		return nil, fmt.Errorf("%s has %d bytes, a model of this layout %d: %w", path, len(raw), 4*n, errs.ErrLayout)
	}
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}
