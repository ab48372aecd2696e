package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/sessions"
)

func TestHeadersAtTheLimits(t *testing.T) {
	const base = 5 // headers of a plain handshake
	small, few := serve(t, Config{MaxHandshake: 1000}, nil), serve(t, Config{}, nil)
	ofSize := func(n int) string {
		plain := len(handshake(getChat, "Cookie: "+"c")) - 1
		return handshake(getChat, "Cookie: "+strings.Repeat("c", n-plain))
	}
	withHeaders := func(n int) string {
		extra := make([]string, n-base)
		for i := range extra {
			extra[i] = fmt.Sprintf("X-%d: v", i)
		}
		return handshake(getChat, extra...)
	}
	for _, tc := range []struct {
		name    string
		server  *Server
		request string
		want    int
	}{
		{"999 of 1000 bytes", small, ofSize(999), 101},
		{"1000 of 1000 bytes", small, ofSize(1000), 101},
		{"1001 of 1000 bytes", small, ofSize(1001), 431},
		{"default, 16383 bytes", few, ofSize(16383), 101},
		{"default, 16384 bytes", few, ofSize(16384), 101},
		{"default, 16385 bytes", few, ofSize(16385), 431},
		{"no end in 1000 bytes and one", small, ofSize(1200)[:1001], 431},
		{"endless request line", small, "GET /" + strings.Repeat("a", 1000), 431},
		{"63 headers", few, withHeaders(63), 101},
		{"64 headers", few, withHeaders(64), 101},
		{"65 headers", few, withHeaders(65), 431},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, tc.server)
			io.WriteString(c, tc.request)
			if resp, body := c.answer("GET"); resp.StatusCode != tc.want {
				t.Errorf("got %d %q, want %d", resp.StatusCode, body, tc.want)
			}
		})
	}
}

// A request may come in any two pieces, in single bytes, and with frames right behind it.
func TestRequestInPieces(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	request := handshake(getChat, "Cookie: "+strings.Repeat("long", 100)) // longer than the read buffer's headroom
	whole := append([]byte(request), text("first")...)
	check := func(t *testing.T, c *wire) {
		t.Helper()
		if resp := c.response(); resp.StatusCode != 101 {
			t.Fatalf("got %d, want 101", resp.StatusCode)
		}
		c.expect("text first")
	}
	t.Run("cut at every byte", func(t *testing.T) {
		for cut := 1; cut < len(whole); cut++ {
			c := dial(t, s)
			c.Write(whole[:cut])
			onLoops(s, func(*worker) {}) // most of the time the loop has read the first piece by now
			c.Write(whole[cut:])
			check(t, c)
			c.Close()
		}
	})
	t.Run("one byte at a time", func(t *testing.T) {
		c := dial(t, s)
		for i := range whole {
			c.Write(whole[i : i+1])
		}
		check(t, c)
	})
	t.Run("frames in the same segment", func(t *testing.T) {
		c := dial(t, s)
		c.Write(bytes.Join([][]byte{whole, frame(true, ws.OpPing, "p"), text("second"), closeFrame(1000, "")}, nil))
		check(t, c)
		c.expect("pong p", "text second", "close 1000", "EOF")
	})
	t.Run("a frame cut behind the request", func(t *testing.T) {
		c := dial(t, s)
		c.Write(whole[:len(whole)-3])
		if resp := c.response(); resp.StatusCode != 101 {
			t.Fatalf("got %d, want 101", resp.StatusCode)
		}
		c.Write(whole[len(whole)-3:])
		c.expect("text first")
	})
	t.Run("a second request", func(t *testing.T) {
		c := dial(t, s)
		io.WriteString(c, head("GET /healthz HTTP/1.1", hostLine)+request)
		if resp, body := c.answer("GET"); resp.StatusCode != 200 || body != "ok\n" { // answer checks that nothing follows
			t.Errorf("got %d %q, want 200 and ok", resp.StatusCode, body)
		}
	})
}

func TestQueryValue(t *testing.T) {
	for _, tc := range []struct {
		query, value string
		found, ok    bool
	}{
		{"", "", false, true},
		{"a=1", "1", true, true},
		{"b=2&a=1", "1", true, true},
		{"a=", "", true, true},
		{"a", "", true, true},
		{"a==", "=", true, true},
		{"aa=1&A=2&%61=3", "", false, true},
		{"&&a=1&&", "1", true, true},
		{"a=1&a=1", "", true, false},
		{"a&b&a", "", true, false},
	} {
		value, found, ok := queryValue([]byte(tc.query), "a")
		if string(value) != tc.value || found != tc.found || ok != tc.ok {
			t.Errorf("%q: got %q %v %v, want %q %v %v", tc.query, value, found, ok, tc.value, tc.found, tc.ok)
		}
	}
}

func TestConnectionsAtTheLimit(t *testing.T) {
	s := serve(t, Config{MaxConns: 3, Loops: 1}, nil)
	var clients []*wire
	for range 3 {
		clients = append(clients, open101(t, s, "/ws"))
	}
	for range 2 {
		c := dial(t, s)
		io.WriteString(c, handshake(getChat))
		if resp, _ := c.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Errorf("connection over the limit: got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
		}
		c.Close()
	}
	c := dial(t, s)
	io.WriteString(c, head("GET /healthz HTTP/1.1", hostLine))
	if resp, _ := c.answer("GET"); resp.StatusCode != 200 {
		t.Errorf("health of a full gateway: got %d, want 200", resp.StatusCode)
	}
	c.Close()
	clients[0].Close()
	await(t, "the connections that ended are gone", func() bool { return s.Connections() == 2 })
	open101(t, s, "/ws")
}

// Beyond the room for refusals, not even a request is waited for.
func TestConnectionsFarOverTheLimit(t *testing.T) {
	s := serve(t, Config{MaxConns: 1, Loops: 1}, nil)
	for range 1 + refusalRoom {
		dial(t, s)
	}
	await(t, "all are held", func() bool { return s.Connections() == 1+refusalRoom })
	c := dial(t, s)
	if resp, _ := c.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %v, want 503 with Retry-After and without a request", resp.StatusCode, resp.Header)
	}
	if got := s.Connections(); got != 1+refusalRoom {
		t.Errorf("got %d connections held, want %d", got, 1+refusalRoom)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	s := serve(t, Config{HandshakeTimeout: 50 * time.Millisecond}, nil)
	for _, sent := range []string{"", "GET", head(getChat)[:20]} {
		c := dial(t, s)
		io.WriteString(c, sent)
		if resp, _ := c.answer("GET"); resp.StatusCode != 408 {
			t.Errorf("after %q: got %d, want 408", sent, resp.StatusCode)
		}
	}
}

// Bytes that keep coming do not put the deadline off.
func TestHandshakeTimeoutIsNotExtended(t *testing.T) {
	s := serve(t, Config{HandshakeTimeout: 100 * time.Millisecond, MaxHandshake: 1 << 20}, nil)
	c := dial(t, s)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		io.WriteString(c, "GET /")
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				io.WriteString(c, "a")
			}
		}
	}()
	if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 408 {
		t.Errorf("got %v, %v, want 408", resp, err)
	}
}

// What clients send stands in log lines quoted and cut, and only at level Debug.
func TestLogLinesQuoteWhatClientsSend(t *testing.T) {
	var lines lockedBuffer
	s := serve(t, Config{AllowedOrigins: []string{"*"}, Logger: slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelDebug}))}, Echo{})
	c := dial(t, s)
	io.WriteString(c, handshake(getChat, "Origin: http://a\u00a0\xffb "+strings.Repeat("long", 200)))
	if resp := c.response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	c.Write(text("\xff"))
	c.expect("close 1007 utf8", "EOF")
	c.Close()
	await(t, "it is gone", func() bool { return s.Connections() == 0 })
	got := lines.String()
	if !strings.Contains(got, "msg=handshake") || !strings.Contains(got, "msg=failed") || !strings.Contains(got, "msg=closed") {
		t.Errorf("got %q, want lines for the handshake, the failure and the end", got)
	}
	for line := range strings.Lines(got) {
		if len(line) > 600 || strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0xa0 || r == 0xfffd }) || !strings.Contains(line, "level=DEBUG") {
			t.Errorf("got line %q, want it short, printable and at level Debug", line)
		}
	}
}

// lockedBuffer is a buffer that a loop writes and a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// FuzzRequest: what the gateway takes for a request, net/http reads in the same way.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(handshake(getChat)))                                                          // the usual
	f.Add([]byte(handshake(getChat) + "\x81\x80abcd"))                                         // a frame behind it
	f.Add([]byte("GET /ws?session_id=x&a HTTP/1.0\r\nOrigin: http://a\r\n\r\n"))               // no Host
	f.Add([]byte("GET //x/y?z HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"))                            // a target that looks like an authority
	f.Add([]byte("HEAD /%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"))                // a bad escape
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"))                           // obs-fold
	f.Add([]byte("GET / HTTP/1.1\nHost: a\n\n"))                                               // bare LF
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))  // a body
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"))                              // two hosts
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: \x80\r\nX:\xff\r\nY:\t\r\n\r\n")) // odd values
	f.Fuzz(func(t *testing.T, b []byte) {
		end, bad := headEnd(b, 0)
		if want := bytes.Index(b, []byte("\r\n\r\n")); end != 0 && want != end-4 {
			t.Fatalf("headEnd(%q): got %d, want %d", b, end, want+4)
		}
		// The end is found wherever the bytes were cut before.
		for cut := range b {
			if e, refused := headEnd(b[:cut], 0); e == 0 && !refused {
				if e, refused := headEnd(b, cut); e != end || refused != bad {
					t.Fatalf("headEnd(%q, %d): got %d %v, want %d %v", b, cut, e, refused, end, bad)
				}
			}
		}
		if end == 0 {
			return
		}
		var r Request
		if refusal := parseRequest(b[:end], 64, &r); refusal != nil {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			if _, escape := url.PathUnescape(string(r.Path)); escape != nil {
				return // paths are compared as sent, so a bad escape is just another path that is not served
			}
			t.Fatalf("%q is a request here, and for net/http: %v", b[:end], err)
		}
		target, _, _ := strings.Cut(want.RequestURI, "?")
		if string(r.Method) != want.Method || string(r.Path) != target || string(r.Query) != want.URL.RawQuery || string(r.Host) != want.Host {
			t.Errorf("%q: got %s %s ? %s at %s, net/http has %s %s ? %s at %s", b[:end], r.Method, r.Path, r.Query, r.Host,
				want.Method, target, want.URL.RawQuery, want.Host)
		}
		if string(r.Origin) != want.Header.Get("Origin") || want.ContentLength > 0 || len(want.TransferEncoding) > 0 {
			t.Errorf("%q: got origin %q and no body, net/http has %q and a body of %d %v", b[:end], r.Origin, want.Header.Get("Origin"),
				want.ContentLength, want.TransferEncoding)
		}
	})
}

// FuzzSessionID: the id is found where net/url finds it, and what is taken for one is one.
// Cookies are those that net/http finds, but for the quotes that it takes off values.
func FuzzCookies(f *testing.F) {
	f.Add("a=1; b=2")                  // the usual
	f.Add("a=1;b=2 ;; c")              // loose separators, no value
	f.Add("a=\"quoted\"; a=again; =x") // quotes, one name twice, no name
	f.Add("a b=1; c==; d=\tx")         // what a name cannot have
	f.Add("")
	f.Fuzz(func(t *testing.T, list string) {
		var r Request
		head := []byte(head("GET / HTTP/1.1", hostLine, "Cookie: first=0", "cookie:"+list))
		if end, bad := headEnd(head, 0); bad || end != len(head) || parseRequest(head, 64, &r) != nil {
			return
		}
		var got []string
		for name, value := range r.Cookies {
			got = append(got, string(name)+"="+string(value))
		}
		if len(got) == 0 || got[0] != "first=0" {
			t.Fatalf("%q: got %q, want first=0 ahead", list, got)
		}
		pairs := slices.DeleteFunc(strings.Split(list, ";"), func(pair string) bool {
			return !strings.Contains(pair, "=") // net/http takes a name alone for a cookie
		})
		request := http.Request{Header: http.Header{"Cookie": {"first=0", strings.Join(pairs, ";")}}}
		for _, want := range request.Cookies() {
			text := want.Name + "=" + want.Value
			quoted := want.Name + `="` + want.Value + `"`
			if !slices.ContainsFunc(got, func(g string) bool {
				return strings.Trim(g, " \t") == text || g == quoted
			}) {
				t.Errorf("%q: got %q, net/http has %q", list, got, text)
			}
			if _, found := r.Cookie(want.Name); !found {
				t.Errorf("%q: no cookie %q", list, want.Name)
			}
		}
	})
}

func FuzzSessionID(f *testing.F) {
	f.Add("session_id=123e4567-e89b-42d3-a456-426614174000")       // the usual
	f.Add("a=1&session_id=123E4567-E89B-42D3-A456-426614174000&b") // among others
	f.Add("session_id=x&session_id=y")                             // twice
	f.Add("session_id")                                            // no value
	f.Add("session%5fid=1&session_id=%31")                         // escapes
	f.Add("session_id=1;session_id=2")                             // the other separator
	f.Fuzz(func(t *testing.T, query string) {
		value, found, ok := queryValue([]byte(query), "session_id")
		if ok && found {
			if id, err := sessions.ParseID(string(value)); err == nil && !strings.EqualFold(id.String(), string(value)) {
				t.Errorf("%q: got id %s of %q", query, id, value)
			}
		}
		if strings.ContainsAny(query, "%+;") {
			return // net/url decodes or refuses these
		}
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		want := values["session_id"]
		if found != (len(want) > 0) || ok != (len(want) < 2) || (len(want) == 1 && string(value) != want[0]) {
			t.Errorf("%q: got %q %v %v, net/url has %q", query, value, found, ok, want)
		}
	})
}
