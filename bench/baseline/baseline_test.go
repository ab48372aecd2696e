package baseline

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak
// alone waits for less than half a second, which is too little on a loaded machine.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(20 * time.Second); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

const deadline = time.Minute

// start runs a baseline until the test ends and returns its host:port and a
// function that stops it and waits.
func start(t *testing.T, name string, o Options) (addr string, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan net.Addr, 1), make(chan error, 1)
	o.Ready = func(a net.Addr) { ready <- a }
	go func() { done <- Serve(ctx, name, "127.0.0.1:0", o) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			t.Errorf("Serve(%s): %v", name, err)
		}
	}
	t.Cleanup(stop)
	select {
	case a := <-ready:
		return a.String(), stop
	case err := <-done:
		stopped = true
		t.Fatalf("Serve(%s) ended at once: %v", name, err)
		panic("not reached")
	}
}

type frames struct {
	SessionID string  `json:"session_id"`
	Count     *uint64 `json:"count"`
	Resumed   *bool   `json:"resumed"`
	TS        string  `json:"ts"`
}

func read(t *testing.T, c client) frames {
	t.Helper()
	text, err := c.read()
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	var f frames
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		t.Fatalf("frame %q: %v", text, err)
	}
	return f
}

func TestEachBaseline(t *testing.T) {
	for _, name := range Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("count", func(t *testing.T) { testCount(t, name) })
			t.Run("echo", func(t *testing.T) { testEcho(t, name) })
			t.Run("bytes", func(t *testing.T) { testByteAtATime(t, name) })
			t.Run("http", func(t *testing.T) { testHTTP(t, name) })
			t.Run("heartbeat", func(t *testing.T) { testHeartbeat(t, name) })
			if name != Floor {
				t.Run("goodbye", func(t *testing.T) { testGoodbye(t, name) })
				t.Run("limit", func(t *testing.T) { testLimit(t, name) })
				t.Run("silent", func(t *testing.T) { testSilentPeerIsDropped(t, name) })
			}
		})
	}
}

func testCount(t *testing.T, name string) {
	addr, _ := start(t, name, Options{Heartbeat: -1})
	c := dial(t, name, addr, "")
	w := read(t, c)
	if len(w.SessionID) != 36 || w.Count == nil || *w.Count != 0 || w.Resumed == nil || *w.Resumed {
		t.Fatalf("welcome of a new session: %+v", w)
	}
	if got := c.header().Get("X-Session-Id"); got != w.SessionID && name != "gws" {
		t.Errorf("X-Session-Id %q, want the welcome's %q", got, w.SessionID)
	}
	for want := uint64(1); want <= 5; want++ {
		c.write(strings.Repeat("x", int(want)*90)) // both length forms
		if f := read(t, c); f.Count == nil || *f.Count != want {
			t.Fatalf("reply %+v, want count %d", f, want)
		}
	}
	if code := c.close(1000); code != 1000 {
		t.Errorf("close was answered by %d, want 1000", code)
	}
	if name == Floor { // no sessions
		return
	}
	c = dial(t, name, addr, w.SessionID)
	if r := read(t, c); r.SessionID != w.SessionID || *r.Count != 5 || !*r.Resumed {
		t.Fatalf("welcome of a resumed session: %+v", r)
	}
	c.write("x")
	if f := read(t, c); *f.Count != 6 {
		t.Errorf("count %d after resume, want 6", *f.Count)
	}
	c.close(1000)
	c = dial(t, name, addr, "00000000-0000-4000-8000-000000000001")
	if r := read(t, c); *r.Count != 0 || *r.Resumed {
		t.Errorf("welcome of an unknown session: %+v", r)
	}
	c.close(1000)
}

func testEcho(t *testing.T, name string) {
	addr, _ := start(t, name, Options{App: Echo, Heartbeat: -1})
	c := dial(t, name, addr, "")
	for _, n := range []int{0, 1, 125, 126, 1000, 65535, 65536} {
		want := strings.Repeat("e", n)
		c.write(want)
		got, err := c.read()
		if err != nil {
			t.Fatalf("echo of %d bytes: %v", n, err)
		}
		if got != want {
			t.Fatalf("echo of %d bytes came back as %d bytes", n, len(got))
		}
	}
	c.close(1000)
}

func testHTTP(t *testing.T, name string) {
	addr, _ := start(t, name, Options{})
	get := func(path string) (int, string) {
		client := http.Client{Timeout: deadline, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := client.Get("http://" + addr + path)
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		return r.StatusCode, string(b)
	}
	if status, body := get("/healthz"); status != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %q", status, body)
	}
	if name == Floor {
		return
	}
	var st Stats
	status, body := get("/stats")
	if err := json.Unmarshal([]byte(body), &st); status != 200 || err != nil || st.Goroutines == 0 || st.Sys == 0 {
		t.Errorf("/stats: %d %q (%v)", status, body, err)
	}
	if status, _ := get("/nowhere"); status != 404 {
		t.Errorf("/nowhere: %d, want 404", status)
	}
	if status, _ := get("/ws/chat/?session_id=rubbish"); status != 400 {
		t.Errorf("a malformed session_id: %d, want 400", status)
	}
}

// testByteAtATime: requests and frames may come in any pieces.
func testByteAtATime(t *testing.T, name string) {
	addr, _ := start(t, name, Options{Heartbeat: -1})
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(deadline))
	trickle := func(s string) {
		for i := range len(s) {
			if _, err := io.WriteString(nc, s[i:i+1]); err != nil {
				t.Fatalf("write byte %d: %v", i, err)
			}
		}
	}
	await := func(end string) {
		got := ""
		for b := make([]byte, 1); !strings.HasSuffix(got, end); got += string(b) {
			if _, err := nc.Read(b); err != nil {
				t.Fatalf("after %q: %v, want %q", got, err, end)
			}
		}
	}
	trickle(upgradeRequest)
	await("}") // the welcome
	for _, want := range []string{`{"count":1}`, `{"count":2}`} {
		trickle("\x81\x83mask\x0c\x03\x10") // "abc"
		await(want)
	}
	trickle("\x82\xfe\x00\x80mask" + strings.Repeat("x", 128)) // binary, length in two bytes
	await(`{"count":3}`)
}

const upgradeRequest = "GET /ws/chat/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

func testHeartbeat(t *testing.T, name string) {
	// Long enough that a busy machine answers within two and a half of them.
	addr, _ := start(t, name, Options{Heartbeat: time.Second})
	c := dial(t, name, addr, "")
	read(t, c)
	// The fourth comes after more than two and a half intervals: it lives because it answers
	// pings.
	for i := 0; i < 4; i++ {
		f := read(t, c)
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", f.TS); err != nil {
			t.Fatalf("heartbeat %+v: %v", f, err)
		}
	}
	if c.pings() == 0 {
		t.Errorf("four heartbeats came without a Ping")
	}
	c.close(1000)
}

func testGoodbye(t *testing.T, name string) {
	addr, stop := start(t, name, Options{})
	c := dial(t, name, addr, "")
	read(t, c)
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	if _, err := c.read(); closeCode(err) != 1001 {
		t.Errorf("after the end: %v, want close code 1001", err)
	}
	<-stopped
}

func testLimit(t *testing.T, name string) {
	addr, _ := start(t, name, Options{MaxMessage: 1000, Heartbeat: -1})
	for n, fits := range map[int]bool{999: true, 1000: true, 1001: false} {
		c := dial(t, name, addr, "")
		read(t, c)
		c.write(strings.Repeat("x", n))
		_, err := c.read()
		if fits != (err == nil) {
			t.Errorf("message of %d bytes, limit 1000: %v", n, err)
		}
		c.drop()
	}
}

// testSilentPeerIsDropped: a peer that answers no ping is gone after two and a half intervals.
func testSilentPeerIsDropped(t *testing.T, name string) {
	addr, _ := start(t, name, Options{Heartbeat: 50 * time.Millisecond})
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	io.WriteString(nc, upgradeRequest)
	nc.SetReadDeadline(time.Now().Add(deadline))
	b, err := io.ReadAll(nc)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Fatalf("still connected after %v", deadline)
	}
	if !strings.Contains(string(b), `"ts":`) {
		t.Errorf("no heartbeat before the end: %q", b)
	}
}

func TestUnknownNames(t *testing.T) {
	if err := Serve(context.Background(), "nobody", "127.0.0.1:0", Options{}); err == nil || !strings.Contains(err.Error(), "gorilla") {
		t.Errorf("unknown baseline: %v, want the known ones named", err)
	}
	if err := Serve(context.Background(), "gws", "127.0.0.1:0", Options{App: "chess"}); err == nil {
		t.Error("unknown app: no error")
	}
	if err := Serve(context.Background(), "gws", "256.0.0.1:0", Options{}); err == nil {
		t.Error("impossible address: no error")
	}
}

func TestSweepForgetsIdleSessions(t *testing.T) {
	o, err := Options{SessionTTL: 30 * time.Millisecond}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := newService(o)
	slot, _ := s.enter("")
	held, _ := s.enter("")
	slot.count()
	held.count()
	slot.leave(nil)
	ctx, cancel := context.WithCancel(context.Background())
	swept := make(chan struct{})
	go func() { s.sweep(ctx); close(swept) }()
	for end := time.Now().Add(deadline); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n := len(s.sessions)
		s.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sessions are left, want the one in use", n)
		}
	}
	cancel()
	<-swept
	if again, _ := s.enter(held.id.String()); !again.resumed {
		t.Error("the session in use was swept")
	}
}
