package service

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/identity"
)

// House is everything that one machine needs, in one folder: an authority,
// certificates, both services' configurations and data, and one profile for
// every client and the admin. It is for development, tests and trying out;
// whoever has the folder has every role.
type House struct {
	Folder     string
	Aggregator string   // configuration
	KMS        string   // configuration
	Admin      string   // profile
	Clients    []string // profiles
}

// Plan is how a house is laid out when it is made.
type Plan struct {
	Clients int
	Floor   uint32
	Port    int // of the aggregator; the key service has the next. 0: free ones
	Log     string
	Task    string // that the clients' profiles name
}

const (
	domain   = "cryptflow.local"
	lifetime = 365 * 24 * time.Hour
	denyList = "../ca/" + identity.DenyListFile
)

// ClientName is the name of a house's client.
func ClientName(i int) string { return "client-" + strconv.Itoa(i) }

// house names the files.
func house(folder string) *House {
	return &House{
		Folder:     folder,
		Aggregator: filepath.Join(folder, "aggregator", "aggregator.toml"),
		KMS:        filepath.Join(folder, "kms", "kms.toml"),
		Admin:      filepath.Join(folder, "profiles", "admin.toml"),
	}
}

// OpenHouse makes a house in an empty or new folder, or opens the one there.
// Clients are added when the plan has more than there are.
func OpenHouse(folder string, p Plan) (*House, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return nil, fmt.Errorf("%s: %v: %w", folder, err, errs.ErrConfig)
	}
	h := house(folder)
	if _, err := os.Stat(h.Admin); errors.Is(err, fs.ErrNotExist) {
		if err := h.build(p); err != nil {
			return nil, err
		}
	}
	admin, err := config.LoadProfile(h.Admin)
	if err != nil {
		return nil, err
	}
	ca, err := identity.OpenAuthority(filepath.Join(folder, "ca"))
	if err != nil {
		return nil, err
	}
	for i := range p.Clients {
		profile := filepath.Join(folder, "profiles", ClientName(i)+".toml")
		if _, err := os.Stat(profile); errors.Is(err, fs.ErrNotExist) {
			c := config.Profile{Aggregator: admin.Aggregator, KMS: admin.KMS, Task: p.Task, AdminKey: admin.AdminKey}
			if c.Credentials, err = h.issue(ca, identity.Client, ClientName(i), "profiles"); err != nil {
				return nil, err
			}
			if err := config.Write(profile, "Profile of "+ClientName(i)+": cryptflow.connect(profile=...)", c); err != nil {
				return nil, err
			}
		}
		h.Clients = append(h.Clients, profile)
	}
	return h, nil
}

// issue writes a certificate into a folder of the house and names its files
// relative to it.
func (h *House) issue(ca *identity.Authority, role identity.Role, name, sub string) (c config.Credentials, err error) {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	if role == identity.Client || role == identity.Admin {
		hosts = nil
	}
	crt, key, err := ca.Issue(filepath.Join(h.Folder, sub), identity.Identity{Domain: domain, Role: role, Name: name}, hosts, lifetime, time.Now())
	if err != nil {
		return c, err
	}
	return config.Credentials{Certificate: filepath.Base(crt), Key: filepath.Base(key), Authority: "../ca/ca.crt"}, nil
}

func (h *House) build(p Plan) error {
	for _, sub := range []string{"aggregator", "kms", "profiles", "kek"} {
		if err := os.MkdirAll(filepath.Join(h.Folder, sub), 0o700); err != nil {
			return fmt.Errorf("making %s: %v: %w", h.Folder, err, errs.ErrConfig)
		}
	}
	// Keys do not travel with a checkout that the folder lies in.
	if err := os.WriteFile(filepath.Join(h.Folder, ".gitignore"), []byte("*\n"), 0o600); err != nil {
		return fmt.Errorf("making %s: %v: %w", h.Folder, err, errs.ErrConfig)
	}
	ca, err := identity.NewAuthority(filepath.Join(h.Folder, "ca"), domain, 10*lifetime, time.Now())
	if err != nil {
		return err
	}
	ports, err := choose(p.Port)
	if err != nil {
		return err
	}
	address := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	signing, err := identity.OpenSigning(filepath.Join(h.Folder, "profiles", "admin.signing.pem"), true)
	if err != nil {
		return err
	}
	of := func(listen, admin int) config.Service {
		return config.Service{
			Listen: address(listen), Admin: address(admin), Data: "data", DenyList: denyList, Log: p.Log,
			AdminKeys: []string{identity.SigningName(signing)},
		}
	}
	k := &config.KMS{
		Service: of(1, 3), Floor: p.Floor, KEK: "../kek/kms.kek",
		ReleaseSeconds: 3600, RoundSeconds: 3600, ReserveMiB: 64,
	}
	if k.Credentials, err = h.issue(ca, identity.KMS, "kms", "kms"); err != nil {
		return err
	}
	if err := config.Write(h.KMS, "Key service: cryptflow kms --config "+h.KMS, k); err != nil {
		return err
	}
	a := &config.Aggregator{Service: of(0, 2), KMS: address(1), Streams: 4, ReserveMiB: 256}
	if a.Credentials, err = h.issue(ca, identity.Aggregator, "aggregator", "aggregator"); err != nil {
		return err
	}
	if err := config.Write(h.Aggregator, "Aggregator: cryptflow aggregator --config "+h.Aggregator, a); err != nil {
		return err
	}
	admin := config.Profile{Aggregator: address(0), KMS: address(1), AdminKey: k.AdminKeys[0], SigningKey: "admin.signing.pem"}
	if admin.Credentials, err = h.issue(ca, identity.Admin, "admin", "profiles"); err != nil {
		return err
	}
	return config.Write(h.Admin, "Profile of the admin: cryptflow task ... --profile "+h.Admin, admin)
}

// choose names four ports: two for callers, two for health and metrics.
func choose(port int) (ports [4]int, err error) {
	var held []net.Listener
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
	}()
	for i := range ports {
		if port != 0 {
			ports[i] = port + i
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return ports, fmt.Errorf("looking for a free port: %v: %w", err, errs.ErrConfig)
		}
		held = append(held, l)
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
