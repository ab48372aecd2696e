package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"

	"sluice/gateway/gatewaytest"
)

// TestReload: SIGUSR2 puts in force what can change in a running process, and says of all else how
// it takes effect; a configuration that is wrong changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const token = "0123456789abcdef"
	write("log-level: info\nadmin-token: " + token + "\n")
	p, listen, admin := start(t, "--config="+file, "--heartbeat=0")
	stays, _ := session(t, listen, "", 0)
	handshake := func() string {
		ws, res, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial("ws://"+listen+"/ws",
			http.Header{"Origin": {"https://elsewhere.example"}})
		if err == nil {
			ws.Close()
		}
		if res == nil {
			t.Fatal(err)
		}
		return res.Status[:3]
	}
	if got := handshake(); got != "403" {
		t.Fatalf("another origin: got %s, want 403", got)
	}
	diff := func() string {
		t.Helper()
		status, out, errs := runText(t, nil, "config", "--config="+file, "--listen=127.0.0.1:0",
			"--admin=127.0.0.1:0", "--drain-timeout=1m", "--heartbeat=0", "--diff=http://"+admin)
		if status != exitClean {
			t.Fatalf("got %d and %s", status, errs)
		}
		return out
	}
	if got := diff(); got != "admin-token: is not shown there, and is not compared\n0 settings differ\n" {
		t.Errorf("before any change: got %s", got)
	}

	write("allowed-origins: [https://elsewhere.example]\nmax-queue: 32KiB\nlog-level: warn\n" +
		"app: echo\nadmin-token: " + token + "\n")
	out := diff()
	for _, want := range []string{
		`allowed-origins: "" -> "https://elsewhere.example", by reload (SIGUSR2)`,
		`log-level: "info" -> "warn", by reload`, `max-queue: "64KiB" -> "32KiB", by the next process (SIGHUP`,
		`app: "count" -> "echo", by a restart`, "4 settings differ\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("config --diff: got\n%swant %q in it", out, want)
		}
	}
	p.signal(syscall.SIGUSR2)
	gatewaytest.Await(t, "the origin is allowed", func() bool { return handshake() == "101" })
	if got := diff(); !strings.Contains(got, "2 settings differ") || !strings.Contains(got, "max-queue") {
		t.Errorf("after the reload: got %s, want max-queue and app", got)
	}
	stays.Write(gatewaytest.Text("a"))
	stays.Expect(`text {"count":1}`)

	// At level warn this one is still said; nothing is changed.
	write("allowed-origins: []\nmax-message: 1\n")
	p.signal(syscall.SIGUSR2)
	if line := p.until("reload failed, nothing has changed"); !strings.Contains(line["error"].(string), "max-message") {
		t.Errorf("got %v, want the setting that is wrong", line)
	}
	write("log-level: info\nadmin-token: " + token + "\n")
	p.signal(syscall.SIGUSR2)
	line := p.until("reloaded")
	if got, want := line["changed"], []any{"allowed-origins", "log-level"}; len(got.([]any)) != 2 || got.([]any)[0] != want[0] || got.([]any)[1] != want[1] {
		t.Errorf("got %v, want %v", line, want)
	}
	if got := handshake(); got != "403" {
		t.Errorf("the origin is not allowed any more: got %s, want 403", got)
	}
}

// The settings of a running gateway do not show its secrets, nor to anybody without its token.
func TestSettingsInForce(t *testing.T) {
	_, _, admin := start(t, "--session-store=redis", "--redis-url=redis://user:hunter2@"+deafPort(t), "--session-key="+strings.Repeat("k", 32))
	status, text := get(t, "http://"+admin+"/config")
	if status != http.StatusOK || strings.Contains(text, "hunter2") || strings.Contains(text, "kkkk") ||
		!strings.Contains(text, "# redis-url is not shown\n# session-key is not shown\n") ||
		!strings.Contains(text, "\nsession-store: redis\n") {
		t.Errorf("got %d and %s", status, text)
	}
	// It is a configuration file, too, once it has what is not shown.
	file := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errs := runText(t, []string{"SLUICE_REDIS_URL=redis://127.0.0.1:1"}, "config", "--config="+file)
	if status != exitClean || !strings.Contains(out, "session-store: redis") {
		t.Errorf("got %d, %s and %s", status, out, errs)
	}

	_, _, guarded := start(t, "--admin-token=0123456789abcdef")
	if status, _ := get(t, "http://"+guarded+"/config"); status != http.StatusUnauthorized {
		t.Errorf("without the token: got %d, want 401", status)
	}
	for _, tc := range []struct{ from, says string }{
		{"http://" + guarded, "401"},
		{"http://" + deafPort(t), "refused"},
		{filepath.Join(t.TempDir(), "none.yaml"), "no such file"},
	} {
		if status, _, errs := runText(t, nil, "config", "--diff="+tc.from); status != exitFailed || !strings.Contains(errs, tc.says) {
			t.Errorf("config --diff=%s: got %d and %q, want %d and %q", tc.from, status, errs, exitFailed, tc.says)
		}
	}
	if _, out, _ := runText(t, nil, "config", "--diff="+file, "--session-store=memory"); !strings.Contains(out, "differ") {
		t.Errorf("config --diff=%s: got %q", file, out)
	}
}

// Each setting that is said to change with a reload is one that there is.
func TestEffectsNameSettings(t *testing.T) {
	r, err := read([]string{"serve"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]int{}
	for name := range r.values {
		by[effectOf(name)]++
	}
	if by[byReload] != 6 || by[byRestart] != 9 {
		t.Errorf("got %v, want 6 by reload and 9 by restart", by)
	}
}
