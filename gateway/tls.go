package gateway

import (
	"container/list"
	"io"

	"sluice/gateway/tls13"
	"sluice/gateway/tlsserver"
)

// A connection of Config.TLSListen has one transport until its TLS handshake is over, and then
// another: tlsHandshake, then tlsCompact or tlsStream. The handshake is computed elsewhere (see
// package tlsserver); the loop moves the bytes.

// tlsResult is what became of a TLS handshake: the label of its metric.
type tlsResult uint8

const (
	tlsStd     tlsResult = iota // goes on with crypto/tls
	tlsCompact                  // goes on with package tls13
	tlsFailed                   // the peers did not agree, or the client broke the protocol
	tlsGarbage                  // what came is not TLS
	tlsBusy                     // too many were under way
	tlsResults
)

var tlsResultNames = [tlsResults]string{
	tlsStd: "std", tlsCompact: "compact", tlsFailed: "failed", tlsGarbage: "not_tls", tlsBusy: "busy",
}

func (r tlsResult) String() string { return tlsResultNames[r] }

// pending is ciphertext of which a record has come only in part.
type pending struct{ in []byte }

// join returns b behind what is held; owned says that it is a buffer of the loop's.
func (p *pending) join(c *Conn, b []byte) (raw []byte, owned bool) {
	if len(p.in) == 0 {
		return b, false
	}
	raw = c.w.loop.Buffers.Append(p.in, b...)
	p.in = nil
	return raw, true
}

// keep holds rest, the end of raw, until more comes.
func (p *pending) keep(c *Conn, raw, rest []byte, owned bool) {
	buffers := &c.w.loop.Buffers
	over := c.state.in(over)
	switch {
	case owned && len(rest) == len(raw) && !over:
		p.in = raw // a record that comes in very many parts is not copied for each
	default:
		if len(rest) > 0 && !over {
			p.in = buffers.Append(nil, rest...)
		}
		if owned {
			buffers.Put(raw)
		}
	}
	switch {
	case len(p.in) == 0 || c.state == handshaking:
		c.rare.recordSince = 0
	case c.rare.recordSince == 0 || len(rest) < len(raw):
		c.rare.recordSince = c.w.loop.Now()
		if c.state == open {
			c.rearm()
		}
	}
}

func (p *pending) held() int { return cap(p.in) }

func (p *pending) drop(c *Conn) {
	if p.in != nil {
		c.w.loop.Buffers.Put(p.in)
		p.in = nil
	}
}

// startTLS puts a handshake between a new connection's socket and its request.
func (c *Conn) startTLS() {
	t := new(tlsHandshake)
	t.h = c.w.cfg.TLS.Handshake(c.w.loop.Post, func() { t.progress(c) })
	c.makeRare().transport = t
	c.flags |= layered
}

// tlsHandshake is the transport while the handshake is under way. Nothing can be sent through it: a
// connection that is refused before its keys are there ends with FIN alone.
type tlsHandshake struct {
	pending
	h     *tlsserver.Handshake
	place *list.Element // in worker.tlsHandshakes; nil before the ClientHello and after the end
}

// tlsHandshake is the handshake that c has not ended yet; nil when there is none.
func (c *Conn) tlsHandshake() *tlsHandshake {
	if c.flags&layered == 0 {
		return nil
	}
	t, _ := c.rare.transport.(*tlsHandshake)
	return t
}

func (t *tlsHandshake) begun() bool { return t != nil && t.place != nil }

// open implements transport.
func (t *tlsHandshake) open(c *Conn, b []byte) {
	if c.state != handshaking {
		return
	}
	t.in = c.w.loop.Buffers.Append(t.in, b...)
	if c.flags&computing == 0 {
		t.feed(c)
	}
}

// feed gives the handshake the whole records that have come.
func (t *tlsHandshake) feed(c *Conn) {
	n, err := tlsserver.Whole(t.in, t.place == nil)
	switch {
	case err != nil:
		t.fail(c, tlsGarbage)
		return
	case n == 0:
		return
	case t.place == nil && !c.w.roomForTLS():
		t.fail(c, tlsBusy)
		return
	case t.place == nil:
		t.place = c.w.tlsHandshakes.PushBack(c)
	}
	c.flags |= computing
	t.h.Give(t.in[:n])
	t.in = t.in[:copy(t.in, t.in[n:])]
	c.interest()
}

// progress is called when the handshake has something to send, wants more or is over.
func (t *tlsHandshake) progress(c *Conn) {
	if c.state != handshaking {
		t.stop(c)
		return
	}
	outer := c.w.cork(c)
	c.flags &^= computing
	if out := t.h.Output(); len(out) > 0 {
		c.writeWire(out)
	}
	switch ended, err := t.h.Over(); {
	case c.state != handshaking: // the write has failed
	case !ended:
		t.feed(c)
	case err != nil:
		t.fail(c, tlsFailed)
	default:
		t.finished(c)
	}
	c.w.uncork(c, outer)
	if c.flags&hungUp != 0 && c.state != closed {
		c.resumeLater() // no event comes any more
	}
}

func (t *tlsHandshake) fail(c *Conn, why tlsResult) {
	c.w.metrics.tlsHandshakes[why].Inc()
	c.linger()
}

// finished goes on with another transport.
func (t *tlsHandshake) finished(c *Conn) {
	if subject := tlsserver.Subject(t.h.State()); subject != "" {
		c.rare.by().subject = subject
	}
	rest := append(t.h.Rest(), t.in...)
	layer, ok := t.h.Layer()
	if ok {
		c.rare.transport = &tlsCompactLayer{layer: layer}
		c.w.metrics.tlsHandshakes[tlsCompact].Inc()
	} else {
		c.rare.transport = &tlsStream{stream: t.h.Stream()}
		c.w.metrics.tlsHandshakes[tlsStd].Inc()
	}
	t.leave(c)
	t.drop(c)
	if len(rest) > 0 {
		c.rare.transport.open(c, rest)
	}
}

// leave gives the place among the handshakes back.
func (t *tlsHandshake) leave(c *Conn) {
	if t.place != nil {
		c.w.tlsHandshakes.Remove(t.place)
		t.place = nil
	}
}

// stop ends the handshake's goroutine.
func (t *tlsHandshake) stop(c *Conn) {
	t.h.Abort()
	t.leave(c)
}

// seal, finish, and release implement transport.
func (t *tlsHandshake) seal(_ *Conn, dst, _ []byte) []byte { return dst }
func (t *tlsHandshake) finish(c *Conn, dst []byte) []byte  { t.stop(c); return dst }
func (t *tlsHandshake) release(c *Conn)                    { t.stop(c); t.drop(c) }

// roomForTLS reports whether another handshake may begin. When too many are under way, the one that
// has waited the longest for its peer makes room: half a handshake costs an attacker nothing, and
// must not keep out those who finish theirs.
func (w *worker) roomForTLS() bool {
	if w.tlsHandshakes.Len() < max(w.cfg.MaxTLSHandshakes/w.cfg.Loops, 1) {
		return true
	}
	for e := w.tlsHandshakes.Front(); e != nil; e = e.Next() {
		c := e.Value.(*Conn)
		if c.flags&computing == 0 {
			w.metrics.tlsHandshakes[tlsBusy].Inc()
			c.end(goneReset)
			return true
		}
	}
	return false
}

// tlsCompactLayer is the transport of a TLS 1.3 connection that has shed its tls.Conn.
type tlsCompactLayer struct {
	pending
	layer tls13.Layer
}

// open implements transport.
func (t *tlsCompactLayer) open(c *Conn, b []byte) {
	raw, owned := t.join(c, b)
	rest := raw
	for c.state != closed && c.state != broken {
		data, n, err := t.layer.Open(&c.w.tlsKeys.Keys, rest)
		rest = rest[n:]
		if len(data) > 0 {
			c.processWith(data)
		}
		if err != nil {
			rest = nil
			t.ended(c, err)
			break
		}
		if n == 0 {
			break
		}
	}
	t.keep(c, raw, rest, owned)
}

// ended handles what Open said of a peer that sends nothing more.
func (t *tlsCompactLayer) ended(c *Conn, err error) {
	if alert, ok := err.(tls13.Alert); ok {
		c.tlsBroken(t.layer.SealAlert(&c.w.tlsKeys.Keys, nil, alert))
		return
	}
	switch err.(type) {
	case tls13.RemoteAlert:
		c.tlsBroken(nil)
	default:
		if err == io.EOF {
			c.endOfStream()
		}
	}
}

// tlsBroken ends a connection whose records cannot be read any more; alert is the last that is
// sent.
func (c *Conn) tlsBroken(alert []byte) {
	c.flags |= saidLast
	if c.state.in(silent) {
		return
	}
	c.w.metrics.failed[failedTLS].Inc()
	c.writeWire(alert)
	c.linger()
}

// seal, finish and release implement transport.
func (t *tlsCompactLayer) seal(c *Conn, dst, b []byte) []byte {
	return t.layer.Seal(&c.w.tlsKeys.Keys, dst, b)
}

func (t *tlsCompactLayer) finish(c *Conn, dst []byte) []byte {
	return t.layer.SealAlert(&c.w.tlsKeys.Keys, dst, tls13.CloseNotify)
}

func (t *tlsCompactLayer) release(c *Conn) {
	t.layer.Wipe(&c.w.tlsKeys.Keys)
	c.w.tlsKeys.settle()
	t.drop(c)
}

// tlsStream is the transport of a connection that goes on with its tls.Conn. It gives that one
// whole records only, so that parts of records are counted among the loop's buffers.
type tlsStream struct {
	pending
	stream *tlsserver.Stream
	mute   bool // the peer broke the protocol: the tls.Conn sends nothing any more
}

// open implements transport.
func (t *tlsStream) open(c *Conn, b []byte) {
	if t.mute {
		return
	}
	raw, owned := t.join(c, b)
	n, bad := tlsserver.Whole(raw, false)
	if bad != nil {
		n = len(raw) // crypto/tls finds the alert to send
	}
	if n > 0 {
		t.read(c, raw[:n], bad != nil)
	}
	t.keep(c, raw, raw[n:], owned)
}

func (t *tlsStream) read(c *Conn, records []byte, last bool) {
	w := c.w
	plain, answer, err := t.stream.Open(w.tlsPlain[:0], records, last)
	w.tlsPlain = nil
	if len(plain) > 0 {
		c.processWith(plain)
	}
	w.tlsPlain = spare(plain)
	switch {
	case c.state == closed || c.state == broken:
	case err == io.EOF && !last:
		c.writeWire(answer)
		c.endOfStream()
	case err != nil:
		t.mute = true
		c.tlsBroken(answer)
	case !c.state.in(silent):
		c.writeWire(answer)
	}
}

// seal, finish and release implement transport.
func (t *tlsStream) seal(c *Conn, dst, b []byte) []byte {
	if t.mute {
		return dst
	}
	sealed, err := t.stream.Seal(dst, b)
	if err != nil {
		c.abort()
		return dst
	}
	return sealed
}

func (t *tlsStream) finish(_ *Conn, dst []byte) []byte {
	if t.mute {
		return dst
	}
	return t.stream.Close(dst)
}

func (t *tlsStream) release(c *Conn) { t.drop(c) }
