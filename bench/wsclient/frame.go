package wsclient

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gobwas/ws"
)

// Frame is one WebSocket frame. Payload aliases the bytes it was decoded from.
type Frame struct {
	Op      ws.OpCode
	Fin     bool
	Payload []byte
}

// Why bytes from a server are not a frame that a server may send.
var (
	ErrReserved   = errors.New("frame: reserved bits are set and no extension was negotiated")
	ErrOpCode     = errors.New("frame: reserved opcode")
	ErrControl    = errors.New("frame: control frame is fragmented or longer than 125 bytes")
	ErrMasked     = errors.New("frame: a server must not mask its frames")
	ErrNotMinimal = errors.New("frame: length is not in its shortest form")
)

// DecodeFrame decodes the frame at the front of b. used is 0 when b holds only a part of it. A
// payload longer than limit is an error as soon as its length is read, before any of it is held.
func DecodeFrame(b []byte, limit int) (f Frame, used int, err error) {
	if len(b) < 2 {
		return f, 0, nil
	}
	f.Fin, f.Op = b[0]&0x80 != 0, ws.OpCode(b[0]&0x0f)
	short := b[1] & 0x7f
	switch {
	case b[0]&0x70 != 0:
		return f, 0, ErrReserved
	case f.Op.IsReserved():
		return f, 0, ErrOpCode
	case b[1]&0x80 != 0:
		return f, 0, ErrMasked
	case f.Op.IsControl() && (!f.Fin || short > 125):
		return f, 0, ErrControl
	}
	head, size := 2, uint64(short)
	switch short {
	case 126:
		if head = 4; len(b) < head {
			return f, 0, nil
		}
		if size = uint64(binary.BigEndian.Uint16(b[2:])); size < 126 {
			return f, 0, ErrNotMinimal
		}
	case 127:
		if head = 10; len(b) < head {
			return f, 0, nil
		}
		if size = binary.BigEndian.Uint64(b[2:]); size <= math.MaxUint16 {
			return f, 0, ErrNotMinimal
		}
	}
	if size > uint64(limit) {
		return f, 0, fmt.Errorf("frame: payload of %d bytes, at most %d are accepted", size, limit)
	}
	if uint64(len(b)-head) < size {
		return f, 0, nil
	}
	f.Payload = b[head : head+int(size)]
	return f, head + int(size), nil
}

// AppendFrame appends a masked frame that is a whole message to dst.
func AppendFrame(dst []byte, op ws.OpCode, payload []byte, mask [4]byte) []byte {
	start := len(dst)
	dst = AppendFragment(dst, op, payload, mask)
	dst[start] |= 0x80
	return dst
}

// AppendFragment appends a masked frame to dst that others of its message follow (RFC 6455,
// section 5.4).
func AppendFragment(dst []byte, op ws.OpCode, payload []byte, mask [4]byte) []byte {
	const masked = 0x80
	dst = append(dst, byte(op))
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, masked|byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, masked|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, masked|127), uint64(n))
	}
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	ws.Cipher(dst[start:], mask, 0)
	return dst
}
