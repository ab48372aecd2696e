package backend

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway"
)

// One request in flight per connection; what comes meanwhile is in the next one, whole and in
// order.
func TestOneInFlight(t *testing.T) {
	gate := make(chan struct{})
	var inFlight atomic.Int32
	b := newService(t, func(w http.ResponseWriter, _ *http.Request, body string) {
		if inFlight.Add(1) > 1 {
			t.Error("two requests of one connection at once")
		}
		if strings.HasPrefix(body, "TEXT") {
			<-gate
		}
		inFlight.Add(-1)
		echo(w, body)
	})
	e := newEdge(t, Config{}, b.URL)
	large := requestsWithEvents(t, "64") - requestsWithEvents(t, "32")
	c := e.dial(t, "/ws/chat/")
	c.send("0")
	await(t, "the first message is in flight",
		func() bool { return strings.Contains(b.bodies(), "TEXT 1 0") })
	for i := 1; i < 50; i++ {
		c.send(fmt.Sprint(i))
	}
	await(t, "all others wait", func() bool {
		return waitingBytes(e) == 40*len("TEXT 2\r\n12\r\n")+9*len("TEXT 1\r\n1\r\n")
	})
	close(gate)
	for i := range 50 {
		c.want(fmt.Sprint(i))
	}
	if got := len(b.seen()); got != 3 {
		t.Errorf("got %d requests, want 3: OPEN, the first message, all others\n%s", got, b.bodies())
	}
	large = requestsWithEvents(t, "64") - requestsWithEvents(t, "32") - large
	if large != 1 {
		t.Errorf("got %d requests of 33 to 64 events counted, want the one with 49", large)
	}
}

// requestsWithEvents is how many requests of at most so many events were counted.
func requestsWithEvents(t *testing.T, most string) int {
	t.Helper()
	var b strings.Builder
	metrics.WritePrometheus(&b, false)
	name := `sluice_backend_request_events_bucket{le="` + most + `"} `
	_, rest, ok := strings.Cut(b.String(), name)
	number, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(number)
	if !ok || err != nil {
		t.Fatalf("%q of %s: %v", number, name, err)
	}
	return n
}

// waitingBytes is what the connections of e have pending, taken on their loops.
func waitingBytes(e *edge) (n int) {
	e.onLoops(func(l *loop) {
		for _, s := range l.sessions {
			n += len(s.pending)
		}
	})
	return n
}

func (e *edge) onLoops(fn func(l *loop)) {
	for _, l := range e.app.loops {
		done := make(chan struct{})
		if l.post(func() { fn(l); close(done) }) {
			<-done
		}
	}
}

// A connection with its share waiting is not read from; the others are.
func TestShareIsBounded(t *testing.T) {
	gate := make(chan struct{})
	var stall sync.Once
	b := newService(t, func(w http.ResponseWriter, _ *http.Request, body string) {
		if strings.Contains(body, "first") {
			<-gate
		}
		echo(w, body)
	})
	defer stall.Do(func() { close(gate) })
	const share = 8 << 10
	e := newEdge(t, Config{MaxPending: share}, b.URL)
	c, other := e.dial(t, "/ws/chat/"), e.dial(t, "/ws/chat/")
	c.send("first")
	await(t, "it is in flight", func() bool { return strings.Contains(b.bodies(), "first") })
	message := strings.Repeat("x", 1000)
	const count = 5000
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range count {
			c.send(message)
		}
	}()
	await(t, "its share is full", func() bool { return waitingBytes(e) >= share })
	other.send("I do not wait")
	other.want("I do not wait")
	select {
	case <-sent:
		t.Error("5 MB were taken from a client whose backend does not answer")
	default:
	}
	if got := waitingBytes(e); got > share+len(message)+eventOverhead {
		t.Errorf("%d bytes wait, want at most %d and one message", got, share)
	}
	stall.Do(func() { close(gate) })
	c.want("first")
	for range count {
		c.want(message)
	}
	<-sent
	for _, r := range b.seen() {
		if len(r.body) > share+len(message)+eventOverhead {
			t.Errorf("a request of %d bytes, want at most %d and one message", len(r.body), share)
		}
	}
}

// All connections together: beyond the bound a connection ends with 1013, and handshakes are
// refused before.
func TestBufferedIsBounded(t *testing.T) {
	gate := make(chan struct{})
	b := newService(t, func(w http.ResponseWriter, _ *http.Request, body string) {
		if strings.HasPrefix(body, "TEXT") {
			<-gate
		}
		echo(w, body)
	})
	defer close(gate)
	before := int(buffered.Load())
	const bound = 10_000
	e := newEdge(t, Config{MaxBuffered: before + bound}, b.URL)
	var all []*client
	for range 4 {
		all = append(all, e.dial(t, "/ws/chat/"))
	}
	for _, c := range all[:3] {
		c.send(strings.Repeat("x", 3000))
	}
	await(t, "three are held", func() bool { return int(buffered.Load())-before > 9000 })
	all[3].send(strings.Repeat("x", 3000))
	all[3].want("closed 1013")
	if _, res, _ := e.tryDial("/ws/chat/"); res == nil ||
		res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a handshake at three quarters: got %v, want 503", res)
	}
}

// Requests in flight are bounded over all connections, and those that wait get their turn in order.
func TestRequestsAreBounded(t *testing.T) {
	for _, loops := range []int{1, 2} {
		const bound = 4
		var now, most atomic.Int32
		b := newService(t, func(w http.ResponseWriter, _ *http.Request, body string) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(2 * time.Millisecond)
			now.Add(-1)
			echo(w, body)
		})
		e := newEdgeWith(t, gateway.Config{Loops: loops}, Config{MaxRequests: bound}, b.URL)
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				c := e.dial(t, "/ws/chat/")
				for range 5 {
					c.send("x")
					c.want("x")
				}
			})
		}
		all.Wait()
		if got := most.Load(); got > bound || got < bound/2 {
			t.Errorf("%d loops: %d requests at once, want %d", loops, got, bound)
		}
	}
}

// A backend that is gone: handshakes are refused at once, messages wait and are delivered once, in
// order.
func TestBackendAway(t *testing.T) {
	b := newSwitchable(t)
	e := newEdge(t, Config{}, b.URL)
	c := e.dial(t, "/ws/chat/")
	c.send("before")
	c.want("before")
	b.down()
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint(i))
		c.send(want[i])
	}
	await(t, "the breaker is open", func() bool { return e.app.targets[0].breaker.open() })
	for range 3 {
		began := time.Now()
		if _, res, _ := e.tryDial("/ws/chat/"); res == nil || res.StatusCode != http.StatusBadGateway {
			t.Errorf("a handshake: got %v, want 502", res)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("a handshake was refused after %v, want at once", took)
		}
	}
	b.up()
	c.want(want...)
	e.dial(t, "/ws/chat/").send("x")
	if got := strings.Count(b.bodies(), "TEXT 1 0"); got != 1 {
		t.Errorf("the first message came %d times", got)
	}
}

// Messages for a backend that stays away are held for so long, and then the connection ends with
// 1013.
func TestHold(t *testing.T) {
	b := newSwitchable(t)
	e := newEdge(t, Config{Hold: 300 * time.Millisecond}, b.URL)
	c := e.dial(t, "/ws/chat/")
	b.down()
	c.send("x")
	c.want("closed 1013")
	b.up()
	await(t, "the message and the end are told",
		func() bool { return strings.HasSuffix(b.bodies(), "TEXT 1 x CLOSE 2 \x03\xf5") })
}

// The share of a connection is full while the backend is away.
func TestOverflow(t *testing.T) {
	b := newSwitchable(t)
	e := newEdge(t, Config{MaxPending: 1000}, b.URL)
	e.patience = 0 // the backend does not come back
	c := e.dial(t, "/ws/chat/")
	b.down()
	c.send("x")
	await(t, "the breaker is open", func() bool { return e.app.targets[0].breaker.open() })
	t.Log(time.Now(), waitingBytes(e), e.app.targets[0].breaker.failures.Load())
	c.send(strings.Repeat("y", 900))
	t.Log(time.Now(), waitingBytes(e))
	c.send(strings.Repeat("z", 900))
	c.want("closed 1013")
}

// A request that may have been handled is not repeated: the client is told that something went
// wrong.
func TestMaybeHandled(t *testing.T) {
	for _, tt := range []struct {
		name string
		fail func(w http.ResponseWriter, r *http.Request)
		want string
	}{
		{"killed", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) },
			"closed 1013"},
		{"half an answer", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "TEXT 3\r\nm:x\r\n")
			panic(http.ErrAbortHandler)
		}, "closed 1013"},
		{"too slow", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			"closed 1013"},
		{"500", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, "closed 1011"},
		{"503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "closed 1013"},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "TEXT 3\r\nm:x\r\nTEXT 99\r\n")
		}, "closed 1011"},
		{"another type", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, "TEXT 3\r\nm:x\r\n")
		}, "closed 1011"},
		{"too long", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "TEXT 1000\r\n"+strings.Repeat("x", 4096)+"\r\n")
		}, "closed 1013"},
		{"not UTF-8", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "TEXT 3\r\nm:\xff\r\n")
		}, "closed 1011"},
		{"OPEN again", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "OPEN\r\n")
		}, "closed 1011"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newService(t, func(w http.ResponseWriter, r *http.Request, body string) {
				if strings.HasPrefix(body, "TEXT") {
					tt.fail(w, r)
					return
				}
				echo(w, body)
			})
			e := newEdge(t, Config{Timeout: 200 * time.Millisecond, MaxAnswer: 4096}, b.URL)
			c := e.dial(t, "/ws/chat/")
			c.send("once")
			c.want(tt.want)
			await(t, "the backend has heard of the end", func() bool {
				return strings.Contains(b.bodies(), "CLOSE") || strings.Contains(b.bodies(), "DISCONNECT")
			})
			if got := strings.Count(b.bodies(), "once"); got != 1 {
				t.Errorf("the message came %d times: %s", got, b.bodies())
			}
		})
	}
}

// Every connection that breaks is told to the backend, and again until it answers.
func TestDisconnect(t *testing.T) {
	b := newSwitchable(t)
	var failures atomic.Int32
	failures.Store(2)
	b.answer = func(w http.ResponseWriter, _ *http.Request, body string) {
		if strings.Contains(body, "DISCONNECT") && failures.Add(-1) >= 0 {
			w.WriteHeader(503)
			return
		}
		echo(w, body)
	}
	e := newEdge(t, Config{}, b.URL)
	const count = 20
	var all []*client
	for range count {
		c := e.dial(t, "/ws/chat/")
		c.send("x")
		c.want("x")
		all = append(all, c)
	}
	b.down()
	for _, c := range all {
		c.CloseNow()
	}
	await(t, "all are gone", func() bool { return e.Connections() == 0 })
	if got := goodbyesWaiting.Load(); got < count {
		t.Errorf("%d wait to be told, want %d", got, count)
	}
	b.up()
	await(t, "the backend has heard of all", func() bool { return goodbyesWaiting.Load() == 0 })
	told := make(map[string]int)
	for _, r := range b.seen() {
		if r.body == "DISCONNECT\r\n" {
			told[r.id]++
		}
	}
	again := 0
	for _, n := range told {
		again += n - 1
	}
	if len(told) != count || again != 2 {
		t.Errorf("%d were told, %d of them again; want %d and 2", len(told), again, count)
	}
}

// What a client said before it broke off comes before the news of that.
func TestDisconnectBehindMessages(t *testing.T) {
	gate := make(chan struct{})
	b := newService(t, func(w http.ResponseWriter, _ *http.Request, body string) {
		if strings.Contains(body, "first") {
			<-gate
		}
		echo(w, body)
	})
	e := newEdge(t, Config{}, b.URL)
	c := e.dial(t, "/ws/chat/")
	c.send("first")
	await(t, "it is in flight", func() bool { return strings.Contains(b.bodies(), "first") })
	c.send("last")
	await(t, "the other waits", func() bool { return waitingBytes(e) > 0 })
	c.CloseNow()
	await(t, "it is gone", func() bool { return e.Connections() == 0 })
	close(gate)
	await(t, "the end is told",
		func() bool { return strings.HasSuffix(b.bodies(), "TEXT 4 last DISCONNECT") })
}

// switchable is a service at an address that nobody may listen on for a while.
type switchable struct {
	*service
	addr   string
	server *http.Server
}

func newSwitchable(t *testing.T) *switchable {
	b := &switchable{service: &service{}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.addr = ln.Addr().String()
	b.Server = newUnstarted("http://" + b.addr)
	b.start(ln)
	t.Cleanup(func() { b.server.Close() })
	return b
}

func (b *switchable) start(ln net.Listener) {
	b.server = &http.Server{Handler: http.HandlerFunc(b.serve)}
	go b.server.Serve(ln)
}

func (b *switchable) down() { b.server.Close() }

func (b *switchable) up() {
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		panic(err)
	}
	b.start(ln)
}
