package gateway

import (
	"errors"
	"io"
	"math"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway/client"
	"sluice/poller"
)

// The path of a byte, from epoll to the Handler, reads down this file: readable → read → process →
// (handshake.go until 101) → frames → message → Handler.Message → Conn.Send → uncork, one write for
// all replies of the event.

// Conn is one client connection. All its methods, but Post, are for its own loop: for the Handler's
// methods and for functions given to Post.
type Conn struct {
	// Data is the Handler's.
	Data any

	fd    poller.FD
	timer poller.Timer
	w     *worker

	in  *input  // a request or message of which only a part has come; nil most of the time
	out *output // bytes that the socket did not take; nil most of the time

	rare *rare // what few connections have; nil for the others

	// On the loop's clock; 0 when there is none.
	seen     time.Duration // when the peer was last heard; handshaking: when it was accepted
	beatAt   time.Duration // open: the next heartbeat
	wakeAt   time.Duration // open: WakeAfter
	deadline time.Duration // when the present state must end; see setState

	index     int32  // in worker.conns
	second    uint32 // the second that controls counts in
	peerCode  uint16 // that of the Close frame received, 1005 for none; 0 before
	closeCode uint16 // that of the Close frame sent or received, for the metric; 0 before
	controls  uint8  // Ping and Pong frames of this second
	state     state  // changed by setState only
	flags     connFlags
	owed      uint8  // Pongs that our own Pings asked for and that have not come
	unacked   uint16 // at least the bytes that the peer's kernel has not acknowledged; see wrote
}

// rare is what would cost every connection memory and few need.
type rare struct {
	addresses *addresses    // see at
	names     *names        // see by
	ending    *ending       // EndAfter
	summary   *begun        // of a connection that will be in the access log
	messages  client.Bucket // Clients.MessageRate

	transport   transport     // with the flag layered
	recordSince time.Duration // when the first byte came of a record that is not whole; 0: none
}

// Addresses and names are apart from rare: every connection with TLS has a rare, few have these.

type addresses struct {
	remote  netip.AddrPort // SetRemoteAddr; not valid when it has not been called
	counted netip.Addr     // by which admission counts the connection; not valid when it does not
}

type names struct {
	user     string // SetUser
	protocol string // SetProtocol, until Accept
	subject  string // of the certificate that the client has shown
}

// at has addresses for writing.
func (r *rare) at() *addresses {
	if r.addresses == nil {
		r.addresses = new(addresses)
	}
	return r.addresses
}

// by has names for writing.
func (r *rare) by() *names {
	if r.names == nil {
		r.names = new(names)
	}
	return r.names
}

// where is what at has, or nothing; r may be nil, as in who.
func (r *rare) where() addresses {
	if r == nil || r.addresses == nil {
		return addresses{}
	}
	return *r.addresses
}

// who is what by has, or nothing.
func (r *rare) who() names {
	if r == nil || r.names == nil {
		return names{}
	}
	return *r.names
}

func (c *Conn) makeRare() *rare {
	if c.rare == nil {
		c.rare = new(rare)
	}
	return c.rare
}

type connFlags uint16

const (
	paused      connFlags = 1 << iota // PauseReading
	handled                           // Handler.Open has been called, so Closed will be
	resuming                          // a resume waits for the end of the round
	accepted                          // 101 has been sent
	hungUp                            // the descriptor is off the reactor: no event comes any more
	peerEOF                           // the peer's FIN has come: it sends nothing more, but may read
	watched                           // worker.stalls has an entry
	awaitsProxy                       // a PROXY header may come before the request
	unfinished                        // the handshake counts as unfinished: see requestComplete
	deflates                          // permessage-deflate is agreed on
	layered                           // rare.transport is between the socket and the frames
	saidLast                          // the transport has said what comes before FIN
	travels                           // on its way to or from another process: nothing is served
	frozen                            // travels, and not packed yet
	stays                             // another process has refused it
	computing                         // its TLS handshake is being computed: nothing is read
)

// peerEnded reports whether the peer has said that nothing more comes: with a Close frame or FIN.
func (c *Conn) peerEnded() bool { return c.peerCode != 0 || c.flags&peerEOF != 0 }

var errClosed = errors.New("gateway: the connection is closing")

// events is Conn as its loop sees it, which keeps the loop's callbacks out of Conn's own method
// set.
type events Conn

// Readable implements poller.Events.
func (e *events) Readable() { (*Conn)(e).readable() }

// Writable implements poller.Events.
func (e *events) Writable() { (*Conn)(e).writable() }

// Hangup implements poller.Events.
func (e *events) Hangup() { (*Conn)(e).hangup() }

// Expire implements poller.Expirer.
func (e *events) Expire() { (*Conn)(e).expire() }

// One connection's turn ends at whichever comes first. The first read of a turn takes at most
// firstRead bytes, which hold 2,730 of the smallest frames: more of them would keep the neighbours
// waiting. With larger frames the turn goes on with whole buffers.
//
// A connection that is alone in having so much to say may take aloneFactor times as many messages:
// that gains it 15 % of throughput with empty frames, and its neighbours wait for 1.6 ms, not 0.4.
const (
	turnBytes    = 512 << 10
	turnMessages = 2048
	firstRead    = 16 << 10
	aloneFactor  = 4
)

// readable reads what has come and sends what the Handler replied, in one write.
func (c *Conn) readable() {
	outer := c.w.cork(c)
	c.w.inflated = 0
	before, size, most := c.w.frameCount, firstRead, uint(turnMessages)
	if c.w.longTurns.alone() {
		size, most = aloneFactor*size, aloneFactor*most
	}
	for taken := 0; taken < turnBytes && c.w.frameCount-before < most; taken += size {
		if taken > 0 {
			size = len(c.w.loop.ReadBuf()) - headroom
		}
		if more := c.read(size); !more {
			break
		}
	}
	if c.w.frameCount-before >= turnMessages {
		c.w.longTurns.now++
	}
	c.w.uncork(c, outer)
}

// longTurns counts the turns of turnMessages or more in this round of the loop and in the last.
type longTurns struct{ now, last int }

// alone reports whether a turn that begins now may be longer than the others'.
func (l longTurns) alone() bool { return l.now == 0 && l.last <= 1 }

// read reads once, up to size bytes, into the loop's buffer and has them processed. It reports
// whether there may be more.
//
// The buffer keeps room in front for the bytes carried over from the last event, so that a header
// or a control frame that was cut in two is whole again without a buffer of its own.
func (c *Conn) read(size int) (more bool) {
	buf := c.w.loop.ReadBuf()
	buf = buf[:min(len(buf), headroom+size)]
	n, err := c.fd.Read(buf[headroom:])
	switch {
	case err == unix.EAGAIN:
		return false
	case err == io.EOF:
		c.endOfStream()
		return false
	case err != nil:
		c.end(goneError)
		return false
	}
	c.w.totals.bytesReceived += n
	c.rare.received(n)
	if c.state != handshaking {
		c.seen = c.w.loop.Now()
	}
	full := n == len(buf)-headroom
	switch in := c.in; {
	case c.flags&(layered|awaitsProxy) == layered:
		c.rare.transport.open(c, buf[headroom:headroom+n])
	case in == nil || len(in.raw) == 0:
		c.process(buf[headroom : headroom+n])
	case len(in.raw) <= headroom:
		from := headroom - copy(buf[headroom-len(in.raw):headroom], in.raw)
		in.raw = in.raw[:0]
		c.process(buf[from : headroom+n])
	default:
		c.processWith(buf[headroom : headroom+n])
	}
	return full && !c.blocked()
}

// headroom is the space in front of the read buffer: the longest control frame with its header
// fits.
const headroom = 256

// process handles b according to the state and carries over what is left.
func (c *Conn) process(b []byte) {
	if c.state == handshaking && !c.w.holding {
		b = c.request(b)
	}
	if c.state.in(readsFrames) {
		b = c.frames(b)
	}
	if len(b) > 0 && !c.state.in(over) {
		in := c.input()
		in.raw = c.w.loop.Buffers.Append(in.raw, b...)
	}
	c.releaseInput()
	if c.in != nil && c.in.since == 0 && c.state == open {
		c.in.since = c.w.loop.Now()
		c.rearm()
	}
}

// processWith is process for b behind the bytes carried over, when these are too many for the
// headroom, or when b is no part of the read buffer.
func (c *Conn) processWith(b []byte) {
	raw := b
	if c.in != nil {
		raw = c.w.loop.Buffers.Append(c.in.raw, b...)
		c.in.raw = nil
		defer c.w.loop.Buffers.Put(raw)
	}
	c.process(raw)
}

// frames handles whole frames at the start of b and returns what it did not get to: part of a
// frame, or what comes behind the point where reading paused.
func (c *Conn) frames(b []byte) []byte {
	for len(b) > 0 && c.state.in(readsFrames) && !c.blocked() {
		if c.peerCode != 0 {
			// RFC 6455, section 5.5.1: "The application MUST NOT send any more data frames after
			// sending a Close frame." What comes all the same is not worth an answer of its own.
			return nil
		}
		if in := c.in; in != nil && in.remaining > 0 {
			b = c.gather(b)
			continue
		}
		if c.spent() {
			return b
		}
		h, n, err := decodeHeader(b)
		if n == 0 && err == nil {
			return b
		}
		compressed := c.takeRSV1(&h)
		if err != nil || ws.CheckHeader(h, c.checkState()) != nil {
			c.fail(ws.StatusProtocolError, failedProtocol)
			return nil
		}
		whole := len(b)-n >= int(min(h.Length, math.MaxInt32))
		switch {
		case h.OpCode.IsControl() && !whole:
			return b
		case !h.OpCode.IsControl() && !c.admit(h):
			return nil
		}
		c.w.frameCount++
		b = b[n:]
		if !whole || !h.Fin || h.OpCode == ws.OpContinuation {
			b = c.startFrame(h, compressed, b)
			continue
		}
		// The usual case: a frame that is whole in the buffer. It is unmasked where it lies.
		payload := b[:h.Length]
		b = b[h.Length:]
		ws.Cipher(payload, h.Mask, 0)
		if h.OpCode.IsControl() {
			c.control(h.OpCode, payload)
		} else {
			c.message(h.OpCode, payload, 0, compressed)
		}
	}
	if c.state.in(over) {
		return nil
	}
	return b
}

// checkState is the connection's state in the terms of ws.CheckHeader.
func (c *Conn) checkState() ws.State {
	if c.in != nil && c.in.inMessage() {
		return ws.StateServerSide | ws.StateFragmented
	}
	return ws.StateServerSide
}

// message hands a whole message to the Handler. checked is how many bytes of it are known to be
// UTF-8.
func (c *Conn) message(op ws.OpCode, payload []byte, checked int, compressed bool) {
	if c.in != nil {
		c.in.since = 0
	}
	if compressed {
		var ok bool
		if payload, ok = c.inflate(payload); !ok {
			return
		}
	}
	// RFC 6455, section 8.1: "the endpoint MUST _Fail the WebSocket Connection_" on bytes that are
	// not UTF-8.
	if op == ws.OpText && !utf8.Valid(payload[checked:]) {
		c.fail(ws.StatusInvalidFramePayloadData, failedUTF8)
		return
	}
	if c.state != open {
		return // the peer may go on talking until it has seen our Close; nobody listens any more
	}
	c.w.totals.messagesReceived++
	c.rare.receivedMessage()
	if c.w.messageRate.Limited() && !c.makeRare().messages.Take(c.w.messageRate, c.w.loop.Now()) {
		c.fail(ws.StatusPolicyViolation, failedMessageRate)
		return
	}
	c.w.handler.Message(c, op, payload)
	if c.w.corked == c && len(c.w.scratch) >= flushAt {
		c.flush()
	}
}

// control handles a Ping, Pong or Close frame.
func (c *Conn) control(op ws.OpCode, payload []byte) {
	if c.in != nil && !c.in.inMessage() {
		c.in.since = 0
	}
	if op == ws.OpClose {
		c.peerClose(payload)
		return
	}
	if op == ws.OpPong && c.owed > 0 {
		c.owed-- // the answer to a Ping of ours is not the peer's choice, so no limit is on it
		return
	}
	if second := uint32(c.w.loop.Now() / time.Second); second != c.second {
		c.second, c.controls = second, 0
	}
	if int(c.controls) >= c.w.cfg.MaxControl {
		c.fail(ws.StatusPolicyViolation, failedControlRate)
		return
	}
	c.controls++
	// RFC 6455, section 5.5.2: "Upon receipt of a Ping frame, an endpoint MUST send a Pong frame in
	// response, unless it already received a Close frame."
	if op == ws.OpPing && c.state.in(sends) {
		c.sendFrame(ws.OpPong, payload)
	}
}

// resumeLater continues a connection that was blocked: with what it had read already, then with
// reading. It waits for the end of the round, when none of the connection's callbacks is on the
// stack.
func (c *Conn) resumeLater() {
	if c.flags&resuming == 0 {
		c.flags |= resuming
		c.w.loop.Later(c.resume)
	}
}

func (c *Conn) resume() {
	c.flags &^= resuming
	if c.state == closed {
		return
	}
	outer := c.w.cork(c)
	c.w.inflated = 0
	if !c.blocked() && c.in != nil {
		if len(c.in.raw) > 0 {
			c.processWith(nil)
		} else {
			c.releaseInput() // a late Accept leaves it empty
		}
	}
	c.w.uncork(c, outer)
	switch {
	case c.flags&hungUp != 0:
		c.readRest()
	case c.flags&peerEOF != 0 && c.state == open: // said by TLS, without FIN
		c.endOfStream()
	}
}

// hangup comes when the peer has ended its side or the socket has failed. The descriptor is off the
// reactor from here on, so the connection reads what is left by itself.
func (c *Conn) hangup() {
	c.flags |= hungUp
	if c.state == open && c.blocked() {
		// A peer that only half-closed is served when reading goes on. One that is gone answers
		// this with a reset, which shows in SocketError.
		c.ping()
	}
	c.readRest()
}

// readRest reads on where no event will come: a turn's worth at a time, until the end of the stream
// or until the connection is blocked (resume calls it again).
func (c *Conn) readRest() {
	if c.state == closed {
		return
	}
	for c.state != closed && !c.blocked() && c.flags&peerEOF == 0 {
		before := c.w.totals.bytesReceived
		c.readable()
		if c.state == closed || c.blocked() || c.flags&peerEOF != 0 {
			break
		}
		if n, _ := unix.IoctlGetInt(c.fd.SysFD(), unix.TIOCINQ); n > 0 && !c.state.in(over) {
			c.w.loop.Later(c.readRest) // its neighbours have a turn first
			return
		}
		if c.w.totals.bytesReceived == before {
			c.end(gonePeer) // nothing to read, and not the end: an error that reading did not show
		}
	}
	if c.flags&peerEOF != 0 {
		c.endOfStream()
	}
	if c.state != closed {
		c.rearm() // a queue is sent by the timer from now on
	}
}

// endOfStream handles the peer's FIN. A peer that ends only its own side may still read: what it
// sent is handled, acknowledged and followed by the final message, as after a Close.
func (c *Conn) endOfStream() {
	c.flags |= peerEOF
	switch c.state {
	case handshaking:
		c.end(gonePeer)
	case open:
		if c.blocked() || c.flags&resuming != 0 && c.in != nil && len(c.in.raw) > 0 {
			return // resume comes back here when all that was read is handled
		}
		c.leave(ws.StatusAbnormalClosure)
	case closing, flushing, finSent:
		if c.out == nil {
			c.end(gonePeer)
		}
	}
}
