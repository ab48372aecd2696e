package gateway

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// byHand is a connection whose loop does not run: the test is the loop, and calls what the loop
// would. Its client is the other end of a socket pair.
func byHand(t testing.TB, cfg Config, app App) (w *worker, c *Conn, client int) {
	t.Helper()
	cfg.Listen, cfg.Loops = "127.0.0.1:0", 1
	s, err := New(cfg, app)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w = s.workers[0]
	// The loop stands still, and the test takes its place.
	still, goOn := make(chan struct{}), make(chan struct{})
	w.loop.Post(func() { close(still); <-goOn })
	<-still
	w.accept(fds[0])
	c = w.conns[0]
	t.Cleanup(func() {
		c.end(gonePeer)
		close(goOn)
		unix.Close(fds[1])
		s.Close()
	})
	unix.Write(fds[1], []byte(handshake(getChat)))
	c.readable()
	if c.state != open {
		t.Fatalf("got state %d after the handshake, want open", c.state)
	}
	receive(t, fds[1])
	return w, c, fds[1]
}

// receive reads what has come.
func receive(t testing.TB, fd int) string {
	t.Helper()
	p := make([]byte, 256<<10)
	n, err := unix.Read(fd, p)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(p[:n])
}

func TestHotPathsDoNotAllocate(t *testing.T) {
	w, c, client := byHand(t, Config{}, Count(memory(t)))
	buf := make([]byte, 64<<10)
	discard := func() int {
		n, err := unix.Read(client, buf)
		if err != nil {
			t.Fatalf("nothing was sent: %v", err)
		}
		return n
	}
	whole, binary, ping := text("a message of the usual size, in one frame"), frame(true, ws.OpBinary, strings.Repeat("b", 2000)), frame(true, ws.OpPing, "p")
	many := bytes.Repeat(whole, 100)
	fragments := fragmentsOf(ws.OpText, strings.Repeat("fragment ", 100), 4)
	cut := len(binary) / 2
	for _, tc := range []struct {
		name string
		run  func()
	}{
		{"a counted message", func() {
			unix.Write(client, whole)
			c.readable()
			discard()
		}},
		{"a hundred in one segment", func() {
			unix.Write(client, many)
			c.readable()
			discard()
		}},
		{"a message in fragments", func() {
			unix.Write(client, fragments)
			c.readable()
			discard()
		}},
		{"a message in two segments", func() {
			unix.Write(client, binary[:cut])
			c.readable()
			unix.Write(client, binary[cut:])
			c.readable()
			discard()
		}},
		{"a header in two segments", func() {
			unix.Write(client, whole[:3])
			c.readable()
			unix.Write(client, whole[3:])
			c.readable()
			discard()
		}},
		{"a ping", func() {
			c.controls = 0
			unix.Write(client, ping)
			c.readable()
			discard()
		}},
		{"a heartbeat", func() {
			w.beatOf, c.beatAt = -1, -1 // due, and not encoded yet
			c.expire()
			if n := discard(); n != len(w.beat) {
				t.Fatalf("got %d bytes, want a heartbeat of %d", n, len(w.beat))
			}
		}},
		{"an idle tick", func() {
			c.expire() // woken for nothing: it looks and arms again
		}},
		{"the end of a round", func() {
			w.totals.messagesReceived++
			w.published.publish(w.totals)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.run() // what is pooled is made
			if got := testing.AllocsPerRun(200, tc.run); got != 0 {
				t.Errorf("got %v allocations, want 0", got)
			}
			if c.state != open || c.in != nil || c.out != nil {
				t.Errorf("between events: got state %d, input %v, output %v, want an open connection that holds neither", c.state, c.in, c.out)
			}
		})
	}
}

// mallocs counts the allocations of the whole process while fn runs.
func mallocs(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// The same over real sockets and a running loop, the client included, which here only moves bytes.
func TestMessagesDoNotAllocate(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1}, Count(memory(t)))
	c := open101(t, s, "/ws")
	c.welcome(0, false)
	const total = 5000
	message, reply := text("message"), make([]byte, 64)
	size := func(i int) int { return 2 + len(`{"count":}`) + len(fmt.Sprint(i)) }
	count := 0
	exchange := func(n int) {
		for range n {
			count++
			digits := 1
			for k := count; k >= 10; k /= 10 {
				digits++
			}
			c.Write(message)
			if _, err := io.ReadFull(c.r, reply[:size(0)-1+digits]); err != nil {
				t.Fatal(err)
			}
		}
	}
	exchange(100)
	if got := mallocs(func() { exchange(total) }); got >= total {
		// Not even one for each. The race detector's build of netpoll makes some for its table of
		// descriptors, and the runtime some for itself.
		t.Errorf("got %d allocations for %d messages, want next to none", got, total)
	}
	if want := fmt.Sprintf(`{"count":%d}`, total+100); !bytes.Contains(reply, []byte(want)) {
		t.Errorf("got %q as the last reply, want %s", reply, want)
	}
}

func TestHeartbeatsDoNotAllocate(t *testing.T) {
	const n = 200 // enough to dwarf what the race detector's build of netpoll allocates for each wake-up
	s := serve(t, Config{Loops: 1, Heartbeat: 20 * time.Millisecond, StallTimeout: time.Hour}, immortal{})
	for range n {
		open101(t, s, "/ws")
	}
	// Reading the metric would allocate.
	beats := func() uint64 { return uint64(s.workers[0].published.heartbeats.Load()) }
	wait := func(until uint64) {
		for deadline := time.Now().Add(testPatience); beats() < until; {
			if time.Now().After(deadline) {
				t.Fatalf("got %d heartbeats, want %d", beats(), until)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	wait(2 * n)
	from := beats()
	got := mallocs(func() { wait(from + 20*n) })
	if sent := beats() - from; got > sent/4 {
		t.Errorf("got %d allocations for %d heartbeats, want next to none", got, sent)
	}
}

// What a connection holds between messages does not depend on what it has been through.
func TestNothingIsHeldBetweenMessages(t *testing.T) {
	_, c, client := byHand(t, Config{}, Echo{})
	for _, sent := range [][]byte{
		frame(true, ws.OpBinary, strings.Repeat("b", 60_000)),
		fragmentsOf(ws.OpText, strings.Repeat("text", 10_000), 50),
		bytes.Repeat(text("many"), 1000),
	} {
		for len(sent) > 0 {
			n := min(len(sent), 700)
			unix.Write(client, sent[:n])
			c.readable()
			sent = sent[n:]
		}
		receive(t, client)
		if c.in != nil || c.out != nil {
			t.Errorf("got input %v, output %v, want neither", c.in, c.out)
		}
	}
}

var seriesPattern = regexp.MustCompile(`(?m)^(sluice_[^ ]+) `)

func series(s *Server) []string {
	var b bytes.Buffer
	s.WriteMetrics(&b)
	var names []string
	for _, m := range seriesPattern.FindAllStringSubmatch(b.String(), -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return names
}

// Whatever clients send, there is no series more for it, and none with anything of theirs in its
// name.
func TestClientsCannotAddSeries(t *testing.T) {
	s := serve(t, Config{}, nil)
	before := series(s)
	if len(before) < 40 {
		t.Fatalf("got %d series, want those of metrics.go", len(before))
	}
	for _, request := range []string{
		handshake(getChat), handshake("BREW /ws HTTP/1.1"), handshake("GET /mischief HTTP/1.1"), handshake(getChat, "Origin: http://mischief.test"),
		handshake("GET /ws?session_id=mischief HTTP/1.1"), handshake(getChat, "Upgrade: mischief"), handshake(getChat, "X-Request-ID: mischief"),
		"\x16\x03", handshake(getChat, "Cookie: "+strings.Repeat("mischief", 2000)), head("GET /readyz?mischief HTTP/1.1", hostLine),
	} {
		c := dial(t, s)
		io.WriteString(c, request)
		c.response()
		c.Close()
	}
	for code := 0; code < 5000; code += 37 {
		c := open101(t, s, "/ws")
		c.Write(frame(true, ws.OpClose, string([]byte{byte(code >> 8), byte(code)})+"mischief"))
		for got := ""; got != "EOF"; {
			got = c.next()
		}
		c.Close()
	}
	hasty := serve(t, Config{HandshakeTimeout: 50 * time.Millisecond, CloseTimeout: 50 * time.Millisecond, Heartbeat: 20 * time.Millisecond}, nil)
	random := rand.New(rand.NewPCG(5, 5))
	for range 50 {
		misbehave(hasty, random)
	}
	acceptAll(hasty)
	await(t, "all are gone", func() bool { return hasty.Connections() == 0 })
	await(t, "all are gone", func() bool { return s.Connections() == 0 })
	if after := series(s); !slices.Equal(before, after) {
		for _, name := range after {
			if !slices.Contains(before, name) {
				t.Errorf("new series: %s", name)
			}
		}
		t.Errorf("got %d series, before %d", len(after), len(before))
	}
}
