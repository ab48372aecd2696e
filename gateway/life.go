package gateway

import (
	"net/netip"

	"github.com/gobwas/ws"
)

// How a connection ends, in order: peerClose or leave → Close → linger → sendFIN → end. fail goes
// to linger at once, abort to end.

// peerClose handles the peer's Close frame: the final messages, then the echo of its code.
func (c *Conn) peerClose(payload []byte) {
	code, bad := parseClose(payload)
	if bad != 0 {
		c.fail(bad, failedCloseFrame)
		return
	}
	c.peerCode = uint16(code)
	switch c.state {
	case open:
		if len(payload) > 2 {
			c.w.closeReason = payload[2:]
			defer func() { c.w.closeReason = nil }()
		}
		c.leave(code)
	case closing: // the answer to ours
		if c.out == nil && c.flags&layered == 0 && c.peerCode == c.closeCode {
			c.closeAnswered()
		} else {
			c.linger()
		}
	}
}

// closeAnswered ends a connection whose peer has answered our Close, and so has read all that it
// was sent: the RST that close sends for unread input can destroy nothing. Waiting for the peer's
// FIN would take two more system calls and a wake-up. A peer that began to close of itself may send
// a Pong behind its Close before it has read ours: its FIN is awaited (linger).
func (c *Conn) closeAnswered() {
	c.setState(finSent) // by close, at the end of the round
	c.w.loop.Later(c.finish)
}

// leave asks the Handler for its final messages, which end with Close.
func (c *Conn) leave(code ws.StatusCode) {
	c.setState(leaving)
	c.closeCode = uint16(code)
	c.w.handler.Leave(c, code)
}

// Close sends a Close frame and ends the connection in order: the peer's Close is awaited, then
// comes FIN. What has been sent before is delivered first. A reason of more than 123 bytes is cut.
func (c *Conn) Close(code ws.StatusCode, reason string) {
	if c.state == opening {
		c.Refuse(RefuseUnavailable)
		return
	}
	if !c.state.in(sends) {
		return
	}
	ended := c.peerEnded()
	if !ended {
		c.closeCode = uint16(code)
	}
	c.writeClose(code, c.endReason(code, reason))
	if ended {
		// RFC 6455, section 5.5.1: "the server MUST close the underlying TCP connection
		// immediately"
		c.linger()
	} else if c.state.in(sends) { // the write may have failed
		c.setState(closing)
	}
}

// writeClose sends the Close frame.
func (c *Conn) writeClose(code ws.StatusCode, reason string) {
	var body [ws.MaxControlFramePayloadSize]byte
	c.sendFrame(ws.OpClose, appendCloseBody(body[:0], code, reason))
}

// fail ends a connection whose peer broke the protocol or a limit. What else it sends is not read
// as frames.
func (c *Conn) fail(code ws.StatusCode, reason failure) {
	if !c.state.in(readsFrames) {
		return
	}
	c.w.metrics.failed[reason].Inc()
	if c.w.debug {
		c.w.log.Debug("failed", "fd", c.fd.SysFD(), "code", int(code), "reason", reason.String())
	}
	if c.state != closing {
		c.closeCode = uint16(code)
		c.writeClose(code, reason.String())
	}
	c.linger()
}

// linger half-closes, then waits for the peer's FIN: closing with unread input would send RST,
// which can destroy the Close frame.
func (c *Conn) linger() {
	if c.w.corked == c {
		c.flush() // nothing is sent after this, and what the socket does not take decides how long to wait
	}
	if c.state.in(over) {
		return
	}
	c.setState(flushing)
	c.settle()
}

// sendFIN comes when the last byte is with the kernel.
func (c *Conn) sendFIN() {
	if c.state != flushing {
		return
	}
	if c.flags&layered != 0 && c.flags&saidLast == 0 {
		c.flags |= saidLast
		if c.writeWire(c.rare.transport.finish(c, c.w.sealed[:0])); c.out != nil || c.state != flushing {
			return // it comes again when the queue is empty
		}
	}
	c.setState(finSent)
	_ = c.fd.CloseWrite() // ENOTCONN: the peer is gone, which epoll reports
	if c.flags&peerEOF != 0 {
		c.w.loop.Later(c.finish) // both sides have ended; the Handler may be on the stack
	}
}

func (c *Conn) finish() { c.end(gonePeer) }

// abort gives the connection up. It is closed at the end of the round: the Handler may be on the
// stack.
func (c *Conn) abort() {
	if c.state != broken && c.state != closed {
		c.setState(broken)
		c.w.loop.Later(c.aborted)
	}
}

func (c *Conn) aborted() { c.end(goneReset) }

// gone is how a transport ended.
type gone int

const (
	gonePeer  gone = iota // the peer closed or vanished
	goneError             // reading failed
	goneReset             // we reset it
)

// end lets go of everything the connection held. It is the last of its life and may be called more
// than once.
func (c *Conn) end(how gone) {
	if c.state == closed {
		return
	}
	w := c.w
	if w.corked == c && how == gonePeer {
		c.flush() // a peer that has sent its FIN may still read
	}
	c.setState(closed)
	if how == goneReset {
		c.fd.Abort()
	} else {
		c.fd.Close()
	}
	c.dropOutput()
	c.unwatch()
	c.uncount()
	if c.flags&layered != 0 {
		c.rare.transport.release(c)
	}
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

// Post runs fn on the connection's loop, with all that it sends to the connection leaving in one
// write. Any goroutine. It reports false, and drops fn, when the loop has ended; fn does not run
// either when the connection is closed by then.
func (c *Conn) Post(fn func(c *Conn)) bool {
	return c.w.loop.Post(func() {
		if c.state != closed {
			outer := c.w.cork(c)
			fn(c)
			c.w.uncork(c, outer)
		}
	})
}

// PeerClose is the code of the peer's Close frame, 1005 when it gave none, and 0 while none has
// come; and, inside Handler.Leave only, the text that came with it.
func (c *Conn) PeerClose() (code ws.StatusCode, reason []byte) {
	return ws.StatusCode(c.peerCode), c.w.closeReason
}

// RemoteAddr is the address of the client: what SetRemoteAddr was given, or else the socket's peer,
// who may be a proxy. It is not valid when the socket is closed and SetRemoteAddr was not called.
func (c *Conn) RemoteAddr() netip.AddrPort {
	if remote := c.rare.where().remote; remote.IsValid() {
		return remote
	}
	return peerOf(c.fd.SysFD())
}

// TLS reports whether the client speaks TLS to this gateway, and not to a proxy in front of it.
func (c *Conn) TLS() bool { return c.flags&layered != 0 }

// Subject is whom the client's certificate names, as RFC 4514 writes it: at most
// tlsserver.MaxSubject bytes, none of which is a control character. Empty unless clients must show
// a certificate (TLS with a client CA).
func (c *Conn) Subject() string {
	return c.rare.who().subject
}

// SetRemoteAddr says who the client is, where something between it and the gateway knows better
// than the socket: a proxy's header, or PROXY protocol. An address that is not valid takes that
// back.
func (c *Conn) SetRemoteAddr(addr netip.AddrPort) {
	if addr.IsValid() || c.rare.where().remote.IsValid() {
		c.makeRare().at().remote = addr
	}
}

// Opening reports whether the request still waits for Accept or Refuse: a Handler that answers late
// may find that the client did not wait, or that its time was up.
func (c *Conn) Opening() bool { return c.state == opening }

// Closed reports whether the transport is gone: Handler.Closed has been called, or is being called.
func (c *Conn) Closed() bool { return c.state == closed }

// Moving reports whether the connection is on its way to another process, or from one: it is not
// served, and what it is sent now is lost when it does not stay (see Mover).
func (c *Conn) Moving() bool { return c.flags&travels != 0 }

// Cork has all that fn sends to the connection leave in one write, as what is sent inside the
// connection's own events does anyway.
func (c *Conn) Cork(fn func()) {
	outer := c.w.cork(c)
	fn()
	c.w.uncork(c, outer)
}
