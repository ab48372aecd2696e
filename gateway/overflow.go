package gateway

import (
	"slices"

	"golang.org/x/sys/unix"

	"sluice/poller"
)

// The kernel spreads connections over the listeners by a hash, so one loop is full before another.
// A listener that is closed, or not looked at, would lose or hold up the clients in its queue; so
// a full loop goes on accepting, and passes the sockets on to the loop that holds least.

// overflow is what a full loop has accepted and has to pass on. Loop only.
type overflow struct {
	sockets []newSocket // counted in Server.conns and Server.passing
	passing bool        // some are on their way
}

// overflowMost is how many sockets may wait to be passed on before the loop accepts no more for a
// moment: what the acceptor takes at one event may come on top.
const overflowMost = 64

// goesOn reports whether a new socket, with which this loop holds so many, belongs to another loop.
func (w *worker) goesOn(held int64) bool {
	if held > int64(w.cfg.MaxConnsPerLoop) {
		return true
	}
	// Loops that do not listen get their share from here.
	return w.server.oneEar.Load() && held > w.server.emptiest().held.Load()+1
}

// passOn has a socket passed to another loop. It reports false when the gateway as a whole is full
// or leaving, for then it is this loop that says so to the client.
func (w *worker) passOn(s newSocket) bool {
	if w.draining || w.server.taken() > int64(w.cfg.MaxConns) {
		return false
	}
	w.server.passing.Add(1)
	w.overflow.sockets = append(w.overflow.sockets, s)
	if len(w.overflow.sockets) == overflowMost {
		w.acceptAgain(w.accepts)
	}
	return true
}

// carry starts to pass on what has collected, at the end of a round. It waits for two loops, so it
// has a goroutine of its own.
func (w *worker) carry() {
	o := &w.overflow
	if len(o.sockets) == 0 || o.passing {
		return
	}
	batch := o.sockets
	o.sockets, o.passing = nil, true
	w.server.carriers.Go(func() {
		left := w.server.spread(w, batch)
		if w.loop.Do(func() { w.carried(left) }) {
			return
		}
		if !w.cfg.OwnTables { // else they have ended with the table
			for _, s := range left {
				_ = unix.Close(s.sysfd)
			}
		}
		w.server.lost(len(left))
	})
}

// carried ends a carry. left are sockets that found no room.
func (w *worker) carried(left []newSocket) {
	w.server.passing.Add(-int64(len(left)))
	for _, s := range left {
		w.turnAway(s)
	}
	w.overflow.passing = false
	w.acceptAgain(w.accepts)
}

// dropOverflow closes what waits to be passed on.
func (w *worker) dropOverflow() {
	for _, s := range w.overflow.sockets {
		_ = unix.Close(s.sysfd)
	}
	w.server.lost(len(w.overflow.sockets))
	w.overflow.sockets = nil
}

// lost ends the counting of sockets on their way that have been closed.
func (s *Server) lost(n int) {
	for range n {
		s.passing.Add(-1)
		s.left()
	}
}

// spread moves sockets of a full loop to loops with room, and returns those that found none.
func (s *Server) spread(from *worker, sockets []newSocket) (left []newSocket) {
	for len(sockets) > 0 {
		to, n := s.reserve(min(len(sockets), poller.MaxCopy))
		if n == 0 {
			break
		}
		if !from.passTo(to, sockets[:n]) {
			to.held.Add(-int64(n))
			break
		}
		sockets = sockets[n:]
	}
	return sockets
}

// emptiest is the loop that holds least.
func (s *Server) emptiest() *worker {
	to := s.workers[0]
	for _, w := range s.workers[1:] {
		if w.held.Load() < to.held.Load() {
			to = w
		}
	}
	return to
}

// reserve takes up to n places in the loop that holds least. Any goroutine.
func (s *Server) reserve(n int) (to *worker, got int) {
	to, most := s.emptiest(), int64(s.cfg.MaxConnsPerLoop)
	// Another goroutine may take the last places at the same moment.
	got = int(min(int64(n), most-to.held.Load()))
	if got <= 0 {
		return to, 0
	}
	if over := to.held.Add(int64(got)) - most; over > 0 {
		back := min(over, int64(got))
		to.held.Add(-back)
		got -= int(back)
	}
	return to, got
}

// passTo moves sockets from w to another loop, in which they have a place. It reports false when
// they are still w's.
func (w *worker) passTo(to *worker, sockets []newSocket) bool {
	if !w.cfg.OwnTables {
		return to.take(sockets)
	}
	fds := make([]int, len(sockets))
	for i, s := range sockets {
		fds[i] = s.sysfd
	}
	copies, err := poller.CopyFDs(w.loop, to.loop, fds)
	if err != nil {
		w.log.Error("pass connections on to another loop", "error", err)
		return false
	}
	moved := slices.Clone(sockets)
	for i := range moved {
		moved[i].sysfd = copies[i]
	}
	if !to.take(moved) {
		return false // the copies are closed with the table of the loop that has ended
	}
	w.loop.Post(func() { // not waited for: when w has ended, so has its table
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	})
	return true
}

// take makes connections of sockets that have a place here. It reports false when the loop has
// ended.
func (w *worker) take(sockets []newSocket) bool {
	return w.loop.Do(func() {
		w.metrics.passedOn.Add(len(sockets))
		for _, s := range sockets {
			w.connect(s)
			w.server.passing.Add(-1)
		}
	})
}
