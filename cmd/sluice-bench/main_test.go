package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/bench"
	"sluice/bench/baseline"
)

// serveBaseline runs a baseline server and returns its URL.
func serveBaseline(t *testing.T, app string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- baseline.Serve(ctx, "gobwas", "127.0.0.1:0", baseline.Options{App: app, Ready: func(a net.Addr) { ready <- a.String() }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("baseline: %v", err)
		}
	})
	select {
	case addr := <-ready:
		return "ws://" + addr + "/ws/chat/"
	case err := <-ended:
		ended <- nil
		t.Fatalf("baseline: %v", err)
		return ""
	}
}

func run(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var o, e bytes.Buffer
	code = execute(ctx, args, &o, &e)
	return code, o.String(), e.String()
}

func TestRunReports(t *testing.T) {
	url, dir := serveBaseline(t, baseline.Count), t.TempDir()
	js, html := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")
	code, out, errs := run(t, "run", url, "-c", "20", "-d", "200ms", "-r", "200", "--json", js, "--html", html, "--slo", "p99=1m")
	if code != 0 || errs != "" {
		t.Fatalf("exit %d, %s%s", code, out, errs)
	}
	for _, part := range []string{"count, 20 connections to " + url, "p99.99", "\n  ok\n"} {
		if !strings.Contains(out, part) {
			t.Errorf("the report lacks %q: %s", part, out)
		}
	}
	b, err := os.ReadFile(js)
	var r bench.Result
	if err != nil || json.Unmarshal(b, &r) != nil || r.Counters.Replies != 40 || r.Message.At(99.9) == 0 {
		t.Errorf("the JSON has %d replies (%v), want 40 and their histogram", r.Counters.Replies, err)
	}
	if b, err = os.ReadFile(html); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("the page has no chart (%v)", err)
	}
}

func TestExitStatus(t *testing.T) {
	url := serveBaseline(t, baseline.Count)
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"too late", []string{"run", url, "-c", "5", "-d", "100ms", "--slo", "p50=1us"}, 1, "FAILED: late: message.p50=1µs was asked for"},
		{"wrong scenario for the server", []string{"run", url, "-c", "5", "-d", "100ms", "-s", "echo"}, 1, "replies were corrupt"},
		{"refused", []string{"run", "ws://127.0.0.1:1", "-c", "5", "--retries", "0"}, 1, "connection refused 5×"},
		{"no target", []string{"run"}, 2, "<url>"},
		{"not a WebSocket", []string{"run", "http://127.0.0.1"}, 1, "want ws://"},
		{"unknown command", []string{"walk"}, 2, "walk"},
		{"bad objective", []string{"run", url, "--slo", "fast"}, 1, "--slo"},
		{"bad header", []string{"run", url, "--header", "x"}, 1, "NAME:VALUE"},
		{"no connections", []string{"run", url, "-c", "0"}, 1, "--conns 0: want more than nothing"},
		{"no step", []string{"capacity", url, "--step", "0"}, 1, "--step 0: want more than nothing"},
		{"no number", []string{"capacity", url, "--rate", "NaN"}, 1, "rate NaN"},
		{"no time", []string{"run", url, "--timeout", "0s"}, 1, "--timeout 0"},
		{"not our address", []string{"run", url, "--source", "192.0.2.1"}, 1, "source 192.0.2.1: "},
		{"address of another kind", []string{"run", url, "--source", "::1"}, 1, "one is IPv4 and the other IPv6"},
		{"unknown baseline", []string{"baseline", "nothing"}, 1, "nothing"},
		{"help", []string{"--help"}, 0, "capacity"},
		{"help of run", []string{"run", "--help"}, 0, "--heartbeats"},
		{"version", []string{"version"}, 0, "sluice-bench "},
		{"capacity", []string{"capacity", url, "--max", "10", "--step", "5", "--probe", "50ms", "--limit", "1m"}, 0, "gave: nothing"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := run(t, tc.args...)
			if code != tc.code || !strings.Contains(out+errs, tc.says) {
				t.Errorf("exit %d, want %d, with %q in: %s%s", code, tc.code, tc.says, out, errs)
			}
		})
	}
}

func TestEchoService(t *testing.T) {
	code, out, errs := run(t, "run", serveBaseline(t, baseline.Echo), "-s", "echo", "-c", "5", "-d", "100ms", "--payload", "0")
	if code != 0 {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}
