package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
	"github.com/cryptflow/cryptflow/go/rpc"
	"github.com/cryptflow/cryptflow/go/service"
)

// untilSignal is a context that ends with SIGINT or SIGTERM.
func untilSignal(c *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.Context(), syscall.SIGINT, syscall.SIGTERM)
}

func aggregatorCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "aggregator", Short: "Run an aggregator: it adds ciphertexts and holds no key", Args: cobra.NoArgs,
		Example: "  cryptflow aggregator --config aggregator.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.LoadAggregator(file)
			if err != nil {
				return err
			}
			log, err := service.NewLogger(conf.Log, "aggregator")
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(c)
			defer cancel()
			r, err := service.StartAggregator(conf, version, log)
			if err != nil {
				return err
			}
			return r.Wait(ctx)
		},
	}
	c.Flags().StringVar(&file, "config", "aggregator.toml", "configuration file")
	return c
}

func kmsCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "kms", Short: "Run a key service: it releases a round's key for whole cohorts, to clients", Args: cobra.NoArgs,
		Example: "  cryptflow kms --config kms.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.LoadKMS(file)
			if err != nil {
				return err
			}
			log, err := service.NewLogger(conf.Log, "kms")
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(c)
			defer cancel()
			r, err := service.StartKMS(conf, version, log)
			if err != nil {
				return err
			}
			return r.Wait(ctx)
		},
	}
	c.PersistentFlags().StringVar(&file, "config", "kms.toml", "configuration file")
	c.AddCommand(rotateCommand(&file), recoverCommand(&file))
	return c
}

func upCommand() *cobra.Command {
	var folder string
	var attached bool
	plan := service.Plan{}
	c := &cobra.Command{
		Use: "up", Short: "Run everything for one machine: aggregator, key service, certificates, profiles", Args: cobra.NoArgs,
		Long:    "Runs an aggregator and a key service as two child processes from one data folder, with\ncertificates of an authority of its own and one profile for every client.\nWhoever has the folder has every role: for development and trying out.",
		Example: "  cryptflow up --clients 3",
		RunE: func(c *cobra.Command, _ []string) error {
			if plan.Clients < 1 || plan.Clients > 4096 {
				return fmt.Errorf("--clients is %d; it reaches from 1 to 4096: %w", plan.Clients, errs.ErrArgument)
			}
			h, err := service.OpenHouse(folder, plan)
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(c)
			defer cancel()
			if attached {
				go func() {
					_, _ = io.Copy(io.Discard, os.Stdin) // returns when the parent is gone
					cancel()
				}()
			}
			return up(ctx, h, c.OutOrStdout(), c.ErrOrStderr())
		},
	}
	c.Flags().StringVar(&folder, "data", "cryptflow-data", "folder of everything")
	c.Flags().IntVar(&plan.Clients, "clients", 3, "client profiles to write")
	c.Flags().Uint32Var(&plan.Floor, "floor", 3, "smallest cohort that the key service ever releases")
	c.Flags().IntVar(&plan.Port, "port", 7443, "port of the aggregator in a new folder, the key service has the next; 0: free ones")
	c.Flags().StringVar(&plan.Log, "log", "info", "debug, info, warn or error")
	c.Flags().BoolVar(&attached, "attached", false, "stop when standard input closes")
	c.Flags().StringVar(&plan.Task, "task", "", "task that the clients' profiles name")
	return c
}

// up runs both services until the context ends or one of them does.
func up(ctx context.Context, h *service.House, out, log io.Writer) error {
	if err := unused(h); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %v: %w", err, errs.ErrInternal)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type ended struct {
		name string
		err  error
	}
	ends := make(chan ended, 2)
	for _, child := range [][]string{{"kms", "--config", h.KMS}, {"aggregator", "--config", h.Aggregator}} {
		p := exec.CommandContext(ctx, self, child...)
		p.Stdout, p.Stderr = log, log
		p.Cancel = func() error { return p.Process.Signal(syscall.SIGTERM) }
		p.WaitDelay = 20 * time.Second
		p.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
		if err := start(p); err != nil {
			cancel(err)
			return fmt.Errorf("starting %s: %v: %w", child[0], err, errs.ErrInternal)
		}
		go func() { ends <- ended{child[0], p.Wait()} }()
	}
	ready := make(chan error, 1)
	go func() { ready <- await(ctx, h) }()
	left := 2
	var failed error
	for left > 0 {
		select {
		case err := <-ready:
			ready = nil
			if err == nil {
				announce(out, h)
			} else if ctx.Err() == nil {
				failed = err
				cancel(err)
			}
		case e := <-ends:
			left--
			if ctx.Err() == nil {
				failed = fmt.Errorf("the %s ended by itself (%v); its log says why: %w", e.name, e.err, errs.ErrInternal)
				cancel(failed)
			}
		}
	}
	return failed
}

// unused refuses before anything runs when a port of the house is taken: who
// has it may be another up, whose health would pass for that of these services.
func unused(h *service.House) error {
	k, err := config.LoadKMS(h.KMS)
	if err != nil {
		return err
	}
	a, err := config.LoadAggregator(h.Aggregator)
	if err != nil {
		return err
	}
	for _, address := range []string{a.Listen, k.Listen, a.Admin, k.Admin} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("%s of %s cannot be taken (%v); stop what listens there, another cryptflow up perhaps, or begin another folder with free ports: --data FOLDER --port 0: %w", address, short(h.Folder), bare(err), errs.ErrConfig)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("%s: %v: %w", address, err, errs.ErrInternal)
		}
	}
	return nil
}

// bare is the system's reason without the call and the address.
func bare(err error) error {
	var e *os.SyscallError
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// start runs a child from a thread that lives as long as it: the kernel sends
// the death signal when the thread ends that made the child.
func start(p *exec.Cmd) error {
	done := make(chan error, 1)
	go func() {
		lockThread()
		done <- p.Start()
		select {} // keep the thread
	}()
	return <-done
}

// await asks both services for their health until they answer.
func await(ctx context.Context, h *service.House) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := config.LoadProfile(h.Admin)
	if err != nil {
		return err
	}
	c, err := p.Credentials.Load(time.Now())
	if err != nil {
		return err
	}
	for _, s := range []struct {
		address string
		role    identity.Role
	}{{p.KMS, identity.KMS}, {p.Aggregator, identity.Aggregator}} {
		conn, err := rpc.Dial(s.address, c, s.role, true)
		if err != nil {
			return err
		}
		for {
			_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
			if err == nil || ctx.Err() != nil {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
		if err = errors.Join(rpc.FromStatus(err, string(s.role)), conn.Close()); err != nil {
			return err
		}
	}
	return nil
}

func announce(out io.Writer, h *service.House) {
	p, _ := config.LoadProfile(h.Admin)
	fmt.Fprintf(out, "CryptFlow is up.\n")
	fmt.Fprintf(out, "  aggregator   %s\n  key service  %s\n", p.Aggregator, p.KMS)
	fmt.Fprintf(out, "  admin        %s\n", short(h.Admin))
	for _, c := range h.Clients {
		fmt.Fprintf(out, "  client       %s\n", short(c))
	}
	fmt.Fprintf(out, "Stop with Ctrl-C.\n")
}

// short is a path as seen from here, where that is shorter.
func short(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
