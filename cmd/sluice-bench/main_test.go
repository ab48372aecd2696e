package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

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
	code, out, errs := run(t, "run", url, "-c", "20", "-d", "200ms", "-r", "200", "--allow-behind", "--json", js, "--html", html, "--slo", "p99=1m")
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

// Two runs that begin at an agreed time are one report, by way of standard output as well.
func TestMergeReports(t *testing.T) {
	url, dir := serveBaseline(t, baseline.Count), t.TempDir()
	at := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
	var files []string
	var both sync.WaitGroup
	for _, name := range []string{"a.json", "b.json"} {
		name = filepath.Join(dir, name)
		files = append(files, name)
		both.Go(func() {
			code, out, errs := run(t, "run", url, "-c", "10", "-d", "200ms", "-r", "100", "--allow-behind",
				"--start-at", at, "--json", "-")
			if code != 0 || errs != "" {
				t.Errorf("exit %d, %s: want JSON alone", code, errs)
			}
			if err := os.WriteFile(name, []byte(out), 0o600); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	html, js := filepath.Join(dir, "m.html"), filepath.Join(dir, "m.json")
	code, out, errs := run(t, append([]string{"merge", "--html", html, "--json", js}, files...)...)
	if code != 0 || !strings.Contains(out, "count, 20 connections") || !strings.Contains(out, "40 sent") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	b, err := os.ReadFile(js)
	var r bench.Result
	if err != nil || json.Unmarshal(b, &r) != nil || r.Counters.Replies != 40 {
		t.Errorf("the JSON has %d replies (%v), want those of both, 40", r.Counters.Replies, err)
	}
	if b, err = os.ReadFile(html); err != nil || !bytes.Contains(b, []byte("<svg")) {
		t.Errorf("the page has no chart (%v)", err)
	}
	for text, says := range map[string]string{"{": "unexpected end", "{}": "is not the result of a run"} {
		if err := os.WriteFile(files[0], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := run(t, "merge", files[0]); code != 1 || !strings.Contains(errs, says) {
			t.Errorf("%q: exit %d: %s", text, code, errs)
		}
	}
}

// slow is an echo server that answers 250 messages a second.
func slow(t *testing.T) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var one sync.Mutex
	var conns sync.WaitGroup
	serve := func(c net.Conn) {
		defer conns.Done()
		defer c.Close()
		if _, err := ws.Upgrade(c); err != nil {
			return
		}
		for {
			f, err := ws.ReadFrame(c)
			if err != nil {
				return
			}
			f = ws.UnmaskFrameInPlace(f)
			if f.Header.OpCode == ws.OpClose {
				_ = ws.WriteFrame(c, ws.NewCloseFrame(f.Payload))
				return
			}
			one.Lock()
			time.Sleep(4 * time.Millisecond)
			one.Unlock()
			_ = ws.WriteFrame(c, ws.NewTextFrame(f.Payload))
		}
	}
	conns.Add(1)
	go func() {
		defer conns.Done()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go serve(c)
		}
	}()
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return "ws://" + ln.Addr().String()
}

func TestCapacityReports(t *testing.T) {
	url, dir := serveBaseline(t, baseline.Count), t.TempDir()
	js, html := filepath.Join(dir, "c.json"), filepath.Join(dir, "c.html")
	code, out, errs := run(t, "capacity", url, "--max", "10", "--step", "5", "--probe", "50ms", "--limit", "1m",
		"--json", js, "--html", html)
	if code != 0 || errs != "" || strings.Contains(out, "RSS") {
		t.Errorf("exit %d; the server was not measured, so nothing is said of its memory: %s%s", code, out, errs)
	}
	b, err := os.ReadFile(js)
	var c bench.Capacity
	if err != nil || json.Unmarshal(b, &c) != nil || c.Held != 10 || len(c.Steps) != 2 {
		t.Errorf("the JSON has %+v (%v)", c, err)
	}
	if b, err = os.ReadFile(html); err != nil || !bytes.Contains(b, []byte("<svg")) || !bytes.Contains(b, []byte("held: 10 connections")) {
		t.Errorf("the page has no chart or no result (%v)", err)
	}
}

// A check of a path before the run leaves nothing behind, and harms nothing that is there.
func TestPathsAreChecked(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	if err := checkPath(name); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(name); err == nil {
		t.Error("a file was left behind")
	}
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkPath(name); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(name); string(b) != "x" {
		t.Errorf("the file became %q", b)
	}
}

func TestExitStatus(t *testing.T) {
	url, echo := serveBaseline(t, baseline.Count), serveBaseline(t, baseline.Echo)
	for _, tc := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"too late", []string{"run", url, "-c", "5", "-d", "100ms", "--slo", "p50=1us"}, 1, "FAILED: too slow: the objective was message.p50=1µs"},
		{"wrong scenario for the server", []string{"run", url, "-c", "5", "-d", "100ms", "-s", "echo"}, 1, "replies were corrupt"},
		{"refused", []string{"run", "ws://127.0.0.1:1", "-c", "5", "--retries", "0"}, 1, "connection refused 5×"},
		{"no target", []string{"run"}, 2, "<url>"},
		{"not a WebSocket", []string{"run", "http://127.0.0.1"}, 1, "must be ws://"},
		{"unknown command", []string{"walk"}, 2, "walk"},
		{"bad objective", []string{"run", url, "--slo", "fast"}, 1, "--slo"},
		{"bad header", []string{"run", url, "--header", "x"}, 1, "NAME:VALUE"},
		{"no connections", []string{"run", url, "-c", "0"}, 1, "--conns 0: must be greater than 0"},
		{"no step", []string{"capacity", url, "--step", "0"}, 1, "--step 0: must be greater than 0"},
		{"no number", []string{"capacity", url, "--rate", "NaN"}, 1, "rate NaN"},
		{"no time", []string{"run", url, "--timeout", "0s"}, 1, "--timeout 0"},
		{"not our address", []string{"run", url, "--source", "192.0.2.1"}, 1, "source 192.0.2.1: "},
		{"address of another kind", []string{"run", url, "--source", "::1"}, 1, "one is IPv4 and the other IPv6"},
		{"not writable", []string{"run", url, "--json", "/nonexistent/r.json"}, 1, "/nonexistent/r.json"},
		{"capacity, not writable", []string{"capacity", url, "--html", "/nonexistent/r.html"}, 1, "/nonexistent/r.html"},
		{"capacity of a server that echoes", []string{"capacity", echo, "--max", "10", "--step", "5", "--probe", "50ms"},
			1, "limit: wrong replies. "},
		{"capacity where nobody listens", []string{"capacity", "ws://127.0.0.1:1", "--max", "10", "--step", "5"},
			1, "held: no connections"},
		{"custom", []string{"run", echo, "-c", "5", "-d", "100ms", "--message", "hi {{id}}", "--expect", "^hi {{id}}$"}, 0, "ok"},
		{"custom, another reply", []string{"run", url, "-c", "2", "-d", "50ms", "--timeout", "300ms", "--message", "hi", "--expect", "^ho$"},
			1, `the first was "{\"session_id`},
		{"a message without custom", []string{"run", url, "-s", "echo", "--message", "hi"}, 1, "are for the scenario custom"},
		{"behind", []string{"run", slow(t), "-s", "echo", "-c", "20", "-r", "1000", "-d", "500ms"}, 1, "did not keep the schedule of 1k/s"},
		{"behind, allowed", []string{"run", slow(t), "-s", "echo", "-c", "20", "-r", "1000", "-d", "500ms", "--allow-behind"}, 0, "more after that"},
		{"unknown baseline", []string{"baseline", "nothing"}, 1, "nothing"},
		{"no ramp", []string{"run", url, "--ramp", "0"}, 1, "--ramp 0: must be greater than 0"},
		{"a ramp that is no number", []string{"run", url, "--ramp", "fast"}, 1, "must be a number or auto"},
		{"a ramp that adapts", []string{"run", url, "-c", "20", "-d", "100ms", "--ramp", "auto"}, 0, "ok"},
		{"a start that is over", []string{"run", url, "--start-at", "2001-01-01T00:00:00Z"}, 1, "start at 2001"},
		{"help", []string{"--help"}, 0, "capacity"},
		{"help of run", []string{"run", "--help"}, 0, "--heartbeats"},
		{"version", []string{"version"}, 0, "sluice-bench "},
		{"capacity", []string{"capacity", url, "--max", "10", "--step", "5", "--probe", "50ms", "--limit", "1m"}, 0, "limit: none. Every step up to 10 connections passed."},
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
