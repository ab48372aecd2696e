package load

import (
	"encoding/binary"
	"errors"
	"io"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/bench/reactor"
	"sluice/bench/wsclient"
)

// state is where a connection is in its life. It only ever moves down this list.
type state uint8

const (
	connecting  state = iota // connect() is under way; over TLS, that handshake too
	handshaking              // the request is sent
	open                     // 101 has come
	closing                  // we sent Close and wait for the server's
	dead
)

// place is what survives a connection when its client comes back: its session and what it is owed.
type place struct {
	acked  uint64             // messages answered in this session: the total that the server acknowledged
	id     wsclient.SessionID // zero: the server makes one
	maybe  uint32             // in flight when the last connection ended: counted or not, nobody knows
	target uint16
	tries  uint8 // attempts that failed in a row
	flags  flags
}

type flags uint8

const (
	initial   flags = 1 << iota // opened by the ramp, not a return
	returning                   // has been here before and its total is not confirmed yet
	visiting                    // resume, churn: in the middle of a visit
	slow                        // does not read
	asked                       // a message was sent over this connection
	beaten                      // a heartbeat has come
	awaited                     // its welcome is waited for
	swept                       // the closed loop has given up waiting for the oldest message
)

// Conn is one client connection, in 112 bytes. It has no goroutine, no buffer and no timer of its
// own. Loop only.
type Conn struct {
	reactor.Socket
	w *worker
	x *extra // nil most of the time
	place
	sent  inFlight
	mark  time.Duration // when this step began: connect, handshake, then open or the last heartbeat
	pos   int32         // in worker.open; -1 when not there
	todo  uint16        // resume: messages left in this visit
	state state
	deaf  bool // slow: does not read any more
}

// extra is what few connections need at any one time.
type extra struct {
	carry []byte // input that ended within a frame
	whole []byte // fragments of a message so far
	out   []byte // output that the socket did not take
	rest  []byte // of a message that was begun: see Spec.FragmentPause
	tls   *secure
	op    ws.OpCode // of whole
}

// readRounds bounds how often one connection reads in one round, so that a server that floods one
// connection cannot starve the rest.
const readRounds = 16

// Ready implements reactor.Handler.
func (c *Conn) Ready(e reactor.Events) {
	switch {
	case c.state == connecting && (c.x == nil || c.x.tls == nil):
		c.connected()
		return
	case e.Hangup():
		c.hangup()
		return
	}
	if e.Readable() && !c.deaf {
		c.readSome()
	}
	if e.Writable() && c.state != dead {
		c.flush()
	}
}

// readSome reads what there is. Events come once only, so what is left after some rounds is read
// later in this round of the loop.
func (c *Conn) readSome() {
	for range readRounds {
		if !c.readOnce() {
			return
		}
	}
	c.w.loop.Later(func() {
		if c.state != dead && !c.deaf {
			c.readSome()
		}
	})
}

// readOnce reads and handles what there is. It reports whether there may be more.
func (c *Conn) readOnce() (more bool) {
	buf := c.w.loop.ReadBuf()
	if c.state == connecting { // TLS: its handshake is under way
		return c.x.tls.take(c, buf)
	}
	n, err := c.read(buf)
	if n > 0 {
		c.w.readAt = c.w.now()
		c.w.n.BytesIn += int64(n)
		c.take(buf[:n])
	}
	switch {
	case c.state == dead:
		return false
	case err == nil:
		return n == len(buf) || (c.x != nil && c.x.tls != nil)
	case errors.Is(err, unix.EAGAIN):
		return false
	}
	c.broken(err)
	return false
}

func (c *Conn) read(p []byte) (int, error) {
	if c.x != nil && c.x.tls != nil {
		return c.x.tls.Read(p)
	}
	return c.Socket.Read(p)
}

// hangup handles the end of the stream or of the socket: what came before it still counts.
func (c *Conn) hangup() {
	if !c.deaf {
		for range maxPayload {
			if !c.readOnce() {
				break
			}
		}
	}
	if c.state != dead && c.state != connecting {
		err := c.Error()
		if err == nil {
			err = io.EOF
		}
		c.broken(err)
	}
}

// connected ends the connect, well or badly, and goes on with the handshake.
func (c *Conn) connected() {
	w := c.w
	if err := c.Error(); err != nil {
		w.attemptFailed(c, err)
		return
	}
	now := w.now()
	w.h.connect.record(now - c.mark)
	if c.flags&slow != 0 {
		_ = unix.SetsockoptInt(c.SysFD(), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
	}
	if w.targets[c.target].TLS() {
		c.beginTLS()
		return
	}
	c.begin(now)
}

// begin sends the handshake's request.
func (c *Conn) begin(now time.Duration) {
	c.state, c.mark = handshaking, now
	c.write(c.request())
}

func (c *Conn) request() []byte {
	w := c.w
	id := c.id
	if !w.spec.returns() {
		id = wsclient.SessionID{}
	}
	w.scratch = w.targets[c.target].AppendRequest(w.scratch[:0], id)
	return w.scratch
}

// take handles input: the response to the handshake, then frames.
func (c *Conn) take(b []byte) {
	if c.x != nil && len(c.x.carry) > 0 {
		c.x.carry = append(c.x.carry, b...)
		b = c.x.carry
	}
	used := 0
	for used < len(b) && c.state != dead {
		var n int
		if c.state == handshaking {
			n = c.answer(b[used:])
		} else {
			n = c.nextFrame(b[used:])
		}
		if n == 0 {
			break
		}
		used += n
	}
	if c.state != dead {
		c.carry(b[used:])
	}
}

// carry keeps input that ended within a frame until the rest comes.
func (c *Conn) carry(rest []byte) {
	switch {
	case len(rest) > 0:
		c.need().carry = append(c.need().carry[:0], rest...)
	case c.x != nil:
		c.x.carry = nil
		c.tidy()
	}
}

func (c *Conn) need() *extra {
	if c.x == nil {
		c.x = &extra{}
	}
	return c.x
}

func (c *Conn) tidy() {
	if x := c.x; x != nil && x.carry == nil && x.whole == nil && len(x.out) == 0 && x.rest == nil && x.tls == nil {
		c.x = nil
	}
}

// answer handles the response to the handshake. It returns how much of b it was; 0 asks for more.
func (c *Conn) answer(b []byte) int {
	w := c.w
	r, used, err := wsclient.ParseResponse(b)
	switch {
	case err != nil:
		w.attemptFailed(c, err)
		return 0
	case used == 0:
		return 0
	case r.Status != 101:
		w.refused(c, r)
		return 0
	case string(r.Accept) != w.key.Accept:
		w.attemptFailed(c, errAccept)
		return 0
	case w.spec.Subprotocol != "" && string(r.Protocol) == "":
		w.attemptFailed(c, errSubprotocol)
		return 0
	case len(r.Extensions) > 0:
		w.attemptFailed(c, errExtension)
		return 0
	}
	if id, ok := wsclient.ParseSessionID(r.SessionID); ok {
		c.keepID(id)
	}
	w.h.handshake.record(w.readAt - c.mark)
	w.ramp.pace.record(w.readAt - c.mark)
	c.state, c.mark = open, w.readAt
	w.opened(c)
	return used
}

// number is the client's number in the scenario custom, where the place of the session's id holds
// it.
func (c *Conn) number() uint64 { return binary.LittleEndian.Uint64(c.id[:]) }

// keepID remembers the session where clients return.
func (c *Conn) keepID(id wsclient.SessionID) {
	if c.w.spec.returns() {
		c.id = id
	}
}

// nextFrame handles one frame. It returns how much of b it was; 0 asks for more.
func (c *Conn) nextFrame(b []byte) int {
	f, used, err := wsclient.DecodeFrame(b, maxPayload)
	if err != nil {
		c.violated(err.Error())
		return 0
	}
	if used == 0 {
		return 0
	}
	switch f.Op {
	case ws.OpPing:
		c.pong(f.Payload)
	case ws.OpPong:
	case ws.OpClose:
		c.closed(f.Payload)
	default:
		c.fragment(f)
	}
	return used
}

// fragment puts messages together; most are one frame and are not copied.
func (c *Conn) fragment(f wsclient.Frame) {
	started := c.x != nil && c.x.whole != nil
	switch {
	case started != (f.Op == ws.OpContinuation), started && len(c.x.whole)+len(f.Payload) > maxPayload:
		c.violated("frame: continuation out of place or too long")
	case f.Fin && !started:
		c.message(f.Payload)
	case !started:
		x := c.need()
		x.whole, x.op = append(make([]byte, 0, 2*len(f.Payload)+1), f.Payload...), f.Op
	default:
		c.x.whole = append(c.x.whole, f.Payload...)
		if f.Fin {
			whole := c.x.whole
			c.x.whole = nil
			c.message(whole)
		}
	}
}

// pong answers a ping, unless the server has let so much pile up that it does not read them anyway.
func (c *Conn) pong(payload []byte) {
	if c.room() {
		c.w.n.Pings++
		c.sendFrame(ws.OpPong, payload)
	}
}

// closed handles the server's Close: the echo of ours, or its own.
func (c *Conn) closed(body []byte) {
	code := ws.StatusNoStatusRcvd
	if len(body) >= 2 {
		code = ws.StatusCode(binary.BigEndian.Uint16(body))
	}
	if len(body) == 1 || len(body) >= 2 && (code.IsNotUsed() || code.IsProtocolReserved()) {
		c.violated("frame: Close with a code that may not be sent")
		return
	}
	if c.state == closing {
		c.w.left(c)
		return
	}
	c.sendFrame(ws.OpClose, body[:min(len(body), 2)])
	if c.state != dead {
		c.w.closedByServer(c, int(code))
	}
}

// broken handles the end of the socket without a Close from the server.
func (c *Conn) broken(err error) {
	switch {
	case c.state == dead:
	case c.state == closing:
		c.w.left(c)
	case c.state == open:
		c.w.closedByServer(c, int(ws.StatusAbnormalClosure))
	default:
		c.w.attemptFailed(c, err)
	}
}

// violated ends a connection on which the server broke the protocol: we close it, with 1002.
func (c *Conn) violated(how string) {
	c.w.n.Corrupt++
	c.w.fault(how)
	c.sendFrame(ws.OpClose, closeProtocol)
	if c.state == open {
		c.w.lost(c, int(ws.StatusProtocolError))
	} else if c.state == closing {
		c.w.left(c)
	}
}
