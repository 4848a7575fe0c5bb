package main

import (
	_ "github.com/apache/arrow/go/v15/arrow/cdata"
	_ "github.com/apache/arrow/go/v15/arrow/flight"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/rogpeppe/go-internal/testscript"
	_ "github.com/spf13/cobra"
	_ "github.com/spiffe/go-spiffe/v2/spiffeid"
	_ "github.com/tuneinsight/lattigo/v5/he/hefloat"
	_ "go.uber.org/goleak"
	_ "golang.org/x/crypto/hkdf"
	_ "golang.org/x/mod/sumdb/note"
	_ "golang.org/x/mod/sumdb/tlog"
	_ "google.golang.org/grpc/health"
	_ "modernc.org/sqlite"
	_ "pgregory.net/rapid"
)

func main() {}
