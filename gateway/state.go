package gateway

import (
	"time"

	"github.com/gobwas/ws"
)

// state is the life of a connection, in order; no state comes back.
type state uint8

const (
	handshaking state = iota // the request is being collected
	opening                  // the Handler has the request and has not answered yet
	open                     // messages flow
	leaving                  // the Handler has been asked for its final messages
	closing                  // our Close frame is on its way, the peer's has not come
	flushing                 // everything is said: what is queued is sent, then comes FIN
	finSent                  // FIN is sent, the peer's is awaited
	broken                   // given up; the end of the round closes it
	closed
	states
)

// stateSet is a set of states, as bits.
type stateSet uint16

const (
	readsFrames = stateSet(1<<open | 1<<leaving | 1<<closing)
	sends       = stateSet(1<<open | 1<<leaving) // what the Handler sends is sent
	over        = stateSet(1<<flushing | 1<<finSent | 1<<broken | 1<<closed)
	silent      = stateSet(1<<finSent | 1<<broken | 1<<closed) // nothing can be sent
	unread      = stateSet(1<<opening | 1<<broken)             // nothing is read
	pausable    = stateSet(1<<handshaking | 1<<opening | 1<<open | 1<<leaving)
)

func (s state) in(set stateSet) bool { return set>>s&1 != 0 }

// setState is the only place where the state changes. It sets the time by which the new state must
// end, lets go of input that nobody will read, and tells the loop what the connection waits for.
func (c *Conn) setState(s state) {
	if c.state != s {
		switch opening {
		case s:
			c.w.openingBegins()
		case c.state:
			c.w.openingEnds(s == open)
		}
	}
	c.state = s
	now, cfg := c.w.loop.Now(), c.w.cfg
	c.deadline = 0
	switch s {
	case handshaking, opening:
		c.deadline = now + cfg.HandshakeTimeout
	case open:
		if c.w.draining { // it began while the Handler had the request
			c.deadline = now
		}
	case leaving, flushing:
		c.deadline = now + cfg.CloseTimeout
	case closing:
		c.deadline = now + cfg.CloseTimeout
		c.flags &^= paused // the peer's Close has to be read
		c.resumeLater()
	case finSent:
		c.deadline = now + lingerTime
	}
	if s.in(over) {
		c.flags &^= paused | computing
		c.dropInput()
	}
	if s == closed {
		c.w.loop.Disarm(&c.timer)
		return
	}
	c.rearm()
	c.interest()
}

// lingerTime is how long a peer may take to answer FIN with its own. Before that, one that reads
// slowly has CloseTimeout for what is queued for it.
const lingerTime = 2 * time.Second

// blocked reports whether no more input is handled for now: the peer does not read, the Handler has
// asked for a pause or has not answered the request, or the connection was given up.
func (c *Conn) blocked() bool {
	return c.flags&(paused|travels|computing) != 0 || c.state.in(unread) ||
		c.state == handshaking && c.w.holding && !c.tlsHandshake().begun() ||
		c.out != nil && c.out.high && c.state.in(readsFrames)
}

// interest tells the loop what this connection waits for.
func (c *Conn) interest() {
	if !c.fd.Closed() {
		c.fd.SetInterest(!c.blocked(), c.out != nil)
	}
}

// dueReason is what a connection's timer is set for.
type dueReason uint8

const (
	nothingDue dueReason = iota
	dueState             // the state must end; open: its turn to leave in a drain
	dueLook              // off the reactor: look what has become of the socket
	dueStall             // see whether the peer takes what is queued
	dueUnread            // see whether it takes what the kernel has
	dueMessage           // a message takes too long
	dueEnd               // EndAfter
	dueWake              // WakeAfter
	dueBeat              // heartbeat
	dueDead              // nothing was heard for too long
)

// deadline is the earliest of several times, of which 0 is none.
type deadline struct {
	at  time.Duration
	why dueReason
}

func (d *deadline) or(at time.Duration, why dueReason) {
	if at != 0 && (d.at == 0 || at < d.at) {
		d.at, d.why = at, why
	}
}

// nextDeadline is what is due first, and when; nothingDue when the connection has no deadline.
func (c *Conn) nextDeadline() (at time.Duration, why dueReason) {
	var d deadline
	cfg := c.w.cfg
	d.or(c.deadline, dueState)
	if c.state == open {
		if c.beatAt != 0 {
			d.or(c.beatAt, dueBeat)
			d.or(c.deadAt(), dueDead)
		}
		d.or(c.wakeAt, dueWake)
		if c.in != nil && c.in.since != 0 {
			d.or(c.in.since+cfg.MessageTimeout, dueMessage)
		}
		if c.rare != nil && c.rare.recordSince != 0 {
			d.or(c.rare.recordSince+cfg.MessageTimeout, dueMessage)
		}
		if c.rare != nil && c.rare.ending != nil {
			d.or(c.rare.ending.at, dueEnd)
		}
	}
	if c.out != nil {
		d.or(c.stallDue(), dueStall)
	}
	if c.flags&watched != 0 {
		s := c.w.stalls[c]
		d.or(s.since+c.stallTimeout(s.reads), dueUnread)
	}
	if c.flags&hungUp != 0 {
		d.or(c.nextLook(), dueLook)
	}
	return d.at, d.why
}

// rearm sets the timer to what is due first.
func (c *Conn) rearm() {
	if c.flags&travels != 0 {
		return
	}
	if at, why := c.nextDeadline(); why != nothingDue {
		c.w.loop.ArmAt(&c.timer, at)
	} else {
		c.w.loop.Disarm(&c.timer)
	}
}

// expire does what is due, one after the other: each moves its own deadline.
func (c *Conn) expire() {
	outer := c.w.cork(c)
	if c.flags&hungUp == 0 || c.lookAgain() {
		for c.state != closed && c.state != broken {
			at, why := c.nextDeadline()
			if why == nothingDue || at > c.w.loop.Now() {
				c.rearm()
				break
			}
			c.due(why)
		}
	}
	c.w.uncork(c, outer)
}

func (c *Conn) due(why dueReason) {
	now := c.w.loop.Now()
	switch why {
	case dueState:
		c.stateIsOver()
	case dueStall:
		c.judgeQueue()
	case dueUnread:
		c.judgeUnread()
	case dueMessage:
		if c.blocked() {
			c.notReading(now)
			return
		}
		c.fail(ws.StatusPolicyViolation, failedMessageTimeout)
	case dueEnd:
		c.endDue(now)
	case dueWake:
		c.wakeAt = 0
		if waker, ok := c.w.handler.(Waker); ok {
			waker.Wake(c)
		}
	case dueBeat:
		if c.forgiveSilence(now); c.dead(now) {
			c.dropDead()
		} else {
			c.heartbeat()
		}
	case dueDead:
		if c.forgiveSilence(now); c.dead(now) {
			c.dropDead()
		}
	}
}

// notReading leaves the time in which we did not read out of what a message may take.
func (c *Conn) notReading(now time.Duration) {
	if c.in != nil && c.in.since != 0 {
		c.in.since = now
	}
	if c.rare != nil && c.rare.recordSince != 0 {
		c.rare.recordSince = now
	}
}

// stateIsOver ends a state that has lasted as long as it may.
func (c *Conn) stateIsOver() {
	switch c.state {
	case handshaking:
		c.refuse(refuseTimeout, "", false)
	case opening:
		c.Refuse(refuseSlowHandler)
	case open:
		c.leave(ws.StatusGoingAway)
	case leaving:
		// The final messages do not come. They are left out: a total that is not certain must not
		// be told.
		c.Close(ws.StatusCode(c.closeCode), "")
	case closing:
		// The peer does not answer the Close. All that it sent was read, so what is with the kernel
		// still reaches it.
		if c.out == nil {
			c.end(gonePeer)
		} else {
			c.end(goneReset)
		}
	case flushing, finSent:
		c.end(goneReset)
	}
}

// lookAgain does by the clock what no event does for a socket that is off the reactor: it finds out
// that the peer is gone, and sends what waits. It reports whether the connection goes on.
func (c *Conn) lookAgain() bool {
	if c.fd.SocketError() != nil {
		c.end(goneError)
		return false
	}
	if c.out != nil {
		c.writable()
	}
	return c.state != closed && c.state != broken
}

// nextLook is when lookAgain is due: soon after something was sent, and ever less often while the
// peer takes nothing. It is always to come, and so never found to be due: every expiry looks.
func (c *Conn) nextLook() time.Duration {
	now, wait := c.w.loop.Now(), time.Second
	if c.out != nil {
		wait = min(max((now-c.out.since)/4, 50*time.Millisecond), wait)
	}
	return now + wait
}
