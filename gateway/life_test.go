package gateway

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// A pause that comes behind our Close must not keep the peer's Close from being read.
func TestPauseBehindClose(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{CloseTimeout: 2 * testPatience}, app)
	c := open101(t, s, "/ws")
	conn := <-app.opened
	conn.Post(func(c *Conn) {
		c.Close(1000, "")
		c.PauseReading()
	})
	c.expect("close 1000")
	c.Write(closeFrame(1000, ""))
	c.expect("EOF")
}

// StallTimeout holds for last words too: CloseTimeout may be longer.
func TestSlowConsumerStallsInItsLastWords(t *testing.T) {
	for _, peerFirst := range []bool{false, true} {
		s := serve(t, Config{Loops: 1, MaxQueue: 1 << 20, StallTimeout: 50 * time.Millisecond, CloseTimeout: 2 * testPatience}, flood{})
		stalls := counting(s, `sluice_slow_consumers_total{reason="stall"}`)
		dialNarrow(t, s)
		onLoops(s, func(w *worker) {
			conn := w.conns[0]
			for conn.out == nil || conn.out.queued() < 500_000 { // more than the kernel takes for a reader that does not read
				conn.Send(ws.OpBinary, make([]byte, 10_000))
			}
			if peerFirst {
				conn.peerCode = 1000 // as if its Close had come
			}
			conn.Close(1000, "")
		})
		await(t, "it is cut off", func() bool { return s.Connections() == 0 })
		if got := stalls(); got != 1 {
			t.Errorf("peer closed first %v: got %d stalls counted, want 1", peerFirst, got)
		}
	}
}

// A message to another connection than the one in hand must not leave its buffer with the loop.
func TestLargeMessageLeavesNoBuffer(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{Loops: 1}, app)
	c := open101(t, s, "/ws")
	conn := <-app.opened
	onLoops(s, func(w *worker) {
		conn.Send(ws.OpBinary, make([]byte, 8*flushAt))
		if got := cap(w.scratch); got > 4*flushAt {
			t.Errorf("the loop keeps %d bytes, want at most %d", got, 4*flushAt)
		}
	})
	if got := len(c.next()); got != len("binary ")+8*flushAt {
		t.Errorf("got %d bytes of a message, want all", got)
	}
}

// A drain is over when no loop accepts any more, not when there happens to be no connection.
func TestDrainWaitsForLoopsThatStillAccept(t *testing.T) {
	app := newSlowApp()
	s := serve(t, Config{Loops: 2, DrainSpread: -1}, app)
	c := open101(t, s, "/ws")
	own := (<-app.opened).w
	other := s.workers[0]
	if other == own {
		other = s.workers[1]
	}
	goOn := make(chan struct{})
	other.loop.Post(func() { <-goOn })

	done := make(chan error, 1)
	go func() { done <- s.Drain(t.Context()) }()
	c.expect("close 1001")
	c.Write(closeFrame(1001, ""))
	c.expect("EOF")
	c.Close()
	await(t, "the connection is gone", func() bool { return s.Connections() == 0 })
	seen := make(chan struct{})
	own.loop.Post(func() { close(seen) })
	<-seen
	select {
	case <-s.emptied:
		t.Error("the drain counts as over while a loop still accepts")
	default:
	}
	late := dial(t, s) // the other loop's: it alone listens
	io.WriteString(late, upgradeRequest("/ws"))
	close(goOn)
	if resp, _ := late.answer("GET"); resp.StatusCode != 503 {
		t.Errorf("got %d, want 503", resp.StatusCode)
	}
	late.Close()
	ended(t, done)
}

// Close may overtake a Drain that has just begun: nothing is accepted behind it.
func TestDrainBehindClose(t *testing.T) {
	s := serve(t, Config{Loops: 1}, Echo{})
	onLoops(s, func(w *worker) {
		conn, err := net.Dial("tcp", s.Addr().String()) // the kernel completes it
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		w.abort()
		w.drain()
		if got := len(w.conns); got != 0 {
			t.Errorf("got %d connections accepted behind Close, want none", got)
		}
	})
}

// A Start that fails half-way leaves nothing behind once the server is closed.
func TestStartFailsHalfWay(t *testing.T) {
	before := openFiles(t)
	s, err := New(Config{Listen: "127.0.0.1:0", Loops: 3}, Echo{})
	if err != nil {
		t.Fatal(err)
	}
	s.workers[1].listeners[0].Close() // its loop cannot take it over
	if err := s.Start(); err == nil {
		t.Error("got nil, want an error")
	}
	if s.Ready() == nil {
		t.Error("a server that failed to start says it is ready")
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Errorf("Drain: got %v, want nil: there is nothing to drain", err)
	}
	s.Close()
	if after := openFiles(t); after > before {
		t.Errorf("got %d descriptors more than before", after-before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// wrapped is an application around another, as one that checks tokens would be.
type wrapped struct{ app App }

func (a wrapped) ForLoop(post func(fn func()) bool) Handler {
	return struct{ Handler }{a.app.ForLoop(post)}
}

func TestCountInsideAnotherApp(t *testing.T) {
	s := serve(t, Config{}, wrapped{Count(memory(t))})
	c := open101(t, s, "/ws")
	c.welcome(0, false)
	c.Write(text("a"))
	c.expect(`text {"count":1}`)
}
