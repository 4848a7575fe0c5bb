package rpc

import (
	"strings"
	"time"

	"github.com/cryptflow/cryptflow/go/identity"
)

// Limits are what one identity can hold of a service, whatever it does, so
// that no certificate can take a service from the others.
type Limits struct {
	// Connections of one identity. One more closes the one of it that has been
	// silent longest.
	Connections int
	// Calls of one identity that are open at once. One more is refused.
	Calls int
	// Transfers of one identity that are open at once. One more ends its
	// oldest.
	Transfers int
	// Handshakes of strangers at once. One more ends the oldest.
	Handshakes int
	// First is how long a call may take to bring its first message.
	First time.Duration
}

// DefaultLimits are those of both services. A client needs two connections,
// one transfer and two calls; the rest is for restarts and several tasks.
func DefaultLimits() Limits {
	return Limits{Connections: 4, Calls: 2 * maxStreams, Transfers: 3, Handshakes: 128, First: 10 * time.Second}
}

// smallMessage is the largest request that a method for clients needs: a
// deposit has four kilobytes.
const smallMessage = 16 << 10

// framing is what gRPC and HTTP/2 add to a message.
const framing = 1 << 10

// messageLimit is how many bytes a caller may send in one call of a method.
// What has the size of a cohort or of a model comes from aggregators and
// admins.
func messageLimit(id identity.Identity, method string) int64 {
	switch {
	case method == flight+"DoPut", method == aggregator+"PutModel":
		return unlimited // message by message, each of MaxMessage at most
	case id.Role == identity.Aggregator && method == keys+"Decide":
		return MaxDecide + framing
	case id.Role == identity.Aggregator, id.Role == identity.Admin && strings.HasSuffix(method, "/CreateTask"):
		return MaxMessage + framing
	}
	return smallMessage + framing
}

// isTransfer tells the methods that move frames and models, and need memory
// for it.
func isTransfer(method string) bool {
	return strings.HasPrefix(method, flight) || method == aggregator+"GetModel" || method == aggregator+"PutModel"
}
