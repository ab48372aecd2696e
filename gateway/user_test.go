package gateway

import (
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway/gatewaytest"
)

// userApp says of each connection whose it is, and until when.
type userApp struct {
	Echo
	life    time.Duration
	headers string
	ended   func()
}

func (a userApp) ForLoop(func(fn func()) bool) Handler { return a }

func (a userApp) Open(c *Conn, r *Request) {
	c.SetUser("alice")
	c.SetSession([]byte("session-1"))
	if p, found := r.Header("Sec-WebSocket-Protocol"); found {
		c.SetProtocol(string(p))
	}
	c.EndAfter(a.life, 3000, "token expired", a.ended)
	c.Accept(a.headers)
}

func (a userApp) Message(c *Conn, op ws.OpCode, payload []byte) {
	switch string(payload) {
	case "renew":
		c.EndAfter(time.Hour, 3000, "later", nil)
	case "for ever":
		c.EndAfter(0, 0, "", nil)
	}
	c.Send(op, []byte(c.User()))
}

func TestEndAfter(t *testing.T) {
	ended := make(chan struct{}, 2)
	s := serve(t, Config{}, userApp{life: 50 * time.Millisecond, ended: func() { ended <- struct{}{} }})
	c := gatewaytest.Open(t, s, get)
	c.Expect("close 3000 token expired")
	c.Write(gatewaytest.CloseFrame(3000, ""))
	c.Expect("EOF")
	if len(ended) != 1 {
		t.Errorf("told of it %d times", len(ended))
	}
	// It can be put off, and cancelled.
	onLoops(s, func(w *worker) { w.handler = userApp{life: time.Hour} })
	for _, word := range []string{"renew", "for ever"} {
		c := gatewaytest.Open(t, s, get)
		c.Write(gatewaytest.Text(word))
		c.Expect("text alice")
		onLoops(s, func(w *worker) {
			for _, c := range w.conns {
				d, code, ok := c.EndsAfter()
				if word == "for ever" && c.state == open && ok && d < 59*time.Minute {
					t.Errorf("%s: ends after %v with %d", word, d, code)
				}
			}
		})
	}
}

// TestEndAfterComesOnTime: not a moment earlier than asked for.
func TestEndAfterComesOnTime(t *testing.T) {
	w, c, fd := byHand(t, Config{}, Echo{})
	c.EndAfter(time.Hour, 3000, "token expired", nil)
	now := w.loop.Now()
	at := c.rare.ending.at
	if c.endDue(at - 1); c.state != open {
		t.Fatal("it has ended a nanosecond early")
	}
	if d, _, ok := c.EndsAfter(); !ok || d > time.Hour || at < now+time.Hour {
		t.Errorf("%v are left, %v", d, ok)
	}
	if !c.endDue(at) || c.endDue(at) {
		t.Error("it has not ended once")
	}
	if got := receive(t, fd); !strings.Contains(got, "\x0b\xb8token expired") {
		t.Errorf("got %q", got)
	}
}

func TestProtocolIsAnswered(t *testing.T) {
	for _, test := range []struct{ offered, headers, want string }{
		{"", "", ""}, {"chat", "", "chat"}, {"chat", "sec-websocket-protocol: mine\r\n", "mine"}, {"chat", "X-Y: z\r\n", "chat"},
	} {
		s := serve(t, Config{}, userApp{headers: test.headers})
		c := gatewaytest.Dial(t, s)
		more := ""
		if test.offered != "" {
			more = "Sec-WebSocket-Protocol: " + test.offered + "\r\n"
		}
		io.WriteString(c, gatewaytest.Upgrade(get, more))
		if got := strings.Join(c.Response().Header.Values("Sec-WebSocket-Protocol"), "|"); got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
}

// ends collects summaries.
type ends struct {
	mu  sync.Mutex
	all []Summary
}

func (e *ends) add(s *Summary) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, *s)
}

func (e *ends) wait(t *testing.T, n int) (all []Summary) {
	t.Helper()
	gatewaytest.Await(t, "the ends of connections", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		all = slices.Clone(e.all)
		return len(all) >= n
	})
	return all
}

func TestSummary(t *testing.T) {
	var told ends
	s := serve(t, Config{Ended: told.add, Clients: Clients{TrustedProxies: []string{"127.0.0.1"}}}, userApp{})
	c := gatewaytest.Dial(t, s)
	request := gatewaytest.Upgrade("/ws?token=secret", "X-Request-ID: abc\r\nX-Forwarded-For: 192.0.2.1\r\n")
	io.WriteString(c, request)
	c.Response()
	bytes := len(request)
	for range 3 {
		m := gatewaytest.Text("hello")
		c.Write(m)
		bytes += len(m)
		c.Expect("text alice")
	}
	goodbye := gatewaytest.CloseFrame(1000, "")
	c.Write(goodbye)
	bytes += len(goodbye)
	c.Expect("close 1000", "EOF")
	got := told.wait(t, 1)[0]
	want := Summary{Client: got.Client, User: "alice", Session: "session-1", Path: "/ws", RequestID: "abc", Code: 1000,
		MessagesReceived: 3, MessagesSent: 3, BytesReceived: uint64(bytes), BytesSent: got.BytesSent, Ended: got.Ended, Duration: got.Duration}
	if got != want || got.Client.String() != "192.0.2.1:0" || got.BytesSent < 3*7+4+100 || got.Duration <= 0 || time.Since(got.Ended) > time.Hour {
		t.Errorf("got %+v, want %+v", got, want)
	}
	// A request that is refused is no WebSocket; one that breaks off has no code.
	io.WriteString(gatewaytest.Dial(t, s), "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
	broken := gatewaytest.Open(t, s, get)
	broken.Close()
	if all := told.wait(t, 2); len(all) != 2 || all[1].Code != 1006 {
		t.Errorf("got %+v, want one more, with 1006", all)
	}
}

// TestSummaryIsSampled, and costs nothing where it is off.
func TestSummaryIsSampled(t *testing.T) {
	var told ends
	s := serve(t, Config{Ended: told.add, EndedSample: 2}, Echo{})
	const n = 200
	for range n {
		gatewaytest.Open(t, s, get).Close()
	}
	await(t, "all have left", func() bool { return s.Connections() == 0 })
	if got := len(told.wait(t, 0)); got < n/4 || got > n*3/4 { // 7 standard deviations
		t.Errorf("told of %d of %d connections, want about half", got, n)
	}
	if _, c, _ := byHand(t, Config{}, Echo{}); c.rare != nil {
		t.Error("a connection without a summary holds something for it")
	}
}

func TestRequestClone(t *testing.T) {
	head := []byte("GET /ws?a=b HTTP/1.1\r\nHost: x\r\nCookie: a=1\r\nX-A: 1\r\ncookie: b=2\r\n\r\n")
	var r Request
	if refusal := parseRequest(head, 64, &r); refusal != nil {
		t.Fatal(refusal.text)
	}
	c := r.Clone()
	clear(head)
	if v, _ := c.Header("X-A"); string(v) != "1" || string(c.Path) != "/ws" || string(c.Query) != "a=b" || string(c.Host) != "x" {
		t.Fatalf("the clone has died with its request: %q", c.head)
	}
	c.SetHeader("COOKIE", "c=3")
	var got []string
	for name, value := range c.Headers {
		got = append(got, string(name)+"="+string(value))
	}
	if strings.Join(got, " ") != "COOKIE=c=3 Host=x X-A=1" {
		t.Errorf("got %q", got)
	}
	c.SetHeader("Cookie", "")
	if _, found := c.Header("Cookie"); found {
		t.Error("a header that was taken out is there")
	}
	defer func() {
		if recover() == nil {
			t.Error("a value with a line end is taken")
		}
	}()
	c.SetHeader("X-A", "1\r\nX-B: 2")
}
