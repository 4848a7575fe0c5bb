package identity

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cryptflow/cryptflow/go/errs"
)

// DenyListFile is the deny list's name in an authority's folder.
const DenyListFile = "deny.list"

// denyListHead is the first line of every list: what is signed is nothing else.
const denyListHead = "cryptflow deny list 1"

// DenyList names what is refused although its certificate has not expired:
// identities, whatever their certificate, and single certificates by serial
// number. The authority signs it, and numbers its lists.
type DenyList struct {
	Domain  string
	Number  uint64
	Issued  time.Time
	Names   []Identity // ascending
	Serials []string   // hexadecimal, ascending
}

// Serial is a certificate's serial number as a list names it.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// ParseSerial reads a serial number in hexadecimal.
func ParseSerial(s string) (string, error) {
	n, ok := new(big.Int).SetString(strings.ReplaceAll(s, ":", ""), 16)
	if !ok || n.Sign() <= 0 || n.BitLen() > 160 {
		return "", fmt.Errorf("%q is no serial number in hexadecimal; cryptflow ca show prints one: %w", s, errs.ErrArgument)
	}
	return n.Text(16), nil
}

// text is what the authority signs.
func (d *DenyList) text() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nauthority %s\nnumber %d\nissued %s\n", denyListHead, d.Domain, d.Number,
		d.Issued.UTC().Format(time.RFC3339))
	for _, n := range d.Names {
		fmt.Fprintf(&b, "name %s\n", n)
	}
	for _, s := range d.Serials {
		fmt.Fprintf(&b, "serial %s\n", s)
	}
	return b.Bytes()
}

// ParseDenyList reads a list and verifies that the authority signed it. There
// is one byte string for each list.
func ParseDenyList(raw []byte, authority *x509.Certificate) (*DenyList, error) {
	at := bytes.LastIndex(raw, []byte("\nsignature ")) + 1
	if at == 0 || !bytes.HasSuffix(raw, []byte("\n")) {
		return nil, fmt.Errorf("the deny list has no signature; was it cut?: %w", errs.ErrSignature)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(string(raw[at+len("signature ") : len(raw)-1]))
	key, ok := authority.PublicKey.(*ecdsa.PublicKey)
	digest := sha256.Sum256(raw[:at])
	if err != nil || !ok || !ecdsa.VerifyASN1(key, digest[:], signature) {
		return nil, fmt.Errorf("the deny list is not signed by the authority: %w", errs.ErrSignature)
	}
	d, err := parseDenyList(raw[:at])
	if err != nil || !bytes.Equal(d.text(), raw[:at]) {
		return nil, fmt.Errorf("the deny list has another form: %w", errors.Join(err, errs.ErrCanonical))
	}
	return d, nil
}

func parseDenyList(b []byte) (*DenyList, error) {
	d := &DenyList{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		kind, value, _ := strings.Cut(lines.Text(), " ")
		var err error
		switch kind {
		case "cryptflow":
		case "authority":
			d.Domain = value
		case "number":
			d.Number, err = strconv.ParseUint(value, 10, 64)
		case "issued":
			d.Issued, err = time.Parse(time.RFC3339, value)
		case "name":
			var id Identity
			id, err = Parse(value)
			d.Names = append(d.Names, id)
		case "serial":
			var s string
			s, err = ParseSerial(value)
			d.Serials = append(d.Serials, s)
		default:
			err = fmt.Errorf("a line %q: %w", kind, errs.ErrCanonical)
		}
		if err != nil {
			return nil, err
		}
	}
	return d, lines.Err()
}

// Denies returns ErrCertificate when a chain has a certificate that the list
// names.
func (d *DenyList) Denies(chain []*x509.Certificate) error {
	for i, c := range chain {
		if slices.Contains(d.Serials, Serial(c)) {
			return fmt.Errorf("the certificate with serial number %s was revoked: %w", Serial(c), errs.ErrCertificate)
		}
		if i > 0 {
			continue
		}
		if id, err := Of(c); err != nil || slices.Contains(d.Names, id) {
			return errors.Join(err, fmt.Errorf("%s was revoked: %w", id, errs.ErrCertificate))
		}
	}
	return nil
}

// DenyList reads the list in an authority's folder; one that never revoked
// anything has an empty list.
func (a *Authority) DenyList() (*DenyList, error) {
	raw, err := os.ReadFile(filepath.Join(a.folder, DenyListFile))
	if errors.Is(err, fs.ErrNotExist) {
		return &DenyList{Domain: a.Domain}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the deny list: %v: %w", reason(err), errs.ErrConfig)
	}
	return ParseDenyList(raw, a.certificate)
}

// Revoke adds identities and serial numbers to the authority's deny list,
// gives it the next number and writes it, signed, into the authority's folder.
func (a *Authority) Revoke(names []Identity, serials []string, now time.Time) (*DenyList, string, error) {
	d, err := a.DenyList()
	if err != nil {
		return nil, "", err
	}
	for _, n := range names {
		if n.Domain != a.Domain {
			return nil, "", fmt.Errorf("the authority is of %s, not of %s: %w", a.Domain, n.Domain, errs.ErrArgument)
		}
	}
	d.Names, d.Serials = append(d.Names, names...), append(d.Serials, serials...)
	slices.SortFunc(d.Names, func(x, y Identity) int { return strings.Compare(x.String(), y.String()) })
	slices.Sort(d.Serials)
	d.Names, d.Serials = slices.Compact(d.Names), slices.Compact(d.Serials)
	d.Number, d.Issued = d.Number+1, now.UTC().Truncate(time.Second)
	path := filepath.Join(a.folder, DenyListFile)
	return d, path, a.writeDenyList(d, path)
}

// writeDenyList replaces the list with a signed one that is whole or absent.
func (a *Authority) writeDenyList(d *DenyList, path string) error {
	text := d.text()
	digest := sha256.Sum256(text)
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, digest[:])
	if err != nil {
		return fmt.Errorf("signing the deny list: %w", errs.ErrInternal)
	}
	text = fmt.Appendf(text, "signature %s\n", base64.StdEncoding.EncodeToString(signature))
	return replace(path, text, 0o644)
}

// replace writes a file under another name, syncs it and gives it its name.
func replace(path string, content []byte, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %v: %w", path, reason(err), errs.ErrConfig)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %v: %w", path, reason(err), errs.ErrConfig)
		}
	}()
	if _, err = f.Write(content); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
