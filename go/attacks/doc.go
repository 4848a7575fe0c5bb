// Package attacks holds what somebody with a certificate does to break running
// services, one test an attack, named after what the attacker does.
// docs/attacks.md lists them. Everything is real: processes, mutual TLS, disks.
package attacks
