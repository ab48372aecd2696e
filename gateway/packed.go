package gateway

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"
)

// A connection as another process goes on with it: a MessagePack map, by small numbers. A reader
// refuses a connection with a field that it does not know, but for those from packOptional on.
// Times are what is left of them, or how long they are past: clocks differ.
const (
	packState     = 1  // handshaking or open
	packRaw       = 2  // input.raw
	packMessage   = 3  // the message being put together, and the frame being read
	packInputAge  = 4  // since input.since
	packOutput    = 5  // what the socket did not take
	packHeard     = 6  // since seen
	packBeat      = 7  // until the next heartbeat
	packWake      = 8  // until Wake
	packOwed      = 9  // Pongs that are expected
	packFlags     = 10 // those of packedFlags
	packRemote    = 11 // SetRemoteAddr
	packUser      = 12 // SetUser
	packEnding    = 13 // EndAfter
	packSummary   = 14 // for the access log
	packTransport = 15 // what lies between socket and frames
	packHandler   = 16 // the Handler's
	packSubject   = 17 // of the certificate that the client has shown

	packOptional = 64
)

// packedFlags are the flags that travel; the others stand for something of this process.
const packedFlags = paused | handled | accepted | awaitsProxy | deflates

// packer writes a map whose length is known at its end only.
type packer struct {
	b      []byte
	fields int
}

func (p *packer) field(key int) { p.b = msgp.AppendInt(p.b, key); p.fields++ }

func (p *packer) bytes(key int, b []byte) {
	if len(b) > 0 {
		p.field(key)
		p.b = msgp.AppendBytes(p.b, b)
	}
}

func (p *packer) string(key int, s string) {
	if s != "" {
		p.field(key)
		p.b = msgp.AppendString(p.b, s)
	}
}

func (p *packer) duration(key int, d time.Duration) {
	p.field(key)
	p.b = msgp.AppendInt64(p.b, int64(d))
}

// pack writes c.
func (c *Conn) pack() []byte {
	now := c.w.loop.Now()
	p := packer{b: make([]byte, 3, 128)} // room for the map's header
	p.field(packState)
	p.b = msgp.AppendInt(p.b, int(c.state))
	if in := c.in; in != nil {
		p.bytes(packRaw, in.raw)
		if in.inMessage() {
			p.field(packMessage)
			p.b = in.packMessage(p.b)
		}
		if in.since != 0 {
			p.duration(packInputAge, now-in.since)
		}
	}
	if c.out != nil {
		p.bytes(packOutput, c.out.buf[c.out.sent:])
	}
	p.duration(packHeard, now-c.seen)
	if c.beatAt != 0 {
		p.duration(packBeat, c.beatAt-now)
	}
	if c.wakeAt != 0 {
		p.duration(packWake, c.wakeAt-now)
	}
	p.field(packOwed)
	p.b = msgp.AppendInt(p.b, int(c.owed))
	p.field(packFlags)
	p.b = msgp.AppendInt(p.b, int(c.flags&packedFlags))
	if r := c.rare; r != nil {
		if remote := r.where().remote; remote.IsValid() {
			p.string(packRemote, remote.String())
		}
		p.string(packUser, r.who().user)
		if r.ending != nil {
			p.field(packEnding)
			p.b = msgp.AppendInt64(msgp.AppendArrayHeader(p.b, 3), int64(r.ending.at-now))
			p.b = msgp.AppendString(msgp.AppendInt(p.b, int(r.ending.code)), r.ending.reason)
		}
		if s := r.summary; s != nil {
			p.field(packSummary)
			p.b = s.pack(p.b, now)
		}
		p.string(packSubject, r.who().subject)
	}
	if c.flags&handled != 0 {
		p.bytes(packHandler, c.w.handler.(Mover).Pack(c, nil))
	}
	if c.flags&layered != 0 {
		p.transport(c)
	}
	p.b[0], p.b[1], p.b[2] = 0xde, byte(p.fields>>8), byte(p.fields) // map 16
	return p.b
}

// transport is the last field: its secrets must not be left behind where b outgrows its array.
func (p *packer) transport(c *Conn) {
	m := c.rare.transport.(mover)
	p.b = slices.Grow(p.b, 16+m.packSize())
	p.field(packTransport)
	secret := m.pack(c, make([]byte, 0, m.packSize()))
	p.b = msgp.AppendBytes(p.b, secret)
	clear(secret)
}

func (in *input) packMessage(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, 9)
	b = msgp.AppendBytes(b, in.message)
	b = msgp.AppendInt(b, int(in.op))
	b = msgp.AppendInt(b, in.fragments)
	b = msgp.AppendBool(b, in.deflated)
	b = msgp.AppendInt(b, in.valid)
	b = msgp.AppendInt64(b, in.remaining)
	b = msgp.AppendBytes(b, in.mask[:])
	b = msgp.AppendInt(b, in.phase)
	return msgp.AppendBool(b, in.fin)
}

func (s *begun) pack(b []byte, now time.Duration) []byte {
	b = msgp.AppendArrayHeader(b, 9)
	for _, text := range [...]string{s.Client.String(), s.Session, s.Path, s.RequestID} {
		b = msgp.AppendString(b, text)
	}
	for _, n := range [...]uint64{s.MessagesReceived, s.MessagesSent, s.BytesReceived, s.BytesSent} {
		b = msgp.AppendUint64(b, n)
	}
	return msgp.AppendInt64(b, int64(now-s.at))
}

// unpacker reads MessagePack. After the first error every value is zero.
type unpacker struct {
	b   []byte
	err error
}

var errPacked = errors.New("gateway: malformed state of a connection")

func (u *unpacker) fail() {
	if u.err == nil {
		u.err = errPacked
	}
}

func unpack[T any](u *unpacker, read func([]byte) (T, []byte, error)) (v T) {
	if u.err != nil {
		return v
	}
	v, rest, err := read(u.b)
	if err != nil {
		u.err = fmt.Errorf("%w: %w", errPacked, err)
		var zero T
		return zero
	}
	u.b = rest
	return v
}

func (u *unpacker) int() int       { return unpack(u, msgp.ReadIntBytes) }
func (u *unpacker) bool() bool     { return unpack(u, msgp.ReadBoolBytes) }
func (u *unpacker) string() string { return unpack(u, msgp.ReadStringBytes) }

// bytes share the state's memory, but not what lies behind them: who appends gets other memory.
func (u *unpacker) bytes() []byte { return slices.Clip(unpack(u, msgp.ReadBytesZC)) }

// duration is at least least, and bounded as the Config's are.
func (u *unpacker) duration(least time.Duration) time.Duration {
	d := time.Duration(unpack(u, msgp.ReadInt64Bytes))
	if d > longest {
		u.fail()
	}
	return max(d, least)
}

func (u *unpacker) array(n uint32) {
	if unpack(u, msgp.ReadArrayHeaderBytes) != n {
		u.fail()
	}
}

// unpack sets c, which is new, to what pack has written. The Handler's part is returned. On an
// error c may hold buffers.
func (c *Conn) unpack(state []byte) (handler []byte, err error) {
	u := unpacker{b: state}
	now := c.w.loop.Now()
	c.unacked = math.MaxUint16 // what was written before is known to the kernel only
	for n := unpack(&u, msgp.ReadMapHeaderBytes); n > 0 && u.err == nil; n-- {
		switch key := u.int(); key {
		case packState:
			c.state = stateOf(u.int())
		case packRaw:
			if in := c.input(); len(in.raw) == 0 {
				in.raw = c.w.loop.Buffers.Append(in.raw, u.bytes()...)
			} else {
				u.fail()
			}
		case packMessage:
			c.input().unpackMessage(&u, c)
		case packInputAge:
			c.input().since = now - u.duration(0)
		case packOutput:
			c.requeue(u.bytes())
		case packHeard:
			c.seen = now - u.duration(0)
		case packBeat:
			c.beatAt = now + u.duration(0)
		case packWake:
			c.wakeAt = now + u.duration(0)
		case packOwed:
			c.owed = uint8(u.int())
		case packFlags:
			c.flags |= connFlags(u.int()) & packedFlags
		case packRemote:
			if addr, err := netip.ParseAddrPort(u.string()); err == nil {
				c.makeRare().at().remote = addr
			} else {
				u.fail()
			}
		case packUser:
			c.makeRare().by().user = u.string()
		case packSubject:
			c.makeRare().by().subject = u.string()
		case packEnding:
			u.array(3)
			e := &ending{at: now + u.duration(0), code: ws.StatusCode(u.int()), reason: u.string()}
			c.makeRare().ending = e
		case packSummary:
			s := u.summary(now)
			if c.w.cfg.Ended != nil {
				c.makeRare().summary = s
			}
		case packTransport:
			if err := c.unpackTransport(u.bytes()); err != nil && u.err == nil {
				u.err = err
			}
		case packHandler:
			handler = u.bytes()
		default:
			if key < packOptional {
				u.err = fmt.Errorf("gateway: a connection's state has the field %d, which this version does not know", key)
				break
			}
			u.b, u.err = msgp.Skip(u.b)
		}
	}
	switch {
	case u.err != nil:
	case len(u.b) > 0, c.state != handshaking && c.state != open,
		(c.state == open) != (c.flags&(handled|accepted) == handled|accepted),
		c.state == open && c.tlsHandshake() != nil:
		u.fail()
	case c.flags&deflates != 0 && !c.w.cfg.Compression:
		u.err = errors.New("gateway: the connection uses compression, which is off here")
	}
	return handler, u.err
}

// stateOf is a state that travels, or closed: a request that the Handler has is asked again.
func stateOf(n int) state {
	if n < 0 || n >= int(states) || state(n) == opening {
		return closed
	}
	return state(n)
}

func (in *input) unpackMessage(u *unpacker, c *Conn) {
	u.array(9)
	message := u.bytes()
	in.op, in.fragments = ws.OpCode(u.int()), u.int()
	in.deflated = u.bool()
	in.valid, in.remaining = u.int(), int64(u.int())
	copy(in.mask[:], u.bytes())
	in.phase, in.fin = u.int(), u.bool()
	switch {
	case u.err != nil:
	case len(in.message) > 0, in.op != ws.OpText && in.op != ws.OpBinary, in.fragments < 1, in.valid < 0,
		in.valid > len(message), in.remaining < 0, in.phase&^3 != 0,
		in.remaining+int64(len(message)) > int64(c.w.cfg.MaxMessage):
		u.fail() // also when this process takes shorter messages only
	default:
		in.message = c.w.loop.Buffers.Append(in.message, message...)
	}
}

func (u *unpacker) summary(now time.Duration) *begun {
	s := new(begun)
	u.array(9)
	s.Client, _ = netip.ParseAddrPort(u.string())
	s.Session, s.Path, s.RequestID = u.string(), u.string(), u.string()
	for _, n := range [...]*uint64{&s.MessagesReceived, &s.MessagesSent, &s.BytesReceived, &s.BytesSent} {
		*n = unpack(u, msgp.ReadUint64Bytes)
	}
	s.at = now - u.duration(0)
	return s
}

// requeue has b sent before anything else.
func (c *Conn) requeue(b []byte) {
	if len(b) == 0 || c.out != nil {
		return
	}
	c.out = c.w.newOutput()
	c.out.since = c.w.loop.Now()
	c.out.buf = c.w.loop.Buffers.Append(nil, b...)
	c.out.high = len(b) >= c.w.cfg.MaxQueue/4
}
