package topics

import (
	"unicode/utf8"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// Message is what is published.
type Message struct {
	// Op is ws.OpText or ws.OpBinary; 0 is text. ws.OpClose closes each subscriber's connection in
	// order: Payload is then the code in two bytes, big-endian, and a reason of at most 123 bytes,
	// or empty for a Close without a code.
	Op ws.OpCode
	// Payload is copied.
	Payload []byte
}

// message is a message encoded for all its recipients. It is not changed after it was delivered.
type message struct {
	frame  gateway.Frame
	close  []byte // the payload of a Close
	offset uint64 // in the topic's history; 0: none
	seq    uint64 // numbers what is delivered: a later message of the topic has a greater one
	op     ws.OpCode
	apart  bool // the process that takes over has it from Redis itself
}

// encode encodes m, whose payload is copied.
func encode(m Message) *message {
	if m.Op == ws.OpClose {
		return &message{op: m.Op, close: append([]byte(nil), m.Payload...)}
	}
	if m.Op == 0 {
		m.Op = ws.OpText
	}
	return &message{op: m.Op, frame: gateway.NewFrame(m.Op, m.Payload)}
}

// overhead is what a message costs in memory beside its bytes, by and large.
const overhead = 96

// bytes is how many the message has on the wire.
func (m *message) bytes() int { return m.frame.Size() + len(m.close) }

// size is what the message counts for in bounds of memory.
func (m *message) size() int64 { return int64(m.bytes() + overhead) }

// checkPayload says why no client may be sent this.
func checkPayload(op ws.OpCode, payload []byte, most int) error {
	switch {
	case op != ws.OpText && op != ws.OpBinary && op != ws.OpClose:
		return errOp
	case len(payload) > most:
		return ErrTooBig
	case op == ws.OpText && !utf8.Valid(payload):
		return ErrUTF8
	case op == ws.OpClose:
		return checkClose(payload)
	}
	return nil
}

// checkClose accepts the payloads that a Close frame may have.
func checkClose(payload []byte) error {
	switch n := len(payload); {
	case n == 0:
		return nil
	case n == 1 || n > ws.MaxControlFramePayloadSize:
		return ErrClose
	}
	code := ws.StatusCode(payload[0])<<8 | ws.StatusCode(payload[1])
	if code >= 5000 || !utf8.Valid(payload[2:]) {
		return ErrClose
	}
	if code >= 1012 && code <= 1014 {
		return nil // in IANA's registry since the RFC
	}
	if ws.CheckCloseFrameData(code, "") != nil {
		return ErrClose
	}
	return nil
}
