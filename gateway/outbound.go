package gateway

import (
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// output is what the socket of a slow reader did not take. It is pooled: a connection whose peer keeps up has none.
type output struct {
	buf   []byte
	sent  int           // bytes of buf that the socket has taken
	since time.Duration // when it last took any
	high  bool          // over the high-water mark: nothing is read until it is empty
}

func (o *output) queued() int { return len(o.buf) - o.sent }

// compact drops the bytes that were sent once they are the greater part. A peer that keeps up with what it is sent, but never catches up,
// would otherwise have the buffer grow for as long as it stays.
func (o *output) compact() {
	if o.sent > len(o.buf)/2 {
		o.buf = o.buf[:copy(o.buf, o.buf[o.sent:])]
		o.sent = 0
	}
}

// flushAt is how many bytes of replies collect before they are written in the middle of an event: enough to make the system
// call cheap, and little enough for an ordinary socket buffer.
const flushAt = 32 << 10

// Send sends one message; op is ws.OpText or ws.OpBinary. payload is copied. Inside a Handler's Message (and in functions given to Post), what is sent
// to that connection leaves in one write at the end of the event. It returns an error, and sends nothing, when the
// connection is closing; how the peer takes it is not known until later.
func (c *Conn) Send(op ws.OpCode, payload []byte) error {
	if c.state != open && c.state != leaving {
		return errClosed
	}
	c.w.counted.messagesSent++
	c.sendFrame(op, payload)
	return nil
}

func (c *Conn) sendFrame(op ws.OpCode, payload []byte) {
	w := c.w
	if w.current == c {
		w.scratch = appendFrame(w.scratch, op, payload)
		return
	}
	w.single = appendFrame(w.single[:0], op, payload)
	c.write(w.single)
	w.single = spare(w.single)
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
	if c.state == closed || c.flags&(broken|finSent) != 0 {
		return
	}
	if c.out == nil {
		n, err := c.fd.Write(b)
		if err != nil && err != unix.EAGAIN {
			c.breakOff()
			return
		}
		c.w.counted.bytesSent += n
		if b = b[n:]; len(b) == 0 {
			return
		}
		c.out = c.w.newOutput()
		c.out.since = c.w.loop.Now()
		c.queue(b)
		c.rearm() // the stall timer
		return
	}
	c.queue(b)
}

// queue keeps b until the socket takes it. The bound is on what waits already, so that one reply of any size can
// always be queued: a queue holds less than MaxQueue and one event's replies.
func (c *Conn) queue(b []byte) {
	if c.out.queued() >= c.w.cfg.MaxQueue {
		c.dropSlowConsumer(slowOverflow)
		return
	}
	c.out.compact()
	c.out.buf = c.w.loop.Buffers.Append(c.out.buf, b...)
	c.out.high = c.out.high || c.out.queued() >= c.w.cfg.MaxQueue/4
	c.interest()
}

// writable sends from the queue what the socket takes.
func (c *Conn) writable() {
	out := c.out
	if out == nil {
		c.interest()
		return
	}
	n, err := c.fd.Write(out.buf[out.sent:])
	if err != nil && err != unix.EAGAIN {
		c.breakOff()
		return
	}
	c.w.counted.bytesSent += n
	out.sent += n
	if n > 0 {
		out.since = c.w.loop.Now()
	}
	if out.queued() > 0 {
		return
	}
	c.dropOutput()
	switch c.state {
	case lingering:
		c.sendFIN()
	default:
		c.revive()
	}
	c.interest()
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

// slowReason is why a slow consumer was cut off.
type slowReason int

const (
	slowOverflow slowReason = iota // its queue was full and there was more to send
	slowStall                      // it took nothing for StallTimeout
	slowReasons
)

// dropSlowConsumer is what happens to a client that does not read what it is sent: it is cut off with a reset, for there is no
// room left to tell it 1008, and the kernel lets go of what it holds for it at once.
func (c *Conn) dropSlowConsumer(why slowReason) {
	if c.flags&broken != 0 {
		return // it is on its way out already, and counted
	}
	slowConsumers[why].Inc()
	c.closeCode = uint16(ws.StatusPolicyViolation)
	c.breakOff()
}

// breakOff gives the connection up. It is closed at the end of the round: the Handler may be on the stack.
func (c *Conn) breakOff() {
	if c.flags&broken == 0 {
		c.flags |= broken
		c.w.loop.Later(c.brokenOff)
	}
}

func (c *Conn) brokenOff() { c.end(goneReset) }

// PauseReading stops reading from the client until ResumeReading; the client notices when its own buffers are full. Messages that
// were read already are kept back too. Heartbeats go on. It does nothing once Close has been called: the peer's own Close has to be read.
func (c *Conn) PauseReading() {
	if c.state <= leaving {
		c.flags |= paused
		c.interest()
	}
}

// ResumeReading undoes PauseReading.
func (c *Conn) ResumeReading() {
	if c.flags&paused != 0 {
		c.flags &^= paused
		c.revive()
	}
}
