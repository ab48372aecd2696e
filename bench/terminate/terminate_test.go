package terminate

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/bench/baseline"
)

// The test binary is the baseline, too: `baseline gorilla …`, as sluice-bench is.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "baseline" {
		if err := beBaseline(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func beBaseline(name string, args []string) error {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	listen, app := f.String("listen", "", ""), f.String("app", "", "")
	heartbeat := f.Duration("heartbeat", 0, "")
	cert, key := f.String("tls-cert", "", ""), f.String("tls-key", "", "")
	if err := f.Parse(args); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return baseline.Serve(ctx, name, *listen, baseline.Options{App: *app, Heartbeat: *heartbeat,
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}})
}

func sluice(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "sluice")
	out, err := exec.Command("go", "build", "-o", name, "sluice/cmd/sluice").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return name
}

// Every server that is installed serves the echo, is measured, and is gone afterwards.
func TestEveryServerIsMeasured(t *testing.T) {
	want := slices.DeleteFunc(Names(), func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil && (name == Nginx || name == HAProxy)
	})
	r, err := Run(t.Context(), Options{Sluice: sluice(t), Self: os.Args[0], Conns: 20, Window: 4,
		Duration: 200 * time.Millisecond, Settle: 10 * time.Millisecond,
		Log: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range r.Servers {
		got = append(got, s.Name)
		if s.Handshake <= 0 || s.Message <= 0 || s.Rounds != 1 {
			t.Errorf("%s: %.1f µs a handshake, %.1f µs a message, %d rounds", s.Name, s.Handshake,
				s.Message, s.Rounds)
		}
	}
	if !slices.Equal(got, want) || len(r.Troubles) != len(Names())-len(want) {
		t.Errorf("measured %v, want %v; troubles %q", got, want, r.Troubles)
	}
	var table strings.Builder
	if err := r.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if !strings.Contains(table.String(), name) {
			t.Errorf("the table lacks %s:\n%s", name, table.String())
		}
	}
}

func TestEndOfContextIsAnError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Run(ctx, Options{Sluice: sluice(t), Self: os.Args[0], Only: []string{Plain}, Conns: 5,
		Duration: time.Hour, Settle: time.Millisecond, Log: func(string) {
			time.AfterFunc(100*time.Millisecond, cancel)
		}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestWhatCannotBeMeasured(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "sluice")
	script := "#!/bin/sh\necho no such flag >&2\nexit 2\n"
	if err := os.WriteFile(broken, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), Options{Sluice: broken, Only: []string{Std}})
	if err == nil || len(r.Troubles) != 1 || !strings.Contains(r.Troubles[0], "no such flag") {
		t.Errorf("got %v and %+v, want what it wrote", err, r)
	}
	for name, o := range map[string]Options{
		"a server that is not known": {Sluice: broken, Only: []string{"nobody"}},
		"less than no connections":   {Sluice: broken, Conns: -1},
	} {
		if _, err := Run(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 5}, 5}} {
		if got := median(c.of); got != c.want {
			t.Errorf("median of %v: got %v, want %v", c.of, got, c.want)
		}
	}
}
