package rpc

import (
	"encoding/binary"
	"fmt"

	"github.com/cryptflow/cryptflow/go/errs"
)

// ticketSize is a specification's digest and a range of frames.
const ticketSize = 32 + 4 + 4

// Ticket asks over Flight for the frames [from, to) of a round's result.
func Ticket(spec [32]byte, from, to int) []byte {
	b := append(make([]byte, 0, ticketSize), spec[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(from))
	return binary.LittleEndian.AppendUint32(b, uint32(to))
}

// ParseTicket is the strict inverse of Ticket.
func ParseTicket(b []byte) (spec [32]byte, from, to int, err error) {
	if len(b) != ticketSize {
		return spec, 0, 0, fmt.Errorf("a ticket of %d bytes: %w", len(b), errs.ErrArgument)
	}
	return [32]byte(b), int(binary.LittleEndian.Uint32(b[32:])), int(binary.LittleEndian.Uint32(b[36:])), nil
}
