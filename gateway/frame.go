package gateway

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

var errLength = errors.New("payload length is not encoded minimally, or is over 2^63-1")

// decodeHeader reads a frame header off b. n is its size; 0 without an error means that b ends
// before the header does. It only decodes: what is allowed when is ws.CheckHeader's to judge.
func decodeHeader(b []byte) (h ws.Header, n int, err error) {
	if len(b) < 2 {
		return h, 0, nil
	}
	h.Fin = b[0]&0x80 != 0
	h.Rsv = b[0] >> 4 & 7
	h.OpCode = ws.OpCode(b[0] & 0x0f)
	h.Masked = b[1]&0x80 != 0
	n = 2
	switch short := b[1] & 0x7f; short {
	default:
		h.Length = int64(short)
	case 126:
		if n = 4; len(b) < n {
			return h, 0, nil
		}
		h.Length = int64(binary.BigEndian.Uint16(b[2:]))
		// RFC 6455, section 5.2: "in all cases, the minimal number of bytes MUST be used to encode
		// the length"
		if h.Length < 126 {
			return h, 0, errLength
		}
	case 127:
		if n = 10; len(b) < n {
			return h, 0, nil
		}
		// "the most significant bit MUST be 0"
		length := binary.BigEndian.Uint64(b[2:])
		if length <= 0xffff || length > 1<<63-1 {
			return h, 0, errLength
		}
		h.Length = int64(length)
	}
	if h.Masked {
		if len(b) < n+4 {
			return h, 0, nil
		}
		copy(h.Mask[:], b[n:])
		n += 4
	}
	return h, n, nil
}

// appendFrame appends a whole frame as servers send them: final, not masked.
func appendFrame(b []byte, op ws.OpCode, payload []byte) []byte {
	b = append(b, 0x80|byte(op))
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n <= 0xffff:
		b = append(b, 126, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// appendCloseBody appends the payload of a Close frame. The codes 1005 and 1006, which never
// travel, stand for a Close without a code; a reason that is too long is cut between characters.
func appendCloseBody(b []byte, code ws.StatusCode, reason string) []byte {
	if code == ws.StatusNoStatusRcvd || code == ws.StatusAbnormalClosure {
		return b
	}
	if limit := ws.MaxControlFramePayloadSize - 2; len(reason) > limit {
		for limit > 0 && !utf8.RuneStart(reason[limit]) {
			limit--
		}
		reason = reason[:limit]
	}
	return append(append(b, byte(code>>8), byte(code)), reason...)
}

// parseClose reads the payload of a Close frame. An empty one has the code 1005. bad is the code to
// fail the connection with, or 0.
func parseClose(payload []byte) (code, bad ws.StatusCode) {
	switch len(payload) {
	case 0:
		return ws.StatusNoStatusRcvd, 0
	case 1:
		// RFC 6455, section 5.5.1: "If there is a body, the first two bytes of the body MUST be a
		// 2-byte unsigned integer"
		return 0, ws.StatusProtocolError
	}
	code = ws.StatusCode(binary.BigEndian.Uint16(payload))
	reason := payload[2:]
	switch {
	case code >= 1012 && code <= 1014:
		// In IANA's registry since the RFC: service restart, try again later, bad gateway.
		// ws.CheckCloseFrameData knows the RFC's codes only.
	case code >= 5000:
		// RFC 6455, section 7.4.2 ends with 4999; ws.CheckCloseFrameData does not.
		return 0, ws.StatusProtocolError
	default:
		switch ws.CheckCloseFrameData(code, "") {
		case nil:
		default:
			return 0, ws.StatusProtocolError
		}
	}
	if !utf8.Valid(reason) {
		return 0, ws.StatusInvalidFramePayloadData
	}
	return code, 0
}

// validUTF8Prefix checks b as the beginning of a text of which more may follow. n bytes are whole,
// valid characters; the rest, three bytes at most, may become one. ok is false as soon as nothing
// that follows could make b valid.
func validUTF8Prefix(b []byte) (n int, ok bool) {
	n = len(b)
	for i := 1; i <= 3 && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			// FullRune is also true for bytes that cannot become a character: those fail below.
			if !utf8.FullRune(b[len(b)-i:]) {
				n = len(b) - i
			}
			break
		}
	}
	return n, utf8.Valid(b[:n])
}
