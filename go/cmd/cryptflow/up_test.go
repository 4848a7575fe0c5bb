package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/service"
)

// What answers on a taken port may be another house: it must not pass for this
// one.
func TestUpRefusesATakenPortBeforeItStarts(t *testing.T) {
	h, err := service.OpenHouse(t.TempDir(), service.Plan{Clients: 1, Floor: 3, Log: "info"})
	if err != nil {
		t.Fatal(err)
	}
	if err := unused(h); err != nil {
		t.Fatalf("free ports: %v", err)
	}
	a, err := config.LoadAggregator(h.Aggregator)
	if err != nil {
		t.Fatal(err)
	}
	for setting, address := range map[string]string{"listen": a.Listen, "admin_listen": a.Admin, "kms": a.KMS} {
		t.Run(setting, func(t *testing.T) {
			l, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			err = up(t.Context(), h, nil, nil)
			if !errors.Is(err, errs.ErrConfig) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "--port 0") {
				t.Fatalf("a taken port: %v", err)
			}
		})
	}
}
