package gateway

import (
	"time"

	"github.com/gobwas/ws"
)

// input is what a connection holds while a request or a message has come only in part. It is
// pooled: a connection between messages has none.
type input struct {
	// raw are bytes not handled yet: part of a request, of a header or of a control frame, or what
	// came before reading was paused.
	raw     []byte
	scanned int // bytes of a request head that are known to hold no end

	// The message being put together. Its payload grows with the bytes that come, never by the
	// length announced.
	message   []byte
	op        ws.OpCode // 0: none
	fragments int
	deflated  bool // it is compressed
	valid     int  // bytes of message known to be UTF-8

	// The frame being read.
	remaining int64 // bytes of its payload still to come
	mask      [4]byte
	phase     int // of the mask
	fin       bool

	// open: when the first byte of what is held came; 0 when nothing is held. It starts anew with
	// each message and each control frame.
	since time.Duration

	accept []byte // opening: the 101 response without its last line, until the Handler answers
}

func (in *input) inMessage() bool { return in.op != 0 }

// input returns the connection's input, taking one from the pool.
func (c *Conn) input() *input {
	if c.in == nil {
		if n := len(c.w.inputs); n > 0 {
			c.in = c.w.inputs[n-1]
			c.w.inputs = c.w.inputs[:n-1]
		} else {
			c.in = new(input)
		}
	}
	return c.in
}

// releaseInput gives the input back when nothing is in it.
func (c *Conn) releaseInput() {
	in := c.in
	if in == nil || len(in.raw) > 0 || in.inMessage() || (in.accept != nil && c.state == opening) {
		return
	}
	c.dropInput()
}

func (c *Conn) dropInput() {
	in := c.in
	if in == nil {
		return
	}
	c.in = nil
	for _, b := range [][]byte{in.raw, in.message, in.accept} {
		c.w.loop.Buffers.Put(b)
	}
	*in = input{}
	if len(c.w.inputs) < 1024 {
		c.w.inputs = append(c.w.inputs, in)
	}
}

// admit checks a data frame against the limits on messages, before a byte of it is kept.
func (c *Conn) admit(h ws.Header) bool {
	size, fragments := h.Length, 1
	if in := c.in; in != nil && in.inMessage() {
		size += int64(len(in.message))
		fragments += in.fragments
	}
	switch {
	// The first comparison keeps the sum from overflowing.
	case h.Length > int64(c.w.cfg.MaxMessage) || size > int64(c.w.cfg.MaxMessage):
		c.fail(ws.StatusMessageTooBig, failedMessageSize)
		return false
	case fragments > c.w.cfg.MaxFragments:
		c.fail(ws.StatusMessageTooBig, failedFragments)
		return false
	}
	return true
}

// startFrame notes the header of a frame whose payload is put together piece by piece, takes what
// has come of it at the start of b, and returns the rest.
func (c *Conn) startFrame(h ws.Header, compressed bool, b []byte) []byte {
	in := c.input()
	if h.OpCode != ws.OpContinuation {
		in.op, in.deflated = h.OpCode, compressed
	}
	in.fragments++
	in.fin, in.mask, in.phase, in.remaining = h.Fin, h.Mask, 0, h.Length
	return c.gather(b)
}

// gather takes as much of b as belongs to the frame being read, and returns the rest. A message
// whose last frame is complete is handed on.
func (c *Conn) gather(b []byte) []byte {
	in := c.in
	n := int(min(int64(len(b)), in.remaining))
	start := len(in.message)
	in.message = c.w.loop.Buffers.Append(in.message, b[:n]...)
	ws.Cipher(in.message[start:], in.mask, in.phase)
	in.phase = (in.phase + n) & 3
	in.remaining -= int64(n)
	if in.op == ws.OpText && !in.deflated {
		// A bad byte ends the connection when it comes, not when the message is complete.
		valid, ok := validUTF8Prefix(in.message[in.valid:])
		if !ok {
			c.fail(ws.StatusInvalidFramePayloadData, failedUTF8)
			return nil
		}
		in.valid += valid
	}
	if in.remaining > 0 || !in.fin {
		return b[n:]
	}
	op, payload, valid, deflated := in.op, in.message, in.valid, in.deflated
	in.op, in.fragments, in.valid, in.message, in.deflated = 0, 0, 0, nil, false
	c.message(op, payload, valid, deflated)
	c.w.loop.Buffers.Put(payload)
	return b[n:]
}
