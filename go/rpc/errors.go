// Package rpc is what every service and client of the system has in common on
// the wire: generated code (pb), errors that keep their code across a
// connection, the interceptors that know the caller and refuse what the table
// does not allow, and how connections are dialled.
//
// # Security
//
// Requests are refused unless the table lists the caller's role for the
// method. A handler that panics answers an error and the process goes on.
// What a caller is told of an internal error is its code; the log has the
// rest.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cryptflow/cryptflow/go/errs"
)

var codeOf = map[errs.Kind]codes.Code{
	errs.Internal:    codes.Internal,
	errs.Invalid:     codes.InvalidArgument,
	errs.Denied:      codes.PermissionDenied,
	errs.NotFound:    codes.NotFound,
	errs.Conflict:    codes.FailedPrecondition,
	errs.Unavailable: codes.Unavailable,
	errs.Exhausted:   codes.ResourceExhausted,
	errs.Corrupt:     codes.InvalidArgument,
}

// ToStatus is the form in which an error leaves a service: a gRPC code and
// "CF_CODE: text". Details of internal errors stay behind.
func ToStatus(err error) error {
	if err == nil {
		return nil
	}
	found := errs.Find(err)
	text := errs.Format(err)
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, errs.Format(errs.ErrCancelled))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, errs.Format(errs.ErrTimeout))
	case found.Kind == errs.Internal:
		if s, ok := status.FromError(err); ok && s.Code() != codes.Unknown {
			return err // of the transport itself
		}
		text = errs.Format(found)
	}
	return status.Error(codeOf[found.Kind], text)
}

// FromStatus is the inverse on the caller's side; service says who was called.
func FromStatus(err error, service string) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if known := errs.Parse(s.Message()); known != nil {
		return known
	}
	text := plain(s.Message())
	switch {
	case strings.Contains(text, "first record does not look like a TLS handshake"):
		return fmt.Errorf("what answers at the %s's address does not speak TLS; dial its listen, not its admin_listen: %w", service, errs.ErrConfig)
	case strings.Contains(text, "tls: ") || strings.Contains(text, "x509: ") || strings.Contains(text, errs.ErrCertificate.Text):
		return fmt.Errorf("the %s and this client do not accept each other's certificates (%s); %s: %w", service, text, remedy(text), errs.ErrCertificate)
	case s.Code() == codes.Canceled:
		return fmt.Errorf("calling the %s: %w", service, errs.ErrCancelled)
	case s.Code() == codes.DeadlineExceeded:
		return fmt.Errorf("the %s did not answer in time: %w", service, errs.ErrTimeout)
	case s.Code() == codes.Unavailable:
		return fmt.Errorf("the %s cannot be reached (%s); does it run, and is its address right?: %w", service, text, errs.ErrUnavailable)
	case s.Code() == codes.ResourceExhausted:
		return fmt.Errorf("the %s: %s: %w", service, text, errs.ErrLimit)
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("the %s does not know this call (%s); are versions alike?: %w", service, text, errs.ErrArgument)
	}
	return fmt.Errorf("the %s: %s: %w", service, text, errs.ErrInternal)
}

// plain is a message of the transport without the layers that it went through:
// of several attempts what the last one met.
func plain(text string) string {
	if _, last, ok := strings.Cut(text, "failed after "); ok {
		if _, rest, ok := strings.Cut(last, "desc = "); ok {
			text = rest
		}
	}
	if rest, ok := strings.CutPrefix(text, "connection error: desc = "); ok {
		text = rest
		if unquoted, err := strconv.Unquote(rest); err == nil {
			text = unquoted
		}
	}
	for _, layer := range []string{"transport: ", "Error while dialing: ", "authentication handshake failed: "} {
		text = strings.TrimPrefix(text, layer)
	}
	if text == "name resolver error: produced zero addresses" {
		return "no address is known for its name"
	}
	return text
}

// remedy says what to do about certificates that were not accepted.
func remedy(text string) string {
	switch {
	case strings.Contains(text, "was expected"):
		return "are the addresses of aggregator and key service exchanged?"
	case strings.Contains(text, "unknown authority") || strings.Contains(text, "unknown certificate authority"):
		return "authority must name the same ca.crt on both sides"
	case strings.Contains(text, "x509: ") && (strings.Contains(text, "SANs") || strings.Contains(text, "is valid for") || strings.Contains(text, "not valid for any names")):
		return "dial it by a name of its certificate, or issue one with --host for this address"
	}
	return "look at both with cryptflow ca show"
}
