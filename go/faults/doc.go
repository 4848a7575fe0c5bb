// Package faults holds the suites that break things: services killed at random
// moments, and the memory that they need under load. Everything is real:
// processes, mutual TLS, disks.
package faults
