package wsclient

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxResponse bounds the head of the response to the handshake, in bytes.
const MaxResponse = 16 << 10

// Key is a Sec-WebSocket-Key and the Sec-WebSocket-Accept that answers it.
type Key struct{ Key, Accept string }

// NewKey makes a random key. One key may serve many connections: its only purpose is that the
// server shows it speaks WebSocket.
func NewKey() Key {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails
	key := base64.StdEncoding.EncodeToString(nonce[:])
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return Key{key, base64.StdEncoding.EncodeToString(sum[:])}
}

// Target is a URL with its request, assembled once for all connections. Any goroutine may use it.
type Target struct {
	URL  *url.URL
	head []byte // GET /path
	tail []byte //  HTTP/1.1 … the empty line
	join byte   // '?' or '&': what comes before session_id
}

// NewTarget assembles the request for a ws:// or wss:// URL. A Host among the headers replaces
// the URL's; subprotocol may be empty.
func NewTarget(raw string, k Key, headers http.Header, subprotocol string) (*Target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", raw, err)
	}
	t := &Target{URL: u, join: '?'}
	path := u.RequestURI()
	if strings.Contains(path, "?") {
		t.join = '&'
	}
	t.head = []byte("GET " + path)
	var b strings.Builder
	host := u.Host
	if h := headers.Get("Host"); h != "" {
		host = h
	}
	fmt.Fprintf(&b, " HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n", host, k.Key)
	if subprotocol != "" {
		fmt.Fprintf(&b, "Sec-WebSocket-Protocol: %s\r\n", subprotocol)
	}
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		for _, v := range headers[name] {
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

// TLS reports whether the target is a wss:// URL.
func (t *Target) TLS() bool { return t.URL.Scheme == "wss" }

// AppendRequest appends the handshake's request to b, with ?session_id= unless id is zero.
func (t *Target) AppendRequest(b []byte, id SessionID) []byte {
	b = append(b, t.head...)
	if id != (SessionID{}) {
		b = append(b, t.join)
		b = append(b, "session_id="...)
		b = append(b, id.String()...)
	}
	return append(b, t.tail...)
}

// Response is what a client needs of the response to its handshake. The slices alias the bytes it
// was parsed from; nil is a header that is absent.
type Response struct {
	Status     int
	Accept     []byte
	SessionID  []byte // X-Session-Id
	Protocol   []byte
	Extensions []byte
	RetryAfter time.Duration // at most an hour
}

// ParseResponse parses the response head at the front of b. used is 0 when it is not complete.
func ParseResponse(b []byte) (r Response, used int, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > MaxResponse {
			return r, 0, fmt.Errorf("handshake: response head of more than %d bytes", MaxResponse)
		}
		// Say that it is not HTTP now, not after the timeout.
		if n := min(len(b), 5); string(b[:n]) != "HTTP/"[:n] {
			return r, 0, fmt.Errorf("handshake: the response is not HTTP: %q", b[:min(len(b), 20)])
		}
		return r, 0, nil
	}
	line, rest, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	version, status, _ := bytes.Cut(line, []byte(" "))
	if bytes.HasPrefix(version, []byte("HTTP/1.")) && len(status) >= 3 {
		r.Status, err = strconv.Atoi(string(status[:3]))
	}
	if r.Status == 0 || err != nil {
		return r, 0, fmt.Errorf("handshake: status line %q", line[:min(len(line), 60)])
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		r.header(name, bytes.TrimSpace(value))
	}
	return r, end + 4, nil
}

func (r *Response) header(name, value []byte) {
	is := func(want string) bool { return len(name) == len(want) && strings.EqualFold(string(name), want) }
	switch {
	case is("Sec-WebSocket-Accept"):
		r.Accept = value
	case is("X-Session-Id"):
		r.SessionID = value
	case is("Retry-After"):
		r.RetryAfter = retryAfter(string(value))
	case is("Sec-WebSocket-Protocol"):
		r.Protocol = value
	case is("Sec-WebSocket-Extensions"):
		r.Extensions = value
	}
}

// retryAfter parses either form of the header: seconds, or a date.
func retryAfter(v string) time.Duration {
	if s, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(s, 0), 3600)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(at), 0), time.Hour)
	}
	return 0
}
