package gateway

import (
	"fmt"
	"io"
	"testing"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/poller"
)

// tableModes runs a test with one descriptor table and with one for each loop.
func tableModes(t *testing.T, test func(t *testing.T, own bool)) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprint("OwnTables=", own), func(t *testing.T) {
			if err := poller.CanSplit(); own && err != nil {
				t.Skip(err)
			}
			test(t, own)
		})
	}
}

// The kernel fills loops unevenly. Nobody is refused while there is a place anywhere, and the next
// one is.
func TestAFullLoopPassesOnToThoseWithRoom(t *testing.T) {
	tableModes(t, func(t *testing.T, own bool) {
		const loops, each = 3, 16
		s := serve(t, Config{OwnTables: own, Loops: loops, MaxConns: loops * each,
			MaxConnsPerLoop: each}, Echo{})
		var clients []*wire
		for range loops * each {
			c := open101(t, s, "/ws")
			clients = append(clients, c)
		}
		for i, c := range clients {
			c.Write(frame(true, ws.OpText, fmt.Sprint("client ", i)))
			c.expect(fmt.Sprint("text client ", i))
		}
		onLoops(s, func(w *worker) {
			if got := len(w.conns); got != each || w.held.Load() != each {
				t.Errorf("a loop holds %d connections and counts %d, want %d", got, w.held.Load(), each)
			}
		})
		over := dial(t, s)
		over.Write([]byte(handshake(getChat)))
		if resp, _ := over.answer("GET"); resp.StatusCode != 503 {
			t.Errorf("one more: got %d, want 503", resp.StatusCode)
		}
		over.Close()

		// A place that comes free is found from wherever the kernel puts the next client.
		clients[0].Close()
		await(t, "a place is free", func() bool { return s.Connections() == loops*each-1 })
		open101(t, s, "/ws")
		onLoops(s, func(w *worker) {
			if got := len(w.conns); got != each {
				t.Errorf("a loop holds %d connections, want %d", got, each)
			}
		})
		if got := s.metrics.passedOn.Get(); got == 0 {
			t.Log("the kernel spread the clients evenly: nothing was passed on")
		}
	})
}

// Sockets that are on their way to another loop when the gateway drains or closes are not lost
// count of.
func TestDrainAndCloseWhileSocketsArePassedOn(t *testing.T) {
	tableModes(t, func(t *testing.T, own bool) {
		for _, drains := range []bool{true, false} {
			s := serve(t, Config{OwnTables: own, Loops: 2, MaxConns: 200, MaxConnsPerLoop: 100,
				DrainSpread: -1}, Echo{})
			// One loop holds all that it may already.
			s.workers[0].held.Add(100)
			for range 60 {
				c := dial(t, s)
				go func() { // as a client that sees it is not wanted
					_, _ = io.Copy(io.Discard, c)
					c.Close()
				}()
			}
			if drains {
				ended(t, drain(t, s))
			}
			s.Close()
			if got := s.Connections(); got != 0 {
				t.Errorf("%d connections are counted after the end", got)
			}
		}
	})
}

func TestMaxConnsPerLoopIsEnoughForMaxConns(t *testing.T) {
	for _, c := range []struct {
		each int
		ok   bool
	}{{33, false}, {34, true}, {35, true}, {0, true}} {
		cfg, err := Config{Loops: 3, MaxConns: 100, MaxConnsPerLoop: c.each}.withDefaults()
		if (err == nil) != c.ok {
			t.Errorf("%d for each loop: got %v, want success %v", c.each, err, c.ok)
		}
		if c.each == 0 && cfg.MaxConnsPerLoop != 100 {
			t.Errorf("default: got %d, want 100", cfg.MaxConnsPerLoop)
		}
	}
}

// Listeners that were inherited are served whatever the number of loops is.
func TestInheritedListenersAndAnyNumberOfLoops(t *testing.T) {
	tableModes(t, func(t *testing.T, own bool) {
		for _, c := range []struct {
			listeners, loops int
			shared           bool // by SO_REUSEPORT
			hold             bool
		}{
			{2, 2, true, false}, {5, 2, true, false}, {3, 1, true, false},
			{1, 3, true, false}, {1, 3, true, true}, {1, 3, false, false}, {1, 2, false, true},
		} {
			t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
				before := openFiles(t)
				var given []*poller.Listener
				at := "127.0.0.1:0"
				for range c.listeners {
					ln, err := poller.Listen(at, poller.ListenOptions{ReusePort: c.shared})
					if err != nil {
						t.Fatal(err)
					}
					at = ln.Addr().String()
					given = append(given, ln)
				}
				s := serve(t, Config{OwnTables: own, Listeners: given, Loops: c.loops, Hold: c.hold}, Echo{})
				if s.Addr().String() != at {
					t.Errorf("got %v, want %v", s.Addr(), at)
				}
				if own && openFiles(t) > before {
					t.Errorf("the process's table holds %d descriptors more than before", openFiles(t)-before)
				}
				listening := func() (n int) {
					onLoops(s, func(w *worker) { n += len(w.acceptors) })
					return n
				}
				if c.hold {
					if got := listening(); got != c.listeners {
						t.Errorf("%d listeners before Accept, want those %d of the process before", got, c.listeners)
					}
					s.Accept()
				}
				want := c.listeners
				if c.shared {
					want = max(want, c.loops)
				}
				if got := listening(); got != want {
					t.Errorf("got %d listeners, want %d", got, want)
				}
				const clients = 30
				for i := range clients {
					open101(t, s, "/ws").Write(frame(true, ws.OpText, fmt.Sprint(i)))
				}
				if !c.shared && c.loops > 1 { // one listener for all
					onLoops(s, func(w *worker) {
						if got := len(w.conns); got < clients/c.loops-1 || got > clients/c.loops+1 {
							t.Errorf("a loop holds %d of %d connections, want its share of %d loops", got, clients, c.loops)
						}
					})
				}
				fds, err := s.ListenerFDs()
				if err != nil || len(fds) != want {
					t.Errorf("ListenerFDs: got %d and %v, want %d", len(fds), err, want)
				}
				for _, fd := range fds {
					unix.Close(fd)
				}
				s.Close()
				if ln, err := poller.Listen(at, poller.ListenOptions{}); err != nil {
					t.Errorf("a listener is left: %v", err)
				} else {
					ln.Close()
				}
			})
		}
	})
}

// Connections move between processes whose loops are of different numbers, with tables of their own
// or one for all, as many as there is room for.
func TestHandoverBetweenTables(t *testing.T) {
	if err := poller.CanSplit(); err != nil {
		t.Skip(err)
	}
	const clients = 40
	for _, c := range []struct {
		from, to bool // OwnTables
		room     int
	}{
		{false, true, clients}, {true, false, clients}, {true, true, clients + 1}, {true, true, clients},
		{true, true, clients - 1}, {false, true, clients - 1},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			from := serve(t, Config{OwnTables: c.from, Loops: 2}, movable{})
			to := serve(t, Config{OwnTables: c.to, Loops: 3, MaxConns: c.room,
				MaxConnsPerLoop: (c.room + 2) / 3}, movable{})
			var all []*wire
			for i := range clients {
				all = append(all, open101(t, from, "/ws"))
				all[i].Write(frame(true, ws.OpText, "a"))
				all[i].expect("text 1 a")
			}
			want := min(clients, c.room)
			if n := move(t, from, to); n != want {
				t.Errorf("%d connections moved, want %d", n, want)
			}
			for _, client := range all { // also the one that had to stay
				client.Write(frame(true, ws.OpText, "b"))
				client.expect("text 2 b")
			}
			for _, s := range []*Server{from, to} {
				onLoops(s, func(w *worker) {
					if got := w.held.Load(); got != int64(len(w.conns)) {
						t.Errorf("a loop with %d connections counts %d", len(w.conns), got)
					}
				})
			}
			if got := []int{from.Connections(), to.Connections()}; got[0] != clients-want || got[1] != want {
				t.Errorf("connections: got %v, want %v", got, []int{clients - want, want})
			}
			for _, client := range all {
				client.Close()
			}
			await(t, "nothing is held", func() bool { return from.Connections()+to.Connections() == 0 })
		})
	}
}

// What a full loop has accepted when a handover begins travels like all others.
func TestHandoverWaitsForSocketsThatArePassedOn(t *testing.T) {
	tableModes(t, func(t *testing.T, own bool) {
		from := serve(t, Config{OwnTables: own, Loops: 2, MaxConns: 200, MaxConnsPerLoop: 100}, movable{})
		to := serve(t, Config{OwnTables: own, Loops: 1}, movable{})
		from.workers[0].held.Add(100) // full
		const clients = 60
		var all []*wire
		for range clients {
			c := dial(t, from)
			c.Write([]byte(handshake(getChat)))
			all = append(all, c)
		}
		await(t, "all are accepted", func() bool { return from.Connections() == clients })
		if n := move(t, from, to); n != clients {
			t.Errorf("%d connections moved, want %d", n, clients)
		}
		for _, c := range all {
			if resp := c.response(); resp.StatusCode != 101 {
				t.Errorf("got %s", resp.Status)
			}
			c.Write(frame(true, ws.OpText, "a"))
			c.expect("text 1 a")
		}
	})
}
