package wsclient

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestParseResponse(t *testing.T) {
	head := "HTTP/1.1 503 Service Unavailable\r\nretry-after: 7\r\nX-SESSION-ID: abc\r\nSec-Websocket-Accept:  xyz \r\n\r\n"
	for n := range len(head) {
		if _, used, err := ParseResponse([]byte(head[:n])); used != 0 || err != nil {
			t.Fatalf("the first %d bytes: used %d, error %v; want neither", n, used, err)
		}
	}
	r, used, err := ParseResponse([]byte(head + "{}"))
	if err != nil || used != len(head) || r.Status != 503 || r.RetryAfter != 7*time.Second || string(r.SessionID) != "abc" || string(r.Accept) != "xyz" {
		t.Errorf("got %+v, used %d, error %v", r, used, err)
	}
	for _, bad := range []string{"HTTP/2 101\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1\r\n\r\n", "SMTP ready", "\r\n\r\n"} {
		if _, used, err := ParseResponse([]byte(bad)); err == nil {
			t.Errorf("%q: used %d, want an error", bad, used)
		}
	}
	fill := func(n int) []byte { return []byte("HTTP/1.1 101 X\r\n" + strings.Repeat("a", n-16)) }
	if _, _, err := ParseResponse(fill(MaxResponse)); err != nil {
		t.Errorf("%d bytes without an end: %v, want no error yet", MaxResponse, err)
	}
	if _, _, err := ParseResponse(fill(MaxResponse + 1)); err == nil {
		t.Errorf("%d bytes without an end are still waited for", MaxResponse+1)
	}
}

func TestRetryAfter(t *testing.T) {
	for in, want := range map[string]time.Duration{"0": 0, "5": 5 * time.Second, "-3": 0, "99999": time.Hour, "soon": 0, "": 0,
		"Mon, 02 Jan 2006 15:04:05 GMT": 0, "Fri, 01 Jan 2500 00:00:00 GMT": time.Hour} {
		if got := retryAfter(in); got != want {
			t.Errorf("%q: got %v, want %v", in, got, want)
		}
	}
}

func FuzzParseResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n")) // what a server says
	f.Add([]byte("HTTP/1.0 503\r\nRetry-After: 99999999999999999999\r\n\r\n"))           // a number too large
	f.Add([]byte("HTTP/1.1 \r\n:\r\n\r\n"))                                              // nothing in its places
	f.Fuzz(func(t *testing.T, b []byte) {
		r, used, err := ParseResponse(b)
		if used < 0 || used > len(b) || r.RetryAfter < 0 || r.RetryAfter > time.Hour || (err == nil && used > 0 && !bytes.HasSuffix(b[:used], []byte("\r\n\r\n"))) {
			t.Fatalf("used %d, %+v, error %v", used, r, err)
		}
	})
}
