package load

import (
	"slices"
	"time"

	"github.com/gobwas/ws"
)

// visits reports whether a unit of traffic is a visit: a client that leaves and comes back.
func (s *Spec) visits() bool { return s.Scenario == Resume || s.Scenario == Churn }

// visit has c leave and come back. In resume it counts some messages first.
func (w *worker) visit(c *Conn, intended time.Duration) {
	c.flags |= visiting
	w.visits++
	if w.spec.Scenario == Churn {
		c.leave()
		return
	}
	c.todo = uint16(min(w.spec.Messages, 1<<16-1))
	c.send(intended)
}

// answered goes on with what c was doing after a message has been answered.
func (w *worker) answered(c *Conn) {
	if c.flags&visiting == 0 || c.todo == 0 {
		return
	}
	if c.todo--; c.todo > 0 {
		c.send(w.now())
		return
	}
	// Every second client leaves without a word: the server must keep the count of both.
	if w.n.Churned%2 == 0 {
		c.leave()
		return
	}
	w.end(c)
	w.comeBack(c.place)
}

// visitorOpened goes on with a visit whose client is connected again. The welcome frame confirms
// its total; a server without one must answer a message.
func (w *worker) visitorOpened(c *Conn) {
	switch {
	case w.spec.Scenario == Churn:
		w.visitOver(c)
	case !w.sawWelcome:
		c.send(w.now())
	}
}

// returned goes on when the total of a client that came back is confirmed.
func (w *worker) returned(c *Conn) {
	c.flags &^= returning
	w.confirmed(c)
	if c.flags&visiting != 0 {
		w.visitOver(c)
	}
}

// visitOver ends a visit; c is nil when the client was lost on the way.
func (w *worker) visitOver(c *Conn) {
	w.visits--
	if c != nil {
		c.flags &^= visiting
		w.n.Churned++
		w.finished(w.now())
	}
	w.again()
}

// storm is all clients dropping their connections and coming back at once.
type storm struct {
	dropped time.Duration // when the connections were dropped
	pending []place       // clients that were dropped and have not been started again
}

func (w *worker) beginStorm() {
	w.storm = storm{}
	w.enter(phaseCount)
	if !w.spec.NoVerify {
		for _, c := range slices.Clone(w.conns) {
			if c.state == open {
				c.send(w.now())
			}
		}
	}
	w.anotherRound()
}

func (w *worker) dropAll() {
	for len(w.conns) > 0 {
		c := w.conns[len(w.conns)-1]
		c.giveUp() // the server had a whole timeout to answer
		w.end(c)
		w.storm.pending = append(w.storm.pending, c.place)
	}
	w.anotherRound()
}

// comeBackSome starts the next clients of those that were dropped.
func (w *worker) comeBackSome() {
	s := &w.storm
	for range min(perRound, len(s.pending)) {
		p := s.pending[0]
		s.pending = s.pending[1:]
		w.comeBack(p)
	}
}

// slowBurst is how many messages the clients that do not read send in slowEvery, all together:
// 25,600 a second, enough to fill the buffers of a few dozen of them in ten seconds and too few to
// be a load for the others.
const (
	slowBurst = 256
	slowEvery = 10 * time.Millisecond
)

// blastSlow has the clients that do not read send all the same, so that the replies pile up at the
// server: one after the other, each until its socket takes no more.
func (w *worker) blastSlow() {
	for _, c := range w.slow {
		c.deaf = true
	}
	if len(w.slow) == 0 || w.blast.begun {
		return
	}
	next := 0
	w.blast.begin(w.loop, slowEvery, func() {
		if w.phase != phaseTraffic {
			return
		}
		for range slowBurst {
			for tried := 0; !w.slow[next].takes(); tried++ {
				if next = (next + 1) % len(w.slow); tried == len(w.slow) {
					return
				}
			}
			w.slow[next].sendFrame(ws.OpText, w.payload)
		}
	})
}

// takes reports whether the socket has taken all that was written so far.
func (c *Conn) takes() bool { return c.state == open && (c.x == nil || len(c.x.out) == 0) }
