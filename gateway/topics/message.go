package topics

import (
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Message is what is published.
type Message struct {
	// Op is ws.OpText or ws.OpBinary; 0 is text. ws.OpClose closes each subscriber's connection in order:
	// Payload is then the code in two bytes, big-endian, and a reason of at most 123 bytes, or empty for
	// a Close without a code.
	Op ws.OpCode
	// Payload is copied.
	Payload []byte
}

// message is a message encoded for all its recipients. It is not changed after it was delivered.
type message struct {
	frame
	offset uint64 // in the topic's history; 0: none
	gap    bool   // a marker that stands for messages which did not come
}

// overhead is what a message costs in memory beside its bytes, by and large.
const overhead = 96

func (m *message) size() int64 { return int64(m.frame.size() + overhead) }

// checkPayload says why no client may be sent this.
func checkPayload(op ws.OpCode, payload []byte, most int) error {
	switch {
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
