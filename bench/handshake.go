package bench

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"time"
)

// maxResponse bounds the response to the handshake, in bytes.
const maxResponse = 16 << 10

// target is one URL, made ready: its request is assembled once for all connections.
type target struct {
	url  *url.URL
	tls  bool
	head []byte // GET /path
	tail []byte //  HTTP/1.1 … the empty line
	join byte   // '?' or '&': what comes before session_id
}

// handshakeKey is the Sec-WebSocket-Key of a run, and the answer to it. One key serves all connections: its only
// purpose is that the server shows it speaks WebSocket.
type handshakeKey struct{ key, accept string }

func newKey() handshakeKey {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return handshakeKey{key, base64.StdEncoding.EncodeToString(sum[:])}
}

func newTarget(raw string, s *Spec, k handshakeKey) (*target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", raw, err)
	}
	t := &target{url: u, tls: u.Scheme == "wss", join: '?'}
	path := u.RequestURI()
	if strings.Contains(path, "?") {
		t.join = '&'
	}
	t.head = []byte("GET " + path)
	var b strings.Builder
	host := u.Host
	if h := s.Headers.Get("Host"); h != "" {
		host = h
	}
	fmt.Fprintf(&b, " HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", host, k.key)
	if s.Subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", s.Subprotocol)
	}
	names := make([]string, 0, len(s.Headers))
	for name := range s.Headers {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, v := range s.Headers[name] {
			if strings.ContainsAny(name+v, "\r\n") {
				return nil, fmt.Errorf("header %q: a line break is not allowed", name)
			}
			if http.CanonicalHeaderKey(name) != "Host" {
				fmt.Fprintf(&b, "%s: %s\r\n", name, v)
			}
		}
	}
	b.WriteString("\r\n")
	t.tail = []byte(b.String())
	return t, nil
}

// request appends the handshake; id may be the zero session.
func (t *target) request(b []byte, id sessionID) []byte {
	b = append(b, t.head...)
	if id != (sessionID{}) {
		b = append(b, t.join)
		b = append(b, "session_id="...)
		b = id.append(b)
	}
	return append(b, t.tail...)
}

// response is what of a handshake's response matters.
type response struct {
	status     int
	accept     []byte
	sessionID  []byte
	protocol   []byte
	extensions []byte
	retryAfter time.Duration
}

// parseResponse takes a response's head off the front of b. used is 0 when it is not there yet.
func parseResponse(b []byte) (r response, used int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxResponse {
			return r, 0, fmt.Errorf("handshake: response head of more than %d bytes", maxResponse)
		}
		// Not HTTP is worth saying before the timeout says it.
		if n := min(len(b), 5); string(b[:n]) != "HTTP/"[:n] {
			return r, 0, fmt.Errorf("handshake: the answer is not HTTP: %q", b[:min(len(b), 20)])
		}
		return r, 0, nil
	}
	line, rest, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	version, status, _ := bytes.Cut(line, []byte(" "))
	if !bytes.HasPrefix(version, []byte("HTTP/1.")) || len(status) < 3 {
		return r, 0, fmt.Errorf("handshake: status line %q", line[:min(len(line), 60)])
	}
	if r.status, err = strconv.Atoi(string(status[:3])); err != nil {
		return r, 0, fmt.Errorf("handshake: status line %q", line[:min(len(line), 60)])
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		r.header(name, bytes.TrimSpace(value))
	}
	return r, end + 4, nil
}

func (r *response) header(name, value []byte) {
	switch len(name) { // spares most headers the comparison
	case len("Sec-WebSocket-Accept"):
		if strings.EqualFold(string(name), "Sec-WebSocket-Accept") {
			r.accept = value
		}
	case len("X-Session-Id"):
		if strings.EqualFold(string(name), "X-Session-Id") {
			r.sessionID = value
		}
	case len("Retry-After"):
		if strings.EqualFold(string(name), "Retry-After") {
			r.retryAfter = retryAfter(string(value))
		}
	case len("Sec-WebSocket-Protocol"):
		if strings.EqualFold(string(name), "Sec-WebSocket-Protocol") {
			r.protocol = value
		}
	case len("Sec-WebSocket-Extensions"):
		if strings.EqualFold(string(name), "Sec-WebSocket-Extensions") {
			r.extensions = value
		}
	}
}

// retryAfter reads either form of the header: seconds, or a date.
func retryAfter(v string) time.Duration {
	if s, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(s, 0), 3600)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(at), 0), time.Hour)
	}
	return 0
}
