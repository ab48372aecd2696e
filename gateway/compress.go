package gateway

import (
	"errors"
	"sync/atomic"

	"github.com/gobwas/ws"

	"sluice/gateway/deflate"
)

// permessage-deflate (RFC 7692) on a connection. All of it is the loop's: the connection has one
// bit.

const (
	extensionsHeader = "Sec-WebSocket-Extensions"
	extensionsLine   = extensionsHeader + ": " + deflate.Response + "\r\n"

	// rsv1 marks a compressed message, in its first frame: as ws.Header has it, and in the first
	// byte.
	rsv1     = 4
	rsv1Byte = 0x40
)

// negotiate agrees on compression if the client offers it, and appends the answer to the 101
// response.
func (c *Conn) negotiate(b []byte, r *Request) []byte {
	if !c.w.cfg.Compression {
		return b
	}
	var offers [][]byte
	for name, value := range r.Headers {
		if isName(name, extensionsHeader) {
			offers = append(offers, value)
		}
	}
	if !deflate.Offered(offers...) {
		return b
	}
	c.flags |= deflates
	c.w.metrics.compressed.Inc()
	return append(b, extensionsLine...)
}

// takeRSV1 takes the mark of a compressed message off h, and reports whether it was there. RFC
// 7692, section 6: "An endpoint MUST NOT set the 'Per-Message Compressed' bit of control frames and
// non-first fragments of a data message"; there it stays, for ws.CheckHeader to refuse.
func (c *Conn) takeRSV1(h *ws.Header) bool {
	if h.Rsv != rsv1 || c.flags&deflates == 0 || (h.OpCode != ws.OpText && h.OpCode != ws.OpBinary) {
		return false
	}
	h.Rsv = 0
	return true
}

// turnInflated is how many bytes one connection's messages may inflate to in a turn: 80 bytes on
// the wire can become 64 KiB, which takes a loop as long as any 64 KiB do.
const turnInflated = 1 << 20

// inflate is what a compressed message says; ok is false when it has ended the connection, or when
// nobody listens any more.
func (c *Conn) inflate(payload []byte) (message []byte, ok bool) {
	if c.state != open {
		return nil, false
	}
	message, err := c.w.codec.Expand(payload, c.w.cfg.MaxMessage)
	switch {
	case errors.Is(err, deflate.ErrTooBig):
		c.w.inflated += c.w.cfg.MaxMessage
		c.fail(ws.StatusMessageTooBig, failedMessageSize)
	case err != nil:
		c.fail(ws.StatusInvalidFramePayloadData, failedDeflate)
	default:
		c.w.inflated += len(message)
	}
	return message, err == nil
}

// spent reports whether the connection's messages have inflated to a turn's worth. What is left of
// its input then waits until its neighbours have had their turn.
func (c *Conn) spent() bool {
	if c.w.inflated < turnInflated {
		return false
	}
	c.w.frameCount += aloneFactor * turnMessages // no further read in this turn
	c.resumeLater()
	return true
}

// appendMessage appends a data frame as c's client takes it, compressed if that pays.
func (c *Conn) appendMessage(b []byte, op ws.OpCode, payload []byte) []byte {
	if c.flags&deflates == 0 || op.IsControl() || len(payload) < c.w.cfg.CompressFrom {
		return appendFrame(b, op, payload)
	}
	return c.w.appendCompressed(b, op, payload)
}

// appendCompressed appends a compressed data frame, or a plain one if that is shorter.
func (w *worker) appendCompressed(b []byte, op ws.OpCode, payload []byte) []byte {
	// The copy keeps payload off the heap: Handlers send from arrays on their stack.
	w.plain = append(spare(w.plain), payload...)
	w.compressed = w.codec.Compress(spare(w.compressed), w.plain)
	if len(w.compressed) >= len(payload) {
		return appendFrame(b, op, payload)
	}
	at := len(b)
	b = appendFrame(b, op, w.compressed)
	b[at] |= rsv1Byte
	return b
}

// compressedFrame is a Frame's compressed form, made by the first loop that needs it.
type compressedFrame struct {
	claimed atomic.Bool
	encoded atomic.Pointer[[]byte]
}

// forDeflate is the frame for connections with compression. A loop that finds another one
// compressing it does not wait: it sends the plain frame.
func (f Frame) forDeflate(w *worker) []byte {
	if f.compressed == nil || len(f.encoded) < w.cfg.CompressFrom {
		return f.encoded
	}
	if made := f.compressed.encoded.Load(); made != nil {
		return *made
	}
	if !f.compressed.claimed.CompareAndSwap(false, true) {
		return f.encoded
	}
	made := w.appendCompressed(nil, ws.OpCode(f.encoded[0]&0x0f), f.Payload())
	f.compressed.encoded.Store(&made)
	return made
}
