package gateway

import (
	"context"
	"io"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"sluice/poller"
)

// Connections that go on in another process. The old process' side is Handover: it takes
// connections off their loops in batches, and lets go of those that the other process has
// acknowledged. The new process' side is Adopt. Between the two is package takeover, or whatever
// carries descriptors.
//
// Clients that come meanwhile are accepted by the new process, if it does so (AcceptBeside). Else
// the old one accepts them, and they travel like the others, with their request unread: to have
// them wait in the kernel's queues until all have moved could take seconds.
//
// A connection travels when nothing of it is under way that only this process could end: while its
// request is being collected, or while messages flow and the Handler, a Mover, agrees; with TLS see
// tlsmove.go. Others finish here. With the flag travels set, a connection is off the reactor, its
// timer is off, and what is sent to it is queued.

// Handover is a Server's connections on their way to another process. One goroutine at a time.
type Handover struct {
	s       *Server
	turn    int       // the next loop to ask
	quiet   int       // loops in a row that had less than a batch
	accepts bool      // clients are still accepted
	last    bool      // connections are frozen on all loops before any of them is packed
	until   time.Time // how long connections that cannot travel yet are waited for
	grace   time.Time // and how long TLS handshakes under way
}

// waitToMove is how long a Handover waits for connections that cannot travel yet: they have an
// answer of a backend or of the store outstanding.
const waitToMove = 10 * time.Second

// Handover stops reading requests, and begins to give the connections away. End comes last. beside
// says that the other process accepts already. Any goroutine but a loop's; not while another is
// under way.
func (s *Server) Handover(beside bool) *Handover {
	s.onEach(func(w *worker) {
		w.holding = true
		for _, c := range w.conns {
			if c.state == handshaking {
				w.unserved = append(w.unserved, c)
			}
		}
		if beside {
			w.acceptAgain(false)
		}
	})
	return &Handover{s: s, accepts: !beside, grace: time.Now().Add(handshakeGrace)}
}

// Batch is some connections that are off their loops. Settle or Keep is called, once.
type Batch struct {
	FDs    []int    // copies in the table of the process; Settle and Keep close them
	States [][]byte // one for each; those of TLS are secret, and Settle and Keep clear them

	w     *worker
	conns []*Conn
}

// batchBytes is near what the states of one batch have at most: it has to be sent before the first
// of its connections goes on.
const batchBytes = 1 << 20

// Next takes the next connections off a loop, at most poller.MaxCopy. It returns io.EOF when no
// others can travel. Loops are asked in turn, and each for a batch at a time, so that none of them
// is held up.
func (h *Handover) Next(ctx context.Context) (*Batch, error) {
	for {
		waiting := int(h.s.passing.Load()) // before the loops that they come to are looked at
		for range h.s.workers {
			w := h.s.workers[h.turn%len(h.s.workers)]
			h.turn++
			b, left, err := h.take(w)
			if b != nil || err != nil {
				return b, err
			}
			waiting += left
		}
		if h.until.IsZero() {
			h.until = time.Now().Add(waitToMove)
		}
		switch {
		case waiting == 0 && !h.accepts:
			return nil, io.EOF
		case !h.last:
			// All that could go alone has gone. What connections share stands still once every loop
			// has stopped serving those that are left.
			h.last = true
			h.s.onEach(func(w *worker) { w.freeze() })
			continue
		case time.Now().After(h.until):
			return nil, io.EOF
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// take packs connections of one loop. left is how many cannot travel yet.
func (h *Handover) take(w *worker) (b *Batch, left int, err error) {
	b = &Batch{w: w}
	var full bool
	grace := time.Now().Before(h.grace)
	b.FDs, err = poller.TakeFDs(w.loop, func() (fds []int) {
		fds, left, full = w.pack(b, h.last, grace)
		return fds
	})
	if err != nil {
		b.Keep()
		return nil, left, err
	}
	if h.quiet++; full {
		h.quiet = 0
	}
	if h.accepts && h.quiet >= len(h.s.workers) {
		// What there was has gone, and those that come could keep this going for ever.
		h.accepts = false
		h.s.onEach(func(w *worker) { w.acceptAgain(false) })
	}
	if len(b.FDs) == 0 {
		return nil, left, nil
	}
	return b, left, nil
}

// Settle says that the other process has the connections, but for the refused ones, by their index:
// these go on here.
func (b *Batch) Settle(refused []int) {
	b.done(func(i int, c *Conn) {
		if slices.Contains(refused, i) {
			c.flags |= stays
			c.stay()
		} else {
			c.depart()
		}
	})
}

// Keep says that none of them has gone.
func (b *Batch) Keep() { b.done(func(_ int, c *Conn) { c.stay() }) }

func (b *Batch) done(each func(i int, c *Conn)) {
	for _, fd := range b.FDs {
		_ = unix.Close(fd)
	}
	b.FDs = nil
	for _, state := range b.States {
		clear(state)
	}
	b.w.loop.Do(func() {
		for i, c := range b.conns {
			if c.state != closed {
				each(i, c)
			}
		}
	})
}

// End is the end of a Handover. With gone the other process accepts from now on, and this one
// closes its listeners without looking at their queues; Drain deals with the connections that are
// left. Without, it accepts again.
func (h *Handover) End(gone bool) {
	h.s.onEach(func(w *worker) {
		w.holding, w.unserved = false, nil
		for _, c := range slices.Clone(w.conns) {
			c.flags &^= stays
			switch {
			case c.state == closed:
			case c.flags&travels != 0: // frozen, and not packed
				c.stay()
			case c.state == handshaking:
				c.interest()
				if c.in != nil || c.flags&layered != 0 {
					c.resumeLater()
				}
			}
		}
		if gone {
			w.leaveListeners()
		} else {
			w.acceptAgain(true)
		}
	})
}

// AcceptBeside begins to accept at Config.Listeners and TLSListeners, after Config.Hold, while so
// many connections of another process are still to come: their places are not given to others until
// Accept. Any goroutine but a loop's.
func (s *Server) AcceptBeside(coming int) {
	s.coming.Store(int64(coming))
	s.onEach(func(w *worker) { w.acceptAgain(true) })
}

// Accept begins to accept, after Config.Hold, and after all that another process had have come. Any
// goroutine but a loop's.
func (s *Server) Accept() {
	s.coming.Store(0)
	// Those that have no listener yet open one only now: while another process might still have to
	// go on, clients in its queue would be lost.
	s.onEach(func(w *worker) { w.listenToo() })
	s.onEach(func(w *worker) { w.acceptAgain(true) })
}

// ListenerFDs are copies of the listening sockets, for another process; the caller closes them,
// also with an error. The Server must run. Any goroutine but a loop's.
func (s *Server) ListenerFDs() (fds []int, err error) { return s.listenerFDs(false) }

// TLSListenerFDs is ListenerFDs for the sockets of Config.TLSListen.
func (s *Server) TLSListenerFDs() (fds []int, err error) { return s.listenerFDs(true) }

func (s *Server) listenerFDs(tls bool) (fds []int, err error) {
	for _, w := range s.workers {
		var own []int
		ran := w.loop.Do(func() {
			for _, a := range w.acceptors {
				if slices.Contains(w.tlsAcceptors, a) == tls {
					own = append(own, a.SysFD())
				}
			}
		})
		if !ran {
			return fds, poller.ErrLoopEnded
		}
		copies, err := poller.CopyFDs(w.loop, nil, own)
		if err != nil {
			return fds, err
		}
		fds = append(fds, copies...)
	}
	return fds, nil
}

// onEach runs fn on every loop, and waits for all of them.
func (s *Server) onEach(fn func(w *worker)) {
	for _, w := range s.workers {
		w.loop.Do(func() { fn(w) })
	}
}

// leaveListeners closes the listeners, whose queues another process serves.
func (w *worker) leaveListeners() {
	if !w.draining {
		w.closeListeners()
	}
}

// pack takes up to a batch of connections off the loop, and packs them; full says that there was
// more than a batch. left is how many others there are that may be able to travel later; with
// grace, those in a TLS handshake are among them.
//
// Those whose request waits come first, as soon as they can travel: all others are served here
// until their turn.
func (w *worker) pack(b *Batch, last, grace bool) (fds []int, left int, full bool) {
	p := packing{b: b, last: last, grace: grace}
	for _, c := range w.unserved {
		if p.add(c); p.full {
			break
		}
	}
	w.unserved = slices.DeleteFunc(w.unserved, func(c *Conn) bool {
		return c.state != handshaking || c.flags&travels != 0
	})
	for i := len(w.conns) - 1; i >= 0 && !p.full; i-- {
		p.add(w.conns[i])
	}
	return p.fds, p.left, p.full
}

// packing is a batch that is being put together.
type packing struct {
	b           *Batch
	last, grace bool
	fds         []int
	size        int // bytes of the states
	left        int // connections that cannot travel yet; those that are asked twice count twice
	full        bool
}

// add puts c into the batch, if it can travel and there is room.
func (p *packing) add(c *Conn) {
	packed := c.flags&travels != 0 && c.flags&frozen == 0
	if packed || c.flags&stays != 0 || c.bound(p.grace) || c.state != handshaking && c.state != opening && c.state != open {
		return
	}
	if len(p.fds) == poller.MaxCopy || p.size > batchBytes {
		p.left, p.full = p.left+1, true
		return
	}
	if c.flags&frozen == 0 && !c.freeze(p.last) {
		p.left++
		return
	}
	c.flags &^= frozen
	state := c.pack()
	p.size += len(state)
	p.b.conns = append(p.b.conns, c)
	p.b.States = append(p.b.States, state)
	p.fds = append(p.fds, c.fd.SysFD())
}

// bound reports whether c's transport cannot travel: its client connects anew.
func (c *Conn) bound(grace bool) bool {
	if c.flags&layered == 0 {
		return false
	}
	m, ok := c.rare.transport.(mover)
	return !ok || !grace && !m.canMove()
}

// freeze stops serving every connection that can travel with the others.
func (w *worker) freeze() {
	for i := len(w.conns) - 1; i >= 0; i-- {
		if c := w.conns[i]; c.flags&(travels|stays) == 0 && c.freeze(true) {
			c.flags |= frozen
		}
	}
}

// freeze takes c off the reactor and its timer off the wheel, if it can travel.
func (c *Conn) freeze(last bool) bool {
	if c.flags&(hungUp|peerEOF|resuming) != 0 || c.state != handshaking && c.state != open {
		return false
	}
	if c.flags&layered != 0 {
		if m, ok := c.rare.transport.(mover); !ok || !m.canMove() {
			return false
		}
	}
	if c.state == open {
		if m, ok := c.w.handler.(Mover); !ok || !m.CanMove(c, last) {
			return false
		}
	}
	if c.fd.Detach() != nil {
		return false
	}
	c.flags |= travels
	c.w.loop.Disarm(&c.timer)
	return true
}

// stay goes on with a connection that was frozen.
func (c *Conn) stay() {
	c.flags &^= travels | frozen
	c.fd.Attach()
	c.rearm()
	c.interest()
	if c.in != nil {
		c.resumeLater()
	}
}

// depart lets go of a connection that another process has.
func (c *Conn) depart() {
	if c.flags&handled != 0 {
		c.w.handler.(Mover).Moved(c)
	}
	c.forget(accepted)
	c.w.metrics.movedOut.Inc()
}

// forget ends this process' part in a connection that goes on elsewhere. counts is the flag
// accepted when it has been counted as open here.
func (c *Conn) forget(counts connFlags) {
	w := c.w
	if c.flags&counts != 0 {
		w.metrics.connections.Add(-1)
	}
	if c.rare != nil {
		c.rare.summary = nil // told when it ends, by the other process
	}
	c.requestComplete()
	c.flags &^= accepted | handled
	if c.state == opening {
		w.openingEnds(false)
	}
	c.state = closed // not by setState: there is no deadline, and no interest of the loop's
	w.loop.Disarm(&c.timer)
	c.fd.Release()
	c.dropInput()
	c.dropOutput()
	c.unwatch()
	c.uncount()
	if c.flags&layered != 0 {
		c.rare.transport.release(c)
	}
	w.remove(c)
}
