package backend

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"

	"sluice/gateway"
)

// A session moves to another process between two requests: with what waits for the next one, and
// with its subscriptions.

var _ gateway.Mover = (*loop)(nil)

// CanMove implements gateway.Mover.
func (l *loop) CanMove(c *gateway.Conn, _ bool) bool {
	s, _ := c.Data.(*session)
	return s != nil && (s.state == open || s.state == detached) && !s.inFlight && l.topics.CanMove(c)
}

// Versions of a session's state. Another version cannot be read.
const moveVersion = 1

// Pack implements gateway.Mover.
func (l *loop) Pack(c *gateway.Conn, b []byte) []byte {
	return l.topics.Pack(c, c.Data.(*session).pack(b, time.Now()))
}

func (s *session) pack(b []byte, now time.Time) []byte {
	b = msgp.AppendInt(b, moveVersion)
	b = msgp.AppendString(b, s.lane.target.name)
	b = msgp.AppendBytes(b, s.id[:])
	b = msgp.AppendString(b, string(s.head))
	b = msgp.AppendInt(b, int(s.state))
	b = msgp.AppendBool(b, s.grip)
	b = msgp.AppendString(b, s.prefix)
	b = msgp.AppendArrayHeader(b, uint32(2*len(s.metas)))
	for _, m := range s.metas {
		b = msgp.AppendString(msgp.AppendString(b, m.name), m.value)
	}
	b = msgp.AppendUint32(b, s.requests)
	b = msgp.AppendBytes(b, s.pending)
	b = msgp.AppendInt(b, s.replay)
	b = msgp.AppendInt(b, s.offered)
	for _, flag := range [...]bool{s.said, s.told, s.paused, s.refresh, s.queued} {
		b = msgp.AppendBool(b, flag)
	}
	return s.timers.pack(b, now)
}

// pack writes times as what is left of them: the other process has a clock of its own.
func (t *timers) pack(b []byte, now time.Time) []byte {
	if t == nil {
		return msgp.AppendNil(b)
	}
	b = msgp.AppendInt64(b, int64(t.poll))
	b = packControl(b, &t.keepAlive, t.keepAliveAt, now)
	return packControl(b, &t.delayed, t.delayedAt, now)
}

func packControl(b []byte, c *control, at, now time.Time) []byte {
	if at.IsZero() {
		return msgp.AppendNil(b)
	}
	b = msgp.AppendInt64(b, int64(at.Sub(now)))
	b = msgp.AppendInt64(b, int64(c.timeout))
	b = msgp.AppendInt(b, int(c.op))
	b = msgp.AppendBool(b, c.interval)
	return msgp.AppendBytes(b, c.content)
}

// Moved implements gateway.Mover.
func (l *loop) Moved(c *gateway.Conn) { l.letGo(c) }

// Unmoved implements gateway.Mover.
func (l *loop) Unmoved(c *gateway.Conn) { l.letGo(c) }

// letGo ends this process' part in a connection, of which the backend hears nothing.
func (l *loop) letGo(c *gateway.Conn) {
	s, _ := c.Data.(*session)
	if s == nil {
		return
	}
	l.topics.DropAll(c)
	if s.queued {
		s.lane.remove(s)
	}
	buffered.Add(-int64(len(s.pending)))
	s.pending, s.state, s.conn, s.timers = nil, gone, nil, nil
	l.forget(s)
}

// Unpack implements gateway.Mover.
func (l *loop) Unpack(c *gateway.Conn, state []byte) error {
	r := reader{b: state}
	s, target, queued := r.session(time.Now())
	if r.err != nil {
		return r.err
	}
	for _, n := range l.lanes {
		if n.target.name == target {
			s.lane = n
		}
	}
	switch {
	case s.lane == nil:
		return fmt.Errorf("backend: no route leads to %q any more", target)
	case l.sessions[s.id] != nil:
		return errState
	}
	rest, err := l.topics.Unpack(c, r.b)
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		l.topics.DropAll(c)
		return errState
	}
	s.conn, c.Data = c, s
	if len(s.pending) > 0 {
		s.pending = append(l.buffer(), s.pending...)
	} else {
		s.pending = nil // not an empty part of state, which is cleared and used again
	}
	buffered.Add(int64(len(s.pending)))
	l.sessions[s.id] = s
	l.app.adopted.Store(true)
	if queued || s.refresh {
		s.ready()
	}
	s.schedule(time.Now())
	return nil
}

// session reads what pack has written. target is the name of the session's backend; pending shares
// the reader's memory.
func (r *reader) session(now time.Time) (s *session, target string, queued bool) {
	s = new(session)
	if v := r.int(); r.err == nil && v != moveVersion {
		r.err = fmt.Errorf("backend: a connection's state of version %d, this is %d", v, moveVersion)
	}
	target = r.string()
	if id := r.bytes(); len(id) == len(s.id) {
		copy(s.id[:], id)
	} else {
		r.fail()
	}
	s.head = head(r.string())
	s.state = sessionState(r.int())
	s.grip, s.prefix = r.bool(), r.string()
	for n := r.array(2 * maxMeta); n > 1; n -= 2 {
		s.metas = append(s.metas, meta{r.string(), r.string()})
	}
	s.requests = read(r, msgp.ReadUint32Bytes)
	s.pending = r.bytes()
	s.replay, s.offered = r.int(), r.int()
	for _, flag := range [...]*bool{&s.said, &s.told, &s.paused, &s.refresh, &queued} {
		*flag = r.bool()
	}
	s.timers = r.timers(now)
	if s.state != open && s.state != detached || s.replay < 0 || s.offered < s.replay ||
		s.offered > len(s.pending) {
		r.fail()
	}
	return s, target, queued
}

// timers reads what pack has written.
func (r *reader) timers(now time.Time) *timers {
	if r.nil() {
		return nil
	}
	t := &timers{poll: time.Duration(r.int())}
	if t.poll < 0 {
		r.fail()
	}
	t.keepAlive, t.keepAliveAt = r.control(now)
	t.delayed, t.delayedAt = r.control(now)
	return t
}

func (r *reader) control(now time.Time) (c control, at time.Time) {
	if r.nil() {
		return c, at
	}
	at = now.Add(time.Duration(r.int()))
	c.timeout = time.Duration(r.int())
	c.op = ws.OpCode(r.int())
	c.interval = r.bool()
	c.content = append([]byte{}, r.bytes()...)
	switch {
	case c.timeout <= 0:
		r.fail()
	case c.op == ws.OpText, c.op == ws.OpBinary:
	case c.op != ws.OpPing && c.op != ws.OpPong, len(c.content) > ws.MaxControlFramePayloadSize:
		r.fail()
	}
	return c, at
}

// reader reads MessagePack; after the first error every value is zero.
type reader struct {
	b   []byte
	err error
}

var errState = errors.New("backend: malformed state of a connection")

func (r *reader) fail() {
	if r.err == nil {
		r.err = errState
	}
}

func read[T any](r *reader, f func(b []byte) (T, []byte, error)) (v T) {
	if r.err != nil {
		return v
	}
	v, rest, err := f(r.b)
	if err != nil {
		r.err = fmt.Errorf("%w: %w", errState, err)
		var zero T
		return zero
	}
	r.b = rest
	return v
}

func (r *reader) int() int       { return read(r, msgp.ReadIntBytes) }
func (r *reader) bool() bool     { return read(r, msgp.ReadBoolBytes) }
func (r *reader) string() string { return read(r, msgp.ReadStringBytes) }

// bytes share the reader's memory, but not what lies behind them: who appends gets other memory.
func (r *reader) bytes() []byte { return slices.Clip(read(r, msgp.ReadBytesZC)) }

func (r *reader) nil() bool {
	if r.err != nil || !msgp.IsNil(r.b) {
		return false
	}
	r.b = r.b[1:]
	return true
}

// array reads the length of an array, of at most most elements.
func (r *reader) array(most int) int {
	n := read(r, msgp.ReadArrayHeaderBytes)
	if int64(n) > int64(most) {
		r.fail()
		return 0
	}
	return int(n)
}
