package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"

	"github.com/golang-jwt/jwt/v5"
	"github.com/gorilla/websocket"
)

// waitFor polls for a condition that nothing reports.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// accessLines are the lines of an access log.
func accessLines(t *testing.T, file string) (lines []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		m := map[string]any{}
		if json.Unmarshal([]byte(line), &m) != nil {
			t.Fatalf("access log line %q is not JSON", line)
		}
		lines = append(lines, m)
	}
	return lines
}

func token(t *testing.T, secret, user string) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user, "exp": time.Now().Add(time.Hour).Unix()}).
		SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestTokensAndAccessLog: who shows a token gets a session of its own, which nobody else may
// resume, and all of it is in the access log, which can be rotated.
func TestTokensAndAccessLog(t *testing.T) {
	const secret = "a secret of at least thirty-two bytes"
	dir := t.TempDir()
	key, file := filepath.Join(dir, "key"), filepath.Join(dir, "access.log")
	if err := os.WriteFile(key, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, listen, admin := start(t, "--auth-algorithm=HS256", "--auth-jwt-key=file:"+key, "--access-log="+file)
	dial := func(target, token string) (*websocket.Conn, int) {
		t.Helper()
		header := http.Header{}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
		c, answer, err := websocket.DefaultDialer.Dial("ws://"+listen+target, header)
		if answer == nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return c, answer.StatusCode
	}
	if _, code := dial("/ws", ""); code != 401 {
		t.Errorf("without a token: got %d, want 401", code)
	}
	if _, code := dial("/ws", token(t, "some other secret of thirty-two bytes", "alice")); code != 401 {
		t.Errorf("with a forged one: got %d, want 401", code)
	}
	c, code := dial("/ws", token(t, secret, "alice"))
	if code != 101 {
		t.Fatalf("with a good one: got %d", code)
	}
	var welcome struct {
		ID string `json:"session_id"`
	}
	if err := c.ReadJSON(&welcome); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteMessage(websocket.TextMessage, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if _, text, err := c.ReadMessage(); string(text) != `{"count":1}` {
		t.Fatalf("got %s, %v", text, err)
	}
	if _, code := dial("/ws?session_id="+welcome.ID, token(t, secret, "mallory")); code != 403 {
		t.Errorf("somebody else's session: got %d, want 403", code)
	}
	c.Close()
	waitFor(t, "a line", func() bool { return len(accessLines(t, file)) == 1 })
	got := accessLines(t, file)[0]
	want := map[string]any{"user": "alice", "session": welcome.ID, "path": "/ws", "code": 1006.0, "messages_in": 1.0, "messages_out": 3.0} // the bye is one
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v in %v, want %v", name, got[name], got, value)
		}
	}
	if client, _ := got["client"].(string); !strings.HasPrefix(client, "127.0.0.1:") {
		t.Errorf("the client is %v", got["client"])
	}
	// logrotate renames and sends SIGUSR1.
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGUSR1)
	waitFor(t, "a new file", func() bool { _, err := os.Stat(file); return err == nil })
	if c, code = dial("/ws?token="+token(t, secret, "bob"), ""); code != 101 {
		t.Fatalf("with a token in the query: got %d", code)
	}
	if _, metrics := get(t, "http://"+admin+"/metrics"); !strings.Contains(metrics, "sluice_auth_tokens_total{result=\"valid\"} 3\n") {
		t.Error("tokens are not counted")
	}
	p.signal(syscall.SIGTERM)
	c.SetReadDeadline(time.Now().Add(patience))
	for err := error(nil); err == nil; _, _, err = c.ReadMessage() {
	}
	c.Close()
	if status := p.exit(); status != exitClean {
		t.Errorf("the gateway's status is %d, want 0", status)
	}
	lines := accessLines(t, file)
	if len(lines) != 1 || lines[0]["user"] != "bob" || lines[0]["code"] != 1001.0 || len(accessLines(t, file+".1")) != 1 {
		t.Errorf("after rotation and drain: got %v", lines)
	}
	text, err := os.ReadFile(file)
	if log := strings.Join(p.log, "\n") + string(text); err != nil || strings.Contains(log, "eyJ") || strings.Contains(log, secret) {
		t.Errorf("a token is in a log, or %v", err)
	}
}

// TestSIGUSR1WithoutAccessLog must not end the process, as it would by default.
func TestSIGUSR1WithoutAccessLog(t *testing.T) {
	p, listen, _ := start(t)
	p.signal(syscall.SIGUSR1)
	if got := handshake(t, listen, ""); got != 101 {
		t.Errorf("got %d", got)
	}
	p.signal(syscall.SIGTERM)
	if status := p.exit(); status != exitClean {
		t.Errorf("the status is %d, want 0", status)
	}
}

// TestHAProxyNamesTheClient in each of the ways in which it can.
func TestHAProxyNamesTheClient(t *testing.T) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		t.Skip("no haproxy here (scripts/install-test-deps.sh installs it where apt-get has it)")
	}
	dir := t.TempDir()
	type way struct{ name, frontend, file string }
	var ways []way
	config := "defaults\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
	for _, w := range []struct{ name, mode, server, option, flag string }{
		{"v1", "tcp", "send-proxy", "", "--proxy-protocol"},
		{"v2", "tcp", "send-proxy-v2 proxy-v2-options crc32c,unique-id", "", "--proxy-protocol"},
		{"xff", "http", "", "option forwardfor", "--forwarded-header=x-forwarded-for"},
		{"rfc7239", "http", "", "http-request add-header Forwarded for=%[src]:%[src_port]", "--forwarded-header=forwarded"},
	} {
		file, frontend := filepath.Join(dir, w.name), freeAddress(t)
		_, listen, _ := start(t, "--app=echo", "--heartbeat=0", "--trusted-proxies=127.0.0.1", "--access-log="+file, w.flag)
		config += fmt.Sprintf("listen %s\n mode %s\n bind %s\n %s\n server gateway %s %s\n", w.name, w.mode, frontend, w.option, listen, w.server)
		ways = append(ways, way{w.name, frontend, file})
	}
	path := filepath.Join(dir, "haproxy.cfg")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(haproxy, "-db", "-f", path)
	var log strings.Builder
	cmd.Stderr, cmd.WaitDelay = &log, patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy says: %s", log.String())
		}
	})
	// A client of another address than the proxy's, which claims to be a third one.
	dialer := websocket.Dialer{NetDial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 77)}}).Dial, HandshakeTimeout: patience}
	for _, w := range ways {
		header := http.Header{"X-Forwarded-For": {"203.0.113.9"}, "Forwarded": {"for=203.0.113.9"}}
		var c *websocket.Conn
		waitFor(t, w.name+" through haproxy", func() bool {
			conn, _, err := dialer.Dial("ws://"+w.frontend+"/ws", header)
			c = conn
			return err == nil
		})
		c.WriteMessage(websocket.TextMessage, []byte("hello"))
		if _, got, err := c.ReadMessage(); string(got) != "hello" {
			t.Errorf("%s: got %q, %v", w.name, got, err)
		}
		c.Close()
		waitFor(t, w.name+" in the access log", func() bool { return len(accessLines(t, w.file)) > 0 })
		if client, _ := accessLines(t, w.file)[0]["client"].(string); !strings.HasPrefix(client, "127.0.0.77:") {
			t.Errorf("%s: the client is %q, want 127.0.0.77", w.name, client)
		}
	}
}

// TestCompressionWithPeers: Node's ws and Chromium agree on it, and read what they are sent.
func TestCompressionWithPeers(t *testing.T) {
	t.Run("node", func(t *testing.T) {
		_, listen, admin := start(t, "--app=echo", "--heartbeat=0", "--compression")
		if out, err := nodeClient(t, nodeModules(t), "compressed", listen).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if _, metrics := get(t, "http://"+admin+"/metrics"); !strings.Contains(metrics, "sluice_connections_compressed_total 2\n") {
			t.Error("the gateway does not count two compressed connections")
		}
	})
	t.Run("chromium", func(t *testing.T) {
		page := servePage(t, "compressed.html")
		_, listen, _ := start(t, "--app=echo", "--heartbeat=0", "--compression", "--allowed-origins="+page.URL)
		page.gateway.Store(listen)
		browse(t, page.URL)
		page.next(t, "compressed", `{"extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
			"echoes": [true, true, true, true, true]}`)
	})
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", gatewaytest.FreePort(t))
}
