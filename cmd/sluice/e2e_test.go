package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The gateway with the clients that people have: Node's ws and a browser here, Python's websockets
// in e2e_python_test.go, the Go libraries in e2e_go_test.go. All of it goes through the program
// itself and real sockets.

// program finds what a test starts. To be without it is a failure: a skipped test proves nothing.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is not installed: run `make test`, which installs what the tests start (scripts/install-test-deps.sh)", name)
	}
	return path
}

// nodeModules installs the packages of testdata/node, whose versions and hashes package-lock.json
// fixes.
func nodeModules(t *testing.T) string {
	t.Helper()
	npm := program(t, "npm")
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		data, err := os.ReadFile(filepath.Join("testdata", "node", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// npm keeps what it has fetched once, so only the first run on a machine needs the
	// registry.
	cmd := exec.CommandContext(ctx, npm, "ci", "--no-audit", "--no-fund", "--prefer-offline", "--ignore-scripts", "--loglevel=error")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci (the registry or npm's cache must be there): %v\n%s", err, out)
	}
	return filepath.Join(dir, "node_modules")
}

// nodeClient is a running scenario of testdata/node/client.cjs.
func nodeClient(t *testing.T, modules, scenario, listen string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program(t, "node"), filepath.Join("testdata", "node", "client.cjs"), scenario, "ws://"+listen)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	return cmd
}

func TestNodeClient(t *testing.T) {
	modules := nodeModules(t)
	_, quiet, _ := start(t, "--heartbeat=0")
	_, beating, _ := start(t, "--heartbeat=2s")
	for _, tc := range []struct{ scenario, listen string }{
		{"count", quiet}, {"ping", quiet}, {"resume", quiet}, {"large", quiet}, {"heartbeat", beating},
	} {
		t.Run(tc.scenario, func(t *testing.T) {
			if out, err := nodeClient(t, modules, tc.scenario, tc.listen).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("drain", func(t *testing.T) {
		drains(t, func(listen string) *exec.Cmd { return nodeClient(t, modules, "drain", listen) })
	})
}

// drains stops a gateway under a client that says when it is connected, and judges by its exit
// status how it was told.
func drains(t *testing.T, client func(listen string) *exec.Cmd) {
	t.Helper()
	p, listen, _ := start(t, "--heartbeat=0", "--drain-spread=200ms")
	cmd := client(listen)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); line != "connected\n" {
		cmd.Wait()
		t.Fatalf("got %q, %v, want connected\n%s", line, err, stderr.String())
	}
	p.signal(syscall.SIGTERM)
	io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	if status := p.exit(); status != exitClean {
		t.Errorf("the gateway's status is %d, want 0", status)
	}
}

// pages serves one HTML file and collects what its script reports.
type pages struct {
	*httptest.Server
	gateway atomic.Value // a string: its address, or a URL; to be there before a page is loaded
	reports chan report
}

type report struct {
	name string // the last part of the path
	body string
}

// servePage serves testdata/browser/file.
func servePage(t *testing.T, file string) *pages {
	p := &pages{reports: make(chan report, 16)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join("testdata", "browser", file))
	})
	mux.HandleFunc("GET /gateway.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		url := p.gateway.Load().(string)
		if !strings.Contains(url, "://") {
			url = "ws://" + url
		}
		fmt.Fprintf(w, "const gateway = %q\n", url)
	})
	mux.HandleFunc("POST /report/{name}", func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.reports <- report{r.PathValue("name"), string(body)}
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// next waits for a report and checks it against want, which is JSON.
func (p *pages) next(t *testing.T, name, want string) {
	t.Helper()
	select {
	case got := <-p.reports:
		var a, b any
		if err := json.Unmarshal([]byte(want), &b); err != nil {
			t.Fatal(err)
		}
		json.Unmarshal([]byte(got.body), &a)
		if got.name != name || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("the page reports %s:\n got %v\nwant %s: %v", got.name, a, name, b)
		}
	case <-time.After(2 * patience):
		t.Fatalf("no report %q from the page after %v", name, 2*patience)
	}
}

// browse opens a page in headless Chromium until the test ends.
func browse(t *testing.T, url string, more ...string) {
	t.Helper()
	// Not t.TempDir, which fails the test when a process still writes there.
	profile, err := os.MkdirTemp("", "sluice-test-browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	args := []string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage",
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		// Without it headless Chromium prints a page and ends.
		"--remote-debugging-port=0", "--user-data-dir=" + profile,
	}
	cmd := exec.Command(program(t, "chromium"), append(append(args, more...), url)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children go with it
	var log strings.Builder
	cmd.Stderr = &log
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		if t.Failed() {
			for line := range strings.Lines(log.String()) {
				// Not of a desktop that is not there.
				if !strings.Contains(line, ":ERROR:dbus/") {
					t.Logf("chromium says: %s", line)
				}
			}
		}
	})
}

func TestBrowser(t *testing.T) {
	// The gateway needs to know the pages' origins before it starts.
	allowed, foreign := servePage(t, "allowed.html"), servePage(t, "foreign.html")
	p, listen, admin := start(t, "--heartbeat=2s", "--drain-spread=0", "--allowed-origins="+allowed.URL)
	allowed.gateway.Store(listen)
	foreign.gateway.Store(listen)

	browse(t, foreign.URL)
	foreign.next(t, "refused", `{"opened": false, "code": 1006}`)
	if _, metrics := get(t, "http://"+admin+"/metrics"); !strings.Contains(metrics, "sluice_handshakes_rejected_total{reason=\"origin\"} 1\n") {
		t.Error("the gateway did not refuse it for its origin")
	}
	// What the script cannot see: the status.
	for origin, want := range map[string]int{foreign.URL: 403, "null": 403, allowed.URL: 101, "http://" + listen: 101, "": 101} {
		if got := handshake(t, listen, origin); got != want {
			t.Errorf("Origin %q: got %d, want %d", origin, got, want)
		}
	}

	browse(t, allowed.URL)
	allowed.next(t, "running", `{
		"welcome": {"count": 0, "resumed": false},
		"counts": [1, 2, 3],
		"close": {"code": 1000, "clean": true},
		"sameSession": true,
		"resumed": {"count": 3, "resumed": true},
		"countAfter": 4,
		"openAfterBeats": true, "beats": true,
		"tooBig": {"code": 1009, "clean": true},
		"badSession": {"code": 1006, "clean": false}
	}`)
	p.signal(syscall.SIGTERM)
	allowed.next(t, "drained", `{"bye": {"bye": true, "total": 4}, "close": {"code": 1001, "clean": true}}`)
	if status := p.exit(); status != exitClean {
		t.Errorf("the gateway's status is %d, want 0", status)
	}
}

// handshake asks for an upgrade and returns the status of the answer.
func handshake(t *testing.T, listen, origin string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+listen+"/ws/chat/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": origin,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	res, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}
