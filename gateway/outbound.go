package gateway

import (
	"math"
	"slices"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// output is what the socket of a slow reader did not take. It is pooled: a connection whose peer
// keeps up has none.
type output struct {
	buf   []byte
	sent  int           // bytes of buf that the socket has taken
	since time.Duration // when it last took any, or the peer last acknowledged any
	acked uint64        // FD.Acked at that time
	reads bool          // it acknowledged bytes while none could be written
	high  bool          // over the high-water mark: nothing is read until it is empty

	drained func(c *Conn) // OnDrained
}

func (o *output) queued() int { return len(o.buf) - o.sent }

// compact drops the bytes that were sent once they are the greater part. A peer that keeps up with
// what it is sent, but never catches up, would otherwise have the buffer grow for as long as it
// stays.
func (o *output) compact() {
	if o.sent > len(o.buf)/2 {
		o.buf = o.buf[:copy(o.buf, o.buf[o.sent:])]
		o.sent = 0
	}
}

// flushAt is how many bytes of replies collect before they are written in the middle of an event:
// enough to make the system call cheap, and little enough for an ordinary socket buffer.
const flushAt = 32 << 10

// Send sends one message; op is ws.OpText or ws.OpBinary. payload is copied. Inside a Handler's
// Message (and in functions given to Post), what is sent to that connection leaves in one write at
// the end of the event. It returns an error, and sends nothing, when the connection is closing; how
// the peer takes it is not known until later.
func (c *Conn) Send(op ws.OpCode, payload []byte) error {
	if !c.state.in(sends) {
		return errClosed
	}
	c.w.totals.messagesSent++
	c.rare.sentMessage()
	c.sendFrame(op, payload)
	return nil
}

func (c *Conn) sendFrame(op ws.OpCode, payload []byte) {
	w := c.w
	outer := w.cork(c)
	w.scratch = c.appendMessage(w.scratch, op, payload)
	w.uncork(c, outer)
}

// send is sendFrame for frames that are encoded already.
func (c *Conn) send(frames []byte) {
	if c.w.corked == c {
		c.w.scratch = append(c.w.scratch, frames...)
		return
	}
	c.write(frames)
	c.settle()
}

// Frame is a message that is encoded once and sent to many connections. It is never changed, so all
// goroutines may share it. The zero Frame is none.
type Frame struct {
	encoded    []byte
	compressed *compressedFrame // nil for one that is too short
}

// leastCompressed is the shortest payload that NewFrame makes room for a compressed form of.
const leastCompressed = 64

// NewFrame encodes a message; op is ws.OpText or ws.OpBinary. payload is copied. Any goroutine.
func NewFrame(op ws.OpCode, payload []byte) Frame {
	f := Frame{encoded: appendFrame(make([]byte, 0, len(payload)+10), op, payload)}
	if len(payload) >= leastCompressed {
		f.compressed = new(compressedFrame)
	}
	return f
}

// Payload is the message that was encoded; it must not be changed.
func (f Frame) Payload() []byte {
	if len(f.encoded) < 2 {
		return nil
	}
	switch n := f.encoded[1] & 0x7f; n { // never masked: RFC 6455, section 5.2
	case 126:
		return f.encoded[4:]
	case 127:
		return f.encoded[10:]
	}
	return f.encoded[2:]
}

// Size is how many bytes the frame has on the wire where it is not compressed; where it is, it has
// less, and is held in both forms.
func (f Frame) Size() int { return len(f.encoded) }

// SendFrame is Send for a message that was encoded before.
func (c *Conn) SendFrame(f Frame) error {
	if !c.state.in(sends) {
		return errClosed
	}
	c.w.totals.messagesSent++
	c.rare.sentMessage()
	encoded := f.encoded
	if c.flags&deflates != 0 {
		encoded = f.forDeflate(c.w)
	}
	c.send(encoded)
	return nil
}

// Queued is how many bytes wait for the client's socket to take them. While it is not 0, whoever
// sends much should wait for OnDrained: see Config.MaxQueue.
func (c *Conn) Queued() int {
	if c.out == nil {
		return 0
	}
	return c.out.queued()
}

// OnDrained has fn called once, on the loop, when the socket has taken all that waits for it now.
// It reports false, and does not call fn, when nothing waits. A second call replaces the first. fn
// is not called when the connection ends before.
func (c *Conn) OnDrained(fn func(c *Conn)) bool {
	if c.out == nil {
		return false
	}
	c.out.drained = fn
	return true
}

// spare keeps a loop's buffer for the next use, but for one that a large message has made.
func spare(b []byte) []byte {
	if cap(b) > 4*flushAt {
		return nil
	}
	return b[:0]
}

// flush writes what has collected in the loop's scratch buffer for c.
func (c *Conn) flush() {
	w := c.w
	if len(w.scratch) > 0 {
		c.write(w.scratch)
		w.scratch = w.scratch[:0]
	}
}

// write hands b to the socket, and to the queue what the socket does not take.
func (c *Conn) write(b []byte) {
	if c.state.in(silent) {
		return
	}
	if c.flags&layered != 0 {
		c.w.sealed = c.rare.transport.seal(c, c.w.sealed[:0], b)
		b = c.w.sealed
		defer func() { c.w.sealed = spare(c.w.sealed) }()
	}
	c.writeWire(b)
}

// writeWire is write for bytes as they are on the wire.
func (c *Conn) writeWire(b []byte) {
	if len(b) == 0 {
		return // a transport without keys, or one that has said its last
	}
	if c.out != nil {
		c.queue(b)
		return
	}
	if c.flags&travels == 0 {
		n, err := c.fd.Write(b)
		if err != nil && err != unix.EAGAIN {
			c.abort()
			return
		}
		c.wrote(n)
		b = b[n:]
	}
	if len(b) > 0 {
		c.out = c.w.newOutput()
		c.out.since, c.out.acked = c.w.loop.Now(), c.fd.Acked()
		c.queue(b)
		c.rearm() // the peer has StallTimeout to take some of it
	}
}

// wrote counts n bytes that the socket took. As long as too few were written to matter, watchUnread
// need not ask the kernel how many wait: an eighth of what a heartbeat costs. When they may matter
// the peer is watched: the kernel's own clock (see FD.Patient) may not wait for a heartbeat.
func (c *Conn) wrote(n int) {
	c.w.totals.bytesSent += n
	c.rare.sent(n)
	few := c.unacked <= unreadSlack
	c.unacked = uint16(min(int(c.unacked)+n, math.MaxUint16))
	if few && c.unacked > unreadSlack && c.flags&watched == 0 {
		c.watch(stall{since: c.w.loop.Now()})
		c.rearm()
	}
}

// queue keeps b until the socket takes it. The bound is on what waits already, so that one reply of
// any size can always be queued: a queue holds less than MaxQueue and one event's replies.
func (c *Conn) queue(b []byte) {
	if c.out.queued() >= c.w.cfg.MaxQueue {
		c.dropSlowConsumer(slowOverflow)
		return
	}
	c.out.compact()
	c.out.buf = c.w.loop.Buffers.Append(c.out.buf, b...)
	c.out.high = c.out.high || c.out.queued() >= c.w.cfg.MaxQueue/4
}

// settle does what has to wait until everything is written: FIN comes behind it, and the loop is
// told what the connection waits for.
func (c *Conn) settle() {
	if c.state == flushing && c.out == nil {
		c.sendFIN()
	}
	c.interest()
}

// writable sends from the queue what the socket takes.
func (c *Conn) writable() {
	out := c.out
	if out == nil {
		c.interest()
		return
	}
	drained := out.drained
	c.writeQueue(out)
	c.settle()
	if c.out == nil && drained != nil && c.state != broken {
		drained(c)
	}
}

func (c *Conn) writeQueue(out *output) {
	n, err := c.fd.Write(out.buf[out.sent:])
	if err != nil && err != unix.EAGAIN {
		c.abort()
		return
	}
	c.wrote(n)
	out.sent += n
	if n > 0 {
		out.since = c.w.loop.Now()
	}
	if out.queued() > 0 {
		return
	}
	c.dropOutput()
	if c.state != flushing {
		c.resumeLater()
	}
}

func (c *Conn) dropOutput() {
	if c.out != nil {
		c.w.loop.Buffers.Put(c.out.buf)
		*c.out = output{}
		if len(c.w.outputs) < 1024 {
			c.w.outputs = append(c.w.outputs, c.out)
		}
		c.out = nil
	}
}

// judgeQueue ends a peer that has taken nothing of its queue for StallTimeout. Write readiness does
// not tell: the kernel reports it only when a third of its buffer is free, which a peer that reads
// slowly may take a minute for.
func (c *Conn) judgeQueue() {
	out := c.out
	acked := c.fd.Acked()
	if acked <= out.acked {
		c.dropSlowConsumer(slowStall)
		return
	}
	out.since, out.acked, out.reads = c.w.loop.Now(), acked, true
	c.fd.Patient()
}

// judgeUnread ends a peer that takes nothing of what the kernel has for it.
func (c *Conn) judgeUnread() {
	n := c.fd.Unacked()
	if n <= unreadSlack {
		c.unacked = uint16(n)
		c.unwatch()
		return
	}
	acked, last := c.fd.Acked(), c.w.stalls[c]
	if last.acked != 0 && acked <= last.acked {
		c.dropSlowConsumer(slowStall)
		return
	}
	reads := last.acked != 0
	c.w.stalls[c] = stall{c.w.loop.Now(), acked, reads}
	if reads {
		c.fd.Patient()
	}
}

// stallDue is when a peer with a queue is looked at. One that reads slowly opens its window only
// when half of its buffer, or a whole segment, is free: 64 KiB on loopback, which takes it 21 s at
// 3,000 bytes a second. So one that was seen to read has three times as long to show it again.
func (c *Conn) stallDue() time.Duration {
	return c.out.since + c.stallTimeout(c.out.reads)
}

func (c *Conn) stallTimeout(reads bool) time.Duration {
	if reads {
		return 3 * c.w.cfg.StallTimeout
	}
	return c.w.cfg.StallTimeout
}

// stall is what was known of a peer when bytes for it began to wait in the kernel, or when it was
// last seen to take some.
type stall struct {
	since time.Duration
	acked uint64 // FD.Acked at that time; 0: not asked yet
	reads bool   // it was seen to take some: see stallDue
}

// unreadSlack is how many bytes may wait in the kernel without a look at whether the peer reads:
// the heartbeats of a peer that is away for a while, which DeadAfter ends.
const unreadSlack = 4 << 10

// watchUnread looks for a peer that does not read, though the kernel's buffers still take what it
// is sent. It runs at heartbeats, for those whom wrote did not have watched: after a queue, or
// written to by another process.
func (c *Conn) watchUnread() {
	if c.out != nil || c.flags&watched != 0 || c.unacked <= unreadSlack {
		return
	}
	if n := c.fd.Unacked(); n <= unreadSlack {
		c.unacked = uint16(n)
		return
	}
	c.watch(stall{since: c.w.loop.Now(), acked: c.fd.Acked()})
}

func (c *Conn) watch(s stall) {
	if c.w.stalls == nil {
		c.w.stalls = make(map[*Conn]stall)
	}
	c.flags |= watched
	c.w.stalls[c] = s
}

func (c *Conn) unwatch() {
	if c.flags&watched != 0 {
		c.flags &^= watched
		delete(c.w.stalls, c)
	}
}

// held is how many bytes of the loop's buffers the connection holds.
func (c *Conn) held() (n int) {
	if c.in != nil {
		n = cap(c.in.raw) + cap(c.in.message) + cap(c.in.accept)
	}
	if c.flags&layered != 0 {
		n += c.rare.transport.held()
	}
	if c.out != nil {
		n += cap(c.out.buf)
	}
	return n
}

// shed runs at the end of a round. When the loop's connections hold more than its share of
// MaxBuffered, those that hold most are cut, until an eighth of the share is free: so the next look
// at all connections is paid for with as many bytes received.
func (w *worker) shed() {
	if w.loop.Buffers.Held() <= w.share {
		return
	}
	var holders []*Conn
	for _, c := range w.conns {
		if c.in != nil || c.out != nil || c.flags&layered != 0 && c.held() > 0 {
			holders = append(holders, c)
		}
	}
	slices.SortFunc(holders, func(a, b *Conn) int { return b.held() - a.held() })
	for _, c := range holders {
		if w.loop.Buffers.Held() <= w.share-w.share/8 {
			return
		}
		c.shed()
	}
}

// shed gives up what the connection holds, and the connection with it.
func (c *Conn) shed() {
	switch {
	case c.out != nil:
		c.w.metrics.slowConsumers[slowMemory].Inc()
		c.closeCode = uint16(ws.StatusPolicyViolation)
		c.end(goneReset)
	case c.state == handshaking:
		c.refuse(RefuseFull, "", false)
	case c.state == opening:
		c.Refuse(RefuseFull)
	default:
		c.fail(1013, failedMemory) // try again later
	}
}

// dropSlowConsumer is what happens to a client that does not read what it is sent: a reset. There
// is no room left to tell it 1008, and the kernel lets go at once of what it holds for it.
func (c *Conn) dropSlowConsumer(why slowReason) {
	if c.state == broken || c.state == closed {
		return // it is on its way out already, and counted
	}
	c.w.metrics.slowConsumers[why].Inc()
	c.closeCode = uint16(ws.StatusPolicyViolation)
	c.abort()
}

// PauseReading stops reading from the client until ResumeReading; the client notices when its own
// buffers are full. Messages that were read already are kept back too. Heartbeats go on. It does
// nothing once Close has been called: the peer's own Close has to be read.
func (c *Conn) PauseReading() {
	if c.state.in(pausable) {
		c.flags |= paused
		c.interest()
	}
}

// ResumeReading undoes PauseReading.
func (c *Conn) ResumeReading() {
	if c.flags&paused != 0 {
		c.flags &^= paused
		c.resumeLater()
	}
}
