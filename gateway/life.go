package gateway

import (
	"math"
	"net/netip"
	"time"

	"github.com/gobwas/ws"
)

// expire is the connection's one timer: what is due depends on the state.
func (c *Conn) expire() {
	nested := c.w.begin(c)
	c.due()
	c.w.end(c, nested)
}

func (c *Conn) due() {
	if c.flags&hungUp != 0 && !c.lookAgain() {
		return
	}
	if c.state != closed && c.stalled() {
		c.dropSlowConsumer(slowStall)
		return
	}
	if c.state != open && c.w.loop.Now() < c.deadline {
		c.rearm() // it was the stall timer, and the peer has read since
		return
	}
	switch c.state {
	case handshaking:
		c.refuse(refuseTimeout, "")
	case opening:
		c.Refuse(refuseSlowHandler)
	case open:
		c.dueWhileOpen()
	case leaving:
		// The last words do not come. Without them: a total that is not certain must not be told.
		c.Close(ws.StatusCode(c.closeCode), "")
	case closing:
		// The peer does not answer the Close. All that it sent was read, so what is with the kernel still reaches it.
		if c.out == nil {
			c.end(gonePeer)
		} else {
			c.end(goneReset)
		}
	case lingering:
		c.end(goneReset)
	}
}

// dueWhileOpen does what is due of: the heartbeat, the Handler's own timer, the turn to leave.
func (c *Conn) dueWhileOpen() {
	now := c.w.loop.Now()
	if c.wakeAt != 0 && now >= c.wakeAt {
		c.wakeAt = 0
		if waker, ok := c.w.handler.(Waker); ok {
			waker.Wake(c)
		}
	}
	if in := c.in; c.state == open && in != nil && in.since != 0 && now >= in.since+c.w.cfg.MessageTimeout {
		if !c.blocked() {
			c.fail(ws.StatusPolicyViolation, failedMessageTimeout)
			return
		}
		in.since = now // we were not reading
	}
	if c.state == open && c.w.draining && now >= c.beatAt {
		c.leave(ws.StatusGoingAway)
		return
	}
	if c.state == open && c.endDue(now) {
		return
	}
	if c.state == open && !c.w.draining && c.w.cfg.Heartbeat > 0 {
		// Its silence says nothing when we are not listening, or have not asked: a process that was stopped, or a machine that slept, must not
		// find all its clients dead when it wakes up.
		if c.blocked() || now >= c.beatAt+c.w.cfg.Heartbeat/2 {
			c.seen = max(c.seen, now)
		}
		if now >= c.seen+deadAfter(c.w.cfg.Heartbeat) {
			c.w.metrics.failed[failedDeadPeer].Inc()
			c.end(goneReset)
			return
		}
		if now >= c.beatAt {
			c.heartbeat()
		}
	}
	c.rearm()
}

// rearm sets the timer to the first thing that is due.
func (c *Conn) rearm() {
	at := c.deadline
	if c.state == open {
		at = 0
		if c.beatAt != 0 {
			at = c.beatAt
			if c.w.cfg.Heartbeat > 0 && !c.w.draining {
				at = min(at, c.seen+deadAfter(c.w.cfg.Heartbeat))
			}
		}
		if c.wakeAt != 0 && (at == 0 || c.wakeAt < at) {
			at = c.wakeAt
		}
	}
	if c.state == open && c.in != nil && c.in.since != 0 {
		at = earlier(at, c.in.since+c.w.cfg.MessageTimeout)
	}
	if c.state == open && c.rare != nil && c.rare.ending != nil {
		at = earlier(at, c.rare.ending.at)
	}
	if c.out != nil {
		at = earlier(at, c.stallDue())
	}
	if c.flags&hungUp != 0 {
		at = earlier(at, c.nextLook())
	}
	if c.flags&watched != 0 {
		at = earlier(at, c.w.stalls[c].since+c.w.cfg.StallTimeout)
	}
	if at == 0 {
		c.w.loop.Disarm(&c.timer)
		return
	}
	c.w.loop.ArmAt(&c.timer, at)
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
	return c.state != closed && c.flags&broken == 0
}

// nextLook is when lookAgain is due: soon after something was sent, and ever less often while the
// peer takes nothing.
func (c *Conn) nextLook() time.Duration {
	now, wait := c.w.loop.Now(), time.Second
	if c.out != nil {
		wait = min(max((now-c.out.since)/4, 50*time.Millisecond), wait)
	}
	return now + wait
}

// earlier is the earlier of two deadlines, of which 0 is none.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// deadAfter is how long a peer may be silent: it owes a Pong for each heartbeat's Ping, and one may be late.
func deadAfter(heartbeat time.Duration) time.Duration { return heartbeat * 5 / 2 }

// startHeartbeat gives the connection its own phase, so that the heartbeats of connections that came together do not stay together.
func (c *Conn) startHeartbeat() {
	if interval := c.w.cfg.Heartbeat; interval > 0 {
		c.beatAt = c.w.loop.Now() + 1 + time.Duration(c.w.random.Int64N(int64(interval)))
	}
}

// heartbeat sends the loop's heartbeat, encoded once for all that are due in this tick.
func (c *Conn) heartbeat() {
	now := c.w.loop.Now()
	c.watchUnread()
	c.write(c.w.heartbeat())
	c.owed += min(1, math.MaxUint8-c.owed)
	c.w.totals.heartbeats++
	c.w.totals.messagesSent++
	c.rare.sentMessage()
	for c.beatAt += c.w.cfg.Heartbeat; c.beatAt <= now; c.beatAt += c.w.cfg.Heartbeat {
		// A loop that was kept from running sends one heartbeat and not all that it missed, and keeps the phase.
	}
}

// WakeAfter has the Handler's Wake (see Waker) called once, after d. A second call replaces the first; d <= 0 cancels.
func (c *Conn) WakeAfter(d time.Duration) {
	c.wakeAt = 0
	if d > 0 {
		c.wakeAt = c.w.loop.Now() + d
	}
	if c.state == open {
		c.rearm()
	}
}

// Post runs fn on the connection's loop, with all that it sends to the connection leaving in one write. Any goroutine.
// It reports false, and drops fn, when the loop has ended; fn does not run either when the connection is closed by then.
func (c *Conn) Post(fn func(c *Conn)) bool {
	return c.w.loop.Post(func() {
		if c.state != closed {
			nested := c.w.begin(c)
			fn(c)
			c.w.end(c, nested)
		}
	})
}

// PeerClose is the code of the peer's Close frame, 1005 when it gave none, and 0 while none has come; and,
// inside Handler.Leave only, the text that came with it.
func (c *Conn) PeerClose() (code ws.StatusCode, reason []byte) {
	return ws.StatusCode(c.peerCode), c.w.closeReason
}

// RemoteAddr is the address of the client: what SetRemoteAddr was given, or else the socket's peer, who
// may be a proxy. It is not valid when the socket is closed and SetRemoteAddr was not called.
func (c *Conn) RemoteAddr() netip.AddrPort {
	if c.rare != nil && c.rare.remote.IsValid() {
		return c.rare.remote
	}
	return peerOf(c.fd.SysFD())
}

// SetRemoteAddr says who the client is, where something between it and the gateway knows better than
// the socket: a proxy's header, or PROXY protocol. An address that is not valid takes that back.
func (c *Conn) SetRemoteAddr(addr netip.AddrPort) {
	if addr.IsValid() || c.rare != nil {
		c.makeRare().remote = addr
	}
}

// Opening reports whether the request still waits for Accept or Refuse: a Handler that answers late may
// find that the client did not wait, or that its time was up.
func (c *Conn) Opening() bool { return c.state == opening }

// Closed reports whether the transport is gone: Handler.Closed has been called, or is being called.
func (c *Conn) Closed() bool { return c.state == closed }

// Cork has all that fn sends to the connection leave in one write, as what is sent inside the connection's own
// events does anyway.
func (c *Conn) Cork(fn func()) {
	nested := c.w.begin(c)
	fn()
	c.w.end(c, nested)
}

// Close sends a Close frame and ends the connection in order: the peer's Close is awaited, then comes FIN. What has been sent before is
// delivered first. A reason of more than 123 bytes is cut.
func (c *Conn) Close(code ws.StatusCode, reason string) {
	if c.state == opening {
		c.Refuse(RefuseUnavailable)
		return
	}
	if c.state != open && c.state != leaving {
		return
	}
	if c.flags&(peerClosed|peerEOF) == 0 {
		c.closeCode = uint16(code)
	}
	c.sayClose(code, c.endReason(code, reason))
	if c.flags&(peerClosed|peerEOF) != 0 {
		// RFC 6455, section 5.5.1: "the server MUST close the underlying TCP connection immediately"
		c.linger()
		return
	}
	c.state = closing
	c.flags &^= paused // the peer's Close has to be read
	c.revive()
	c.patience(c.w.cfg.CloseTimeout)
}

// sayClose sends the Close frame.
func (c *Conn) sayClose(code ws.StatusCode, reason string) {
	var body [ws.MaxControlFramePayloadSize]byte
	c.sendFrame(ws.OpClose, appendCloseBody(body[:0], code, reason))
}

// fail ends a connection whose peer broke the protocol or a limit. What else it sends is not read as frames.
func (c *Conn) fail(code ws.StatusCode, reason failure) {
	if c.state < open || c.state >= lingering {
		return
	}
	c.w.metrics.failed[reason].Inc()
	if c.w.debug {
		c.w.log.Debug("failed", "fd", c.fd.SysFD(), "code", int(code), "reason", reason.String())
	}
	if c.state != closing {
		c.closeCode = uint16(code)
		c.sayClose(code, reason.String())
	}
	c.linger()
}

// lingerTime is how long a peer may take to answer FIN with its own. Before that, one that reads slowly has CloseTimeout for
// what is queued for it.
const lingerTime = 2 * time.Second

// linger ends the sending side and waits for the peer to end its own. Closing at once, with unread bytes in the socket,
// would make the kernel send a reset, and a reset can overtake and destroy the last words.
func (c *Conn) linger() {
	if c.state >= lingering {
		return
	}
	if c.w.current == c {
		c.flush() // nothing is sent after this, and what the socket does not take decides how long to wait
	}
	patience := lingerTime
	if c.out != nil {
		patience = c.w.cfg.CloseTimeout
	}
	c.state = lingering
	c.flags &^= paused
	c.dropInput()
	c.patience(patience)
	if c.out == nil {
		c.sendFIN()
	}
	c.interest()
}

// sendFIN comes when the last byte is with the kernel.
func (c *Conn) sendFIN() {
	if c.flags&finSent == 0 {
		c.flags |= finSent
		c.patience(lingerTime)
		_ = c.fd.CloseWrite() // ENOTCONN: the peer is gone, which epoll reports
		if c.flags&peerEOF != 0 {
			c.w.loop.Later(c.finish) // both sides have ended; the Handler may be on the stack
		}
	}
}

func (c *Conn) finish() { c.end(gonePeer) }

// gone is how a transport ended.
type gone int

const (
	gonePeer  gone = iota // the peer closed or vanished
	goneError             // reading failed
	goneReset             // we cut it off
)

// end lets go of everything the connection held. It is the last of its life and may be called more than once.
func (c *Conn) end(how gone) {
	if c.state == closed {
		return
	}
	w := c.w
	if w.current == c && how == gonePeer {
		c.flush() // a peer that has sent its FIN may still read
	}
	c.state = closed
	w.loop.Disarm(&c.timer)
	if how == goneReset {
		c.fd.Abort()
	} else {
		c.fd.Close()
	}
	c.dropInput()
	c.dropOutput()
	c.unwatch()
	c.uncount()
	if c.flags&accepted != 0 {
		c.tellEnded()
		w.metrics.connections.Add(-1)
		w.metrics.countClose(c.closeCode)
	}
	if c.w.debug {
		w.log.Debug("closed", "fd", c.fd.SysFD(), "code", c.closeCode)
	}
	if c.flags&handled != 0 {
		w.handler.Closed(c)
	}
	w.remove(c) // last: when Drain sees the last one go, the Handler has seen it too
}
