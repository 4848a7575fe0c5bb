package service_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/cryptflow/cryptflow/go/client"
	"github.com/cryptflow/cryptflow/go/config"
	"github.com/cryptflow/cryptflow/go/errs"
	"github.com/cryptflow/cryptflow/go/service"
)

func get(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatal(r.Status, err)
	}
	return string(b)
}

func TestHealthAndMetricsAnswerOnLoopback(t *testing.T) {
	w := newWorld(t, 3, 3)
	w.create(t, client.TaskRequest{Layout: []client.TensorSpec{{Name: "a", Shape: []uint64{5}}}}, make([]float32, 5))
	for _, s := range []*service.Running{w.aggregator, w.kms} {
		if got := get(t, "http://"+s.Admin+"/healthz"); got != "ok\n" {
			t.Errorf("healthy: %q", got)
		}
		m := get(t, "http://"+s.Admin+"/metrics")
		for _, want := range []string{`cryptflow_calls_total{code="OK",method="/cryptflow.v1.`, "cryptflow_call_seconds_bucket", "process_resident_memory_bytes"} {
			if !strings.Contains(m, want) {
				t.Errorf("metrics lack %s", want)
			}
		}
	}
	c, err := config.LoadKMS(w.KMS)
	if err != nil {
		t.Fatal(err)
	}
	c.Listen, c.Data, c.Epoch = "127.0.0.1:0", t.TempDir(), t.TempDir()
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:80", "nonsense"} {
		c.Service.Admin = address
		if _, err := service.StartKMS(c, "test", w.log); !errors.Is(err, errs.ErrConfig) || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("admin_listen %q: %v", address, err)
		}
	}
}

func TestAServiceNeedsItsOwnCertificate(t *testing.T) {
	w := newWorld(t, 3, 3)
	k, err := config.LoadKMS(w.KMS)
	if err != nil {
		t.Fatal(err)
	}
	a, err := config.LoadAggregator(w.Aggregator)
	if err != nil {
		t.Fatal(err)
	}
	k.Credentials, k.Data, k.Listen = a.Credentials, t.TempDir(), "127.0.0.1:0"
	if _, err := service.StartKMS(k, "test", w.log); !errors.Is(err, errs.ErrCertificate) {
		t.Fatalf("a key service with an aggregator's certificate: %v", err)
	}
}
