package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// head writes a request head line by line.
func head(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

const (
	hostLine    = "Host: gateway.test"
	upgradeLine = "Upgrade: websocket"
	connLine    = "Connection: Upgrade"
	keyLine     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	versionLine = "Sec-WebSocket-Version: 13"
)

// handshake is a valid request with each line that begins like one of changes replaced by it, or
// left out when it ends there. Lines that replace nothing are added.
func handshake(requestLine string, changes ...string) string {
	lines := []string{requestLine, hostLine, upgradeLine, connLine, keyLine, versionLine}
	for _, change := range changes {
		name, value, _ := strings.Cut(change, ":")
		added := true
		for i, line := range lines {
			if had, _, _ := strings.Cut(line, ":"); i > 0 && had == name {
				lines[i], added = change, false
				if value == "" {
					lines = append(lines[:i], lines[i+1:]...)
				}
				break
			}
		}
		if added && value != "" {
			lines = append(lines, change)
		}
	}
	return head(lines...)
}

const getChat = "GET /ws/chat/ HTTP/1.1"

// answer reads the response and its body, and insists that the socket is closed behind it when it
// is not 101.
func (c *wire) answer(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("read response: %v", err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("read body: %v", err)
	}
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Errorf("behind the response: got %q, %v, want the end of the stream", rest, err)
	}
	return resp, string(body)
}

// On the wire, for net/http takes Connection off what it reads.
func TestUpgradeRequiredNamesTheOption(t *testing.T) {
	c := dial(t, serve(t, Config{}, nil))
	io.WriteString(c, handshake(getChat, "Upgrade:"))
	got, err := io.ReadAll(c.r)
	for _, want := range []string{"HTTP/1.1 426 ", "\r\nConnection: close\r\n", "\r\nConnection: Upgrade\r\n", "\r\nUpgrade: websocket\r\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got %q (%v), want %q in it", got, err, want)
		}
	}
}

func TestEveryRefusal(t *testing.T) {
	s := serve(t, Config{}, nil)
	for _, tc := range []struct {
		name    string
		request string
		want    int
	}{
		{"good", handshake(getChat), 101},
		{"good, other paths", handshake("GET /ws HTTP/1.1"), 101},
		{"good, with slash", handshake("GET /ws/ HTTP/1.1"), 101},
		{"good, without slash", handshake("GET /ws/chat HTTP/1.1"), 101},
		{"good, names and values in any case", head(getChat, "hOST: gateway.test", "UPGRADE: WebSocket", "connection: UPGRADE",
			"SEC-WEBSOCKET-KEY: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13"), 101},
		{"good, connection list", handshake(getChat, "Connection: keep-alive, Upgrade"), 101},
		{"good, connection lines", head(getChat, hostLine, "Connection: keep-alive", upgradeLine, connLine, "Connection:", keyLine, versionLine), 101},
		{"good, white space around values", handshake(getChat, "Upgrade: \t websocket \t"), 101},
		{"good, empty other header", handshake(getChat, "X-Empty: "), 101},
		{"good, one long header", handshake(getChat, "Cookie: "+strings.Repeat("c", 6000)), 101},
		{"good, content length 0", handshake(getChat, "Content-Length: 0"), 101},
		{"good, extensions offered", handshake(getChat, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101},

		{"path", handshake("GET / HTTP/1.1"), 404},
		{"path, case", handshake("GET /WS HTTP/1.1"), 404},
		{"path, deeper", handshake("GET /ws/chat/room HTTP/1.1"), 404},
		{"path, dots", handshake("GET /ws/../ws HTTP/1.1"), 404},
		{"path, escaped", handshake("GET /%77s HTTP/1.1"), 404},
		{"path, doubled slash", handshake("GET //ws HTTP/1.1"), 404},
		{"path, no upgrade", head("GET /index.html HTTP/1.1", hostLine), 404},

		{"method", handshake("POST /ws/chat/ HTTP/1.1"), 405},
		{"method, lower case", handshake("get /ws/chat/ HTTP/1.1"), 405},
		{"method, made up", handshake("BREW /ws/chat/ HTTP/1.1"), 405},
		{"method, head", handshake("HEAD /ws/chat/ HTTP/1.1"), 405},
		{"method of health", head("POST /healthz HTTP/1.1", hostLine), 405},

		{"no upgrade", handshake(getChat, "Upgrade:"), 426},
		{"upgrade to h2c", handshake(getChat, "Upgrade: h2c"), 426},
		{"upgrade list", handshake(getChat, "Upgrade: websocket, h2c"), 426},
		{"version 8", handshake(getChat, "Sec-WebSocket-Version: 8"), 426},
		{"version 14", handshake(getChat, "Sec-WebSocket-Version: 14"), 426},
		{"version list", handshake(getChat, "Sec-WebSocket-Version: 13, 8"), 426},

		{"no version", handshake(getChat, "Sec-WebSocket-Version:"), 400},
		{"no connection", handshake(getChat, "Connection:"), 400},
		{"connection without upgrade", handshake(getChat, "Connection: keep-alive"), 400},
		{"connection lines without upgrade", handshake(getChat, "Connection: keep-alive", "connection: close"), 400},
		{"connection with a longer token", handshake(getChat, "Connection: upgrades, x-upgrade"), 400},
		{"no key", handshake(getChat, "Sec-WebSocket-Key:"), 400},
		{"key too short", handshake(getChat, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400},
		{"key of 15 bytes", handshake(getChat, "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1"), 400},
		{"key of 18 bytes", handshake(getChat, "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc4"), 400},
		{"key not base64", handshake(getChat, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q=="), 400},
		{"key with bits behind its end", handshake(getChat, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), 400},

		{"HTTP/1.0", handshake("GET /ws/chat/ HTTP/1.0"), 400},
		{"HTTP/1.2", handshake("GET /ws/chat/ HTTP/1.2"), 400},
		{"HTTP/2.0", handshake("GET /ws/chat/ HTTP/2.0"), 400},
		{"HTTP/0.9", head("GET /ws/chat/"), 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
		{"version in lower case", handshake("GET /ws/chat/ http/1.1"), 400},
		{"two spaces", handshake("GET  /ws/chat/ HTTP/1.1"), 400},
		{"tab for space", handshake("GET\t/ws/chat/ HTTP/1.1"), 400},
		{"space at the end of the line", handshake("GET /ws/chat/ HTTP/1.1 "), 400},
		{"absolute target", handshake("GET http://gateway.test/ws/chat/ HTTP/1.1"), 400},
		{"asterisk target", handshake("OPTIONS * HTTP/1.1"), 400},
		{"connect", handshake("CONNECT gateway.test:80 HTTP/1.1"), 400},
		{"fragment in target", handshake("GET /ws/chat/#x HTTP/1.1"), 400},
		{"control byte in target", handshake("GET /ws/ch\x01at/ HTTP/1.1"), 400},
		{"raw UTF-8 in target", handshake("GET /ws/chät/ HTTP/1.1"), 400},
		{"method not a token", handshake("G(T /ws/chat/ HTTP/1.1"), 400},

		{"no host", handshake(getChat, "Host:"), 400},
		{"host twice", handshake(getChat, "host: gateway.test"), 400},
		{"empty host", head(getChat, "Host: ", upgradeLine, connLine, keyLine, versionLine), 400},
		{"two hosts in one", handshake(getChat, "Host: a, b"), 400},
		{"host with a path", handshake(getChat, "Host: a/b"), 400},
		{"host with a user", handshake(getChat, "Host: a@b"), 400},
		{"upgrade twice", handshake(getChat, "upgrade: websocket"), 400},
		{"key twice", handshake(getChat, "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 400},
		{"version twice", handshake(getChat, "sec-websocket-version: 13"), 400},
		{"origin twice", handshake(getChat, "Origin: http://gateway.test", "origin: http://gateway.test"), 400},
		{"content length twice", handshake(getChat, "Content-Length: 0", "content-length: 0"), 400},
		{"body", handshake(getChat, "Content-Length: 5"), 400},
		{"body of 00", handshake(getChat, "Content-Length: 00"), 400},
		{"negative body", handshake(getChat, "Content-Length: -1"), 400},
		{"chunked", handshake(getChat, "Transfer-Encoding: chunked"), 400},
		{"identity", handshake(getChat, "Transfer-Encoding: identity"), 400},
		{"folded header", handshake(getChat, "X-Folded: a\r\n b"), 400},
		{"tab-folded header", handshake(getChat, "X-Folded: a\r\n\tb"), 400},
		{"first header folded", head(getChat, " "+hostLine, upgradeLine, connLine, keyLine, versionLine), 400},
		{"space before colon", head(getChat, "Host : gateway.test", upgradeLine, connLine, keyLine, versionLine), 400},
		{"no colon", head(getChat, hostLine, "nonsense", upgradeLine, connLine, keyLine, versionLine), 400},
		{"empty name", head(getChat, hostLine, ": value", upgradeLine, connLine, keyLine, versionLine), 400},
		{"NUL in value", handshake(getChat, "X-Nul: a\x00b"), 400},
		{"CR in value", handshake(getChat, "X-Cr: a\rb"), 400},
		{"DEL in value", handshake(getChat, "X-Del: a\x7fb"), 400},
		{"bare LF in request line", strings.Replace(handshake(getChat), "\r\n", "\n", 1), 400},
		{"bare LF everywhere", strings.ReplaceAll(handshake(getChat), "\r\n", "\n"), 400},
		{"bare LF at the end", strings.TrimSuffix(handshake(getChat), "\r\n") + "\n", 400},
		{"empty line first", "\r\n" + handshake(getChat), 400},
		{"TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
		{"only LF", "\n", 400},

		{"session id malformed", handshake("GET /ws?session_id=1234 HTTP/1.1"), 400},
		{"session id empty", handshake("GET /ws?session_id= HTTP/1.1"), 400},
		{"session id without value", handshake("GET /ws?session_id HTTP/1.1"), 400},
		{"session id in braces", handshake("GET /ws?session_id={123e4567-e89b-42d3-a456-426614174000} HTTP/1.1"), 400},
		{"session id without dashes", handshake("GET /ws?session_id=123e4567e89b42d3a456426614174000 HTTP/1.1"), 400},
		{"session id too long", handshake("GET /ws?session_id=123e4567-e89b-42d3-a456-4266141740000 HTTP/1.1"), 400},
		{"session id twice", handshake("GET /ws?session_id=123e4567-e89b-42d3-a456-426614174000&session_id=123e4567-e89b-42d3-a456-426614174000 HTTP/1.1"), 400},
		{"session id", handshake("GET /ws?session_id=123e4567-e89b-42d3-a456-426614174000 HTTP/1.1"), 101},
		{"session id, upper case", handshake("GET /ws?x=1&session_id=123E4567-E89B-42D3-A456-426614174000&y HTTP/1.1"), 101},
		{"other parameters only", handshake("GET /ws?Session_id=x&sessionid=y HTTP/1.1"), 101},

		{"origin", handshake(getChat, "Origin: https://evil.test"), 403},
		{"origin null", handshake(getChat, "Origin: null"), 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, s)
			io.WriteString(c, tc.request)
			method, _, _ := strings.Cut(tc.request, " ")
			resp, body := c.answer(method)
			if resp.StatusCode != tc.want {
				t.Fatalf("got %d %q, want %d", resp.StatusCode, body, tc.want)
			}
			h := resp.Header
			if tc.want != 101 && (h.Get("Connection") != "close" && !resp.Close || h.Get("Cache-Control") != "no-store") {
				t.Errorf("got headers %v, want Connection: close and Cache-Control: no-store", h)
			}
			if tc.want == 426 && (h.Get("Sec-WebSocket-Version") != "13" || h.Get("Upgrade") != "websocket") {
				t.Errorf("got headers %v, want the version and protocol to upgrade to", h)
			}
			if tc.want == 405 && h.Get("Allow") != "GET" {
				t.Errorf("got Allow %q, want GET", h.Get("Allow"))
			}
			if tc.want == 101 && (h.Get("X-Session-Id") == "" || h.Get("X-Request-Id") == "") {
				t.Errorf("got headers %v, want X-Session-Id and X-Request-ID", h)
			}
		})
	}
}

func TestSessionIDIsAnsweredInLowerCase(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := dial(t, s)
	io.WriteString(c, handshake("GET /ws?session_id=123E4567-E89B-42D3-A456-426614174000 HTTP/1.1"))
	const want = "123e4567-e89b-42d3-a456-426614174000"
	if got := c.response().Header.Get("X-Session-Id"); got != want {
		t.Errorf("X-Session-Id: got %q, want %q", got, want)
	}
	if got := c.welcome(0, false); got != want {
		t.Errorf("welcome: got %q, want %q", got, want)
	}
}

func TestRequestIDIsTakenOverOrMade(t *testing.T) {
	s := serve(t, Config{}, nil)
	good := strings.Repeat("a", 64)
	for _, tc := range []struct {
		name, request, want string // want "": one is made; "-": there is none
		status              int
	}{
		{"taken over", handshake(getChat, "X-Request-ID: Trace.1_2-3"), "Trace.1_2-3", 101},
		{"longest", handshake(getChat, "X-Request-ID: "+good), good, 101},
		{"too long", handshake(getChat, "X-Request-ID: "+good+"a"), "", 101},
		{"with quotes", handshake(getChat, `X-Request-ID: a"b`), "", 101},
		{"none", handshake(getChat), "", 101},
		{"twice: the first", handshake(getChat, "X-Request-ID: one", "x-request-id: two"), "one", 101},
		{"path", handshake("GET /nowhere HTTP/1.1", "X-Request-ID: r1"), "r1", 404},
		{"origin", handshake(getChat, "Origin: http://evil.test", "X-Request-ID: r2"), "r2", 403},
		{"refused by the application", handshake("GET /ws?session_id=x HTTP/1.1", "X-Request-ID: r3"), "r3", 400},
		{"refused by the application, made", handshake("GET /ws?session_id=x HTTP/1.1"), "", 400},
		{"health", head("GET /healthz HTTP/1.1", hostLine, "X-Request-ID: r4"), "r4", 200},
		{"not a request", "\x16\x03\x01", "-", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := dial(t, s)
			io.WriteString(c, tc.request)
			resp, _ := c.answer("GET")
			got := resp.Header.Get("X-Request-Id")
			made := len(got) == 16 && got != tc.want
			if resp.StatusCode != tc.status || (tc.want == "" && !made) || (tc.want == "-" && got != "") ||
				(tc.want != "" && tc.want != "-" && got != tc.want) {
				t.Errorf("got %d and %q, want %d and %q", resp.StatusCode, got, tc.status, tc.want)
			}
		})
	}
}

func TestHealthPaths(t *testing.T) {
	sick := io.ErrUnexpectedEOF
	well, ill := serve(t, Config{}, nil), serve(t, Config{ReadyCheck: func() error { return sick }}, nil)
	for _, tc := range []struct {
		server      *Server
		requestLine string
		status      int
		body        string
	}{
		{well, "GET /healthz HTTP/1.1", 200, "ok\n"},
		{well, "GET /healthz?verbose HTTP/1.1", 200, "ok\n"},
		{well, "GET /readyz HTTP/1.1", 200, "ok\n"},
		{well, "GET /readyz HTTP/1.0", 200, "ok\n"},
		{well, "HEAD /healthz HTTP/1.1", 200, ""},
		{well, "HEAD /readyz HTTP/1.1", 200, ""},
		{ill, "GET /healthz HTTP/1.1", 200, "ok\n"},
		{ill, "GET /readyz HTTP/1.1", 503, "not ready: unavailable\n"},
		{ill, "HEAD /readyz HTTP/1.1", 503, ""},
	} {
		t.Run(tc.requestLine, func(t *testing.T) {
			c := dial(t, tc.server)
			io.WriteString(c, head(tc.requestLine, hostLine))
			method, _, _ := strings.Cut(tc.requestLine, " ")
			resp, body := c.answer(method)
			if resp.StatusCode != tc.status || body != tc.body {
				t.Errorf("got %d %q, want %d %q", resp.StatusCode, body, tc.status, tc.body)
			}
			if tc.status == 503 && resp.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
	if err := ill.Ready(); err != sick {
		t.Errorf("Ready: got %v, want what ReadyCheck said", err)
	}
}

func TestOriginPolicy(t *testing.T) {
	for _, tc := range []struct {
		allowed, origin, host string
		want                  bool
	}{
		{"", "http://gateway.test", "gateway.test", true},
		{"", "https://gateway.test", "gateway.test", true},
		{"", "HTTP://Gateway.Test", "gateway.TEST", true},
		{"", "http://gateway.test:80", "gateway.test", true},
		{"", "https://gateway.test", "gateway.test:443", true},
		{"", "http://gateway.test", "gateway.test:443", false},
		{"", "http://gateway.test:8000", "gateway.test:8000", true},
		{"", "http://gateway.test", "gateway.test:8000", false},
		{"", "http://[::1]:8000", "[::1]:8000", true},
		{"", "http://[::1]", "[::1]:80", true},
		{"", "http://evil.test", "gateway.test", false},
		{"", "http://gateway.test.evil.test", "gateway.test", false},
		{"", "http://evil-gateway.test", "gateway.test", false},
		{"", "gateway.test", "gateway.test", false},
		{"", "null", "gateway.test", false},
		{"", "null", "null", false},
		{"", "file://", "gateway.test", false},
		{"*", "http://anything", "gateway.test", true},
		{"*", "null", "gateway.test", true},
		{"https://app.test", "https://app.test", "gateway.test", true},
		{"https://app.test", "https://app.test", "gateway.test", true},
		{" HTTPS://App.test ", "https://app.TEST", "gateway.test", true},
		{"https://app.test", "http://app.test", "gateway.test", false},
		{"https://app.test", "https://app.test:8443", "gateway.test", false},
		{"https://app.test", "https://www.app.test", "gateway.test", false},
		{"https://*.app.test", "https://www.app.test", "gateway.test", true},
		{"https://*.app.test", "https://a.b.app.test", "gateway.test", true},
		{"https://*.app.test", "https://app.test", "gateway.test", false},
		{"https://*.app.test", "https://.app.test", "gateway.test", false},
		{"https://*.app.test", "https://evilapp.test", "gateway.test", false},
		{"https://*.app.test", "http://www.app.test", "gateway.test", false},
		{"https://*.app.test", "https://www.app.test.evil.test", "gateway.test", false},
	} {
		o, err := newOrigins(strings.Fields(tc.allowed))
		if err != nil {
			t.Fatal(err)
		}
		if got := o.allow([]byte(tc.origin), []byte(tc.host)); got != tc.want {
			t.Errorf("allowed %q, origin %q at host %q: got %v, want %v", tc.allowed, tc.origin, tc.host, got, tc.want)
		}
	}
	o, _ := newOrigins(nil)
	if !o.allow(nil, []byte("gateway.test")) {
		t.Error("no origin: got false, want true: it is not a browser")
	}
}

// Letters beyond ASCII that fold to "websocket" are no "websocket" for a proxy in front.
func TestUpgradeIsASCII(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	for _, name := range []string{"web\u017focket", "webSoc\u212aet"} {
		c := dial(t, s)
		io.WriteString(c, head("GET /ws HTTP/1.1", hostLine, "Upgrade: "+name, connLine, keyLine, versionLine))
		if resp, _ := c.answer("GET"); resp.StatusCode != 426 {
			t.Errorf("Upgrade %q: got %d, want 426", name, resp.StatusCode)
		}
	}
}
