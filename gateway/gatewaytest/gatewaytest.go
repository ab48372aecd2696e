// Package gatewaytest has a WebSocket client for tests that sees every byte and every frame.
package gatewaytest

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// Patience bounds every wait. It is long because a loaded machine is slow; no test waits it out.
const Patience = time.Minute

// Client is a connection to a gateway. It fails its test rather than return errors.
type Client struct {
	T testing.TB
	net.Conn
	R *bufio.Reader // of Conn
}

// Server is what a Client connects to, a *gateway.Server for instance.
type Server interface{ Addr() netip.AddrPort }

// Dial connects, and leaves the handshake to the test.
func Dial(t testing.TB, s Server) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Patience))
	return &Client{t, conn, bufio.NewReader(conn)}
}

// Wrap makes a Client of a connection that is there already.
func Wrap(t testing.TB, conn net.Conn) *Client { return &Client{t, conn, bufio.NewReader(conn)} }

// CloseWrite ends the client's side of the stream.
func CloseWrite(c *Client) { _ = c.Conn.(*net.TCPConn).CloseWrite() }

// Open connects and upgrades.
func Open(t testing.TB, s Server, target string) *Client {
	t.Helper()
	c := Dial(t, s)
	io.WriteString(c, Upgrade(target))
	const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // RFC 6455, section 1.3
	resp := c.Response()
	if got := resp.Header.Get("Sec-WebSocket-Accept"); resp.StatusCode != 101 || got != accept {
		t.Fatalf("got %d and accept %q, want 101 and %q", resp.StatusCode, got, accept)
	}
	return c
}

// Upgrade is a handshake; more are whole header lines, each ending in CRLF.
func Upgrade(target string, more ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: gateway.test\r\n" +
		"Upgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" +
		strings.Join(more, "") + "\r\n"
}

// Response reads the head of an HTTP response.
func (c *Client) Response() *http.Response {
	c.T.Helper()
	resp, err := http.ReadResponse(c.R, nil)
	if err != nil {
		c.T.Fatalf("read response: %v", err)
	}
	return resp
}

// Next reads a frame and describes it: "text {…}", "close 1000 reason", "ping", "EOF".
func (c *Client) Next() string {
	c.T.Helper()
	f, err := ws.ReadFrame(c.R)
	switch {
	case err == io.EOF:
		return "EOF"
	case err != nil:
		return "error: " + err.Error()
	}
	if f.Header.Masked || !f.Header.Fin || f.Header.Rsv != 0 {
		c.T.Fatalf("server frame with header %+v", f.Header)
	}
	payload := string(f.Payload)
	switch f.Header.OpCode {
	case ws.OpClose:
		if len(f.Payload) < 2 {
			return "close"
		}
		code := binary.BigEndian.Uint16(f.Payload)
		return strings.TrimSpace(fmt.Sprintf("close %d %s", code, payload[2:]))
	case ws.OpPing:
		return strings.TrimSpace("ping " + payload)
	case ws.OpPong:
		return strings.TrimSpace("pong " + payload)
	case ws.OpBinary:
		return "binary " + payload
	}
	return "text " + payload
}

// Expect reads as many frames as it is given and compares them.
func (c *Client) Expect(want ...string) {
	c.T.Helper()
	for i, w := range want {
		if got := c.Next(); got != w {
			c.T.Fatalf("frame %d: got %q, want %q", i, got, w)
		}
	}
}

// WelcomePattern is the first frame of the counting service, as Next describes it.
var WelcomePattern = regexp.MustCompile(
	`^text \{"session_id":"([0-9a-f-]{36})","count":(\d+),"resumed":(true|false)\}$`)

// Welcome reads the first frame of the counting service and returns the session's id.
func (c *Client) Welcome(count int, resumed bool) string {
	c.T.Helper()
	got := c.Next()
	m := WelcomePattern.FindStringSubmatch(got)
	if m == nil || m[2] != fmt.Sprint(count) || m[3] != fmt.Sprint(resumed) {
		c.T.Fatalf("got %q, want a welcome with count %d, resumed %v", got, count, resumed)
	}
	return m[1]
}

// Alive reports whether something comes, and not the end of the connection.
func (c *Client) Alive() bool {
	_, err := c.R.Peek(1)
	return err == nil
}

// Silent insists that nothing has been sent: a Ping, which is answered in order, is answered first.
func (c *Client) Silent() {
	c.T.Helper()
	c.Write(Frame(true, ws.OpPing, "anything?"))
	c.Expect("pong anything?")
}

// Frame is a masked client frame.
func Frame(fin bool, op ws.OpCode, payload string) []byte {
	return ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload))))
}

// Text is a whole text message.
func Text(s string) []byte { return Frame(true, ws.OpText, s) }

// CloseFrame is a client's Close.
func CloseFrame(code ws.StatusCode, reason string) []byte {
	return Frame(true, ws.OpClose, string(ws.NewCloseFrameBody(code, reason)))
}

// Await polls for a condition that nothing reports, such as a state on the far side of a socket.
func Await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", Patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}
