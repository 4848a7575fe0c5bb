package rpc

import (
	"github.com/cryptflow/cryptflow/go/identity"
)

const (
	aggregator = "/cryptflow.v1.AggregatorService/"
	keys       = "/cryptflow.v1.KeyService/"
	flight     = "/arrow.flight.protocol.FlightService/"
	health     = "/grpc.health.v1.Health/"
)

var (
	everyone   = identity.Roles()
	clients    = []identity.Role{identity.Client}
	admins     = []identity.Role{identity.Admin}
	theSums    = []identity.Role{identity.Aggregator}
	clientsAnd = []identity.Role{identity.Client, identity.Admin}
)

// AggregatorTable says who may call what on an aggregator's port.
func AggregatorTable() identity.Table {
	return identity.Table{
		aggregator + "Info":        everyone,
		aggregator + "CreateTask":  admins,
		aggregator + "ListTasks":   admins,
		aggregator + "GetTask":     clientsAnd,
		aggregator + "AbortTask":   admins,
		aggregator + "Watch":       clientsAnd,
		aggregator + "PutModel":    admins,
		aggregator + "GetModel":    clientsAnd,
		aggregator + "AwaitRound":  clientsAnd,
		aggregator + "BeginUpload": clients,
		aggregator + "Commit":      clients,
		aggregator + "GetResult":   clientsAnd,
		flight + "DoPut":           clients,
		flight + "DoGet":           clients,
		health + "Check":           everyone,
		health + "Watch":           everyone,
	}
}

// KeyTable says who may call what on a key service's port. What carries key
// material is for clients only: the aggregator's role is refused here, before
// any policy is asked.
func KeyTable() identity.Table {
	return identity.Table{
		keys + "Info":         everyone,
		keys + "CreateTask":   admins,
		keys + "GetTask":      {identity.Client, identity.Admin, identity.Aggregator},
		keys + "OpenRound":    theSums,
		keys + "GetSpec":      {identity.Client, identity.Aggregator},
		keys + "Announce":     clients,
		keys + "Deposit":      clients,
		keys + "Decide":       theSums,
		keys + "Abort":        {identity.Aggregator, identity.Admin},
		keys + "GetDecision":  {identity.Client, identity.Aggregator, identity.Admin},
		keys + "FetchRelease": clients,
		keys + "CloseRound":   theSums,
		keys + "ReportResult": clients,
		keys + "Audit":        admins,
		health + "Check":      everyone,
		health + "Watch":      everyone,
	}
}
