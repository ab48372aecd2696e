package load

import (
	"errors"

	"sluice/bench/wsclient"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

// maxOut bounds extra.out, in bytes. A connection at the bound gets no more messages and pongs
// until the socket has taken some.
const maxOut = 256 << 10

// sendFrame writes one masked frame.
func (c *Conn) sendFrame(op ws.OpCode, payload []byte) {
	w := c.w
	w.scratch = wsclient.AppendFrame(w.scratch[:0], op, payload, w.nextMask())
	c.write(w.scratch)
}

// room reports whether a message may be written now, or else what is queued has to go first.
func (c *Conn) room() bool { return c.x == nil || len(c.x.out) < maxOut }

// write sends b, or queues what the socket does not take.
func (c *Conn) write(b []byte) {
	if c.state == dead {
		return
	}
	c.w.n.BytesOut += int64(len(b))
	if c.x != nil && c.x.tls != nil {
		if _, err := c.x.tls.Write(b); err != nil { // queues what the socket does not take: see secure
			c.writeFailed()
		}
		return
	}
	if err := c.push(b); err != nil {
		c.writeFailed()
	}
}

// writeFailed leaves the judgement to reading: the server may have said why it closed, and that is
// still to be read. Not now, because the read buffer may be in use further up the stack.
func (c *Conn) writeFailed() {
	c.w.loop.Later(func() {
		if c.state != dead {
			c.hangup()
		}
	})
}

// push writes to the socket, in order after what is queued.
func (c *Conn) push(b []byte) error {
	if c.x == nil || len(c.x.out) == 0 {
		n, err := c.Socket.Write(b)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
		c.w.loop.WatchWriting(&c.Socket)
	}
	c.need().out = append(c.need().out, b...)
	return nil
}

// flush writes what is queued.
func (c *Conn) flush() {
	x := c.x
	if x == nil || len(x.out) == 0 {
		return
	}
	n, err := c.Socket.Write(x.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		c.writeFailed()
		return
	}
	if x.out = x.out[n:]; len(x.out) == 0 {
		x.out = nil
		c.tidy()
	}
}
