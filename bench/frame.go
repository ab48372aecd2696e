package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gobwas/ws"
)

// frame is one WebSocket frame as it lies in the read buffer; the payload is not copied.
type frame struct {
	op      ws.OpCode
	fin     bool
	payload []byte
}

// Reasons why what a server sent is not a frame that it may send to a client.
var (
	errReserved   = errors.New("frame: reserved bits are set and no extension was negotiated")
	errOpCode     = errors.New("frame: reserved opcode")
	errControl    = errors.New("frame: control frame is fragmented or longer than 125 bytes")
	errMasked     = errors.New("frame: a server must not mask its frames")
	errNotMinimal = errors.New("frame: length is not in its shortest form")
)

// decodeFrame takes one frame off the front of b. used is 0 when b holds only a part of it. A payload longer than
// limit is an error before any of it has to be held.
func decodeFrame(b []byte, limit int) (f frame, used int, err error) {
	if len(b) < 2 {
		return f, 0, nil
	}
	f.fin, f.op = b[0]&0x80 != 0, ws.OpCode(b[0]&0x0f)
	short := b[1] & 0x7f
	switch {
	case b[0]&0x70 != 0:
		return f, 0, errReserved
	case f.op.IsReserved():
		return f, 0, errOpCode
	case b[1]&0x80 != 0:
		return f, 0, errMasked
	case f.op.IsControl() && (!f.fin || short > 125):
		return f, 0, errControl
	}
	head, size := 2, uint64(short)
	switch short {
	case 126:
		if head = 4; len(b) < head {
			return f, 0, nil
		}
		if size = uint64(binary.BigEndian.Uint16(b[2:])); size < 126 {
			return f, 0, errNotMinimal
		}
	case 127:
		if head = 10; len(b) < head {
			return f, 0, nil
		}
		if size = binary.BigEndian.Uint64(b[2:]); size <= math.MaxUint16 {
			return f, 0, errNotMinimal
		}
	}
	if size > uint64(limit) {
		return f, 0, fmt.Errorf("frame: payload of %d bytes, at most %d are taken", size, limit)
	}
	if uint64(len(b)-head) < size {
		return f, 0, nil
	}
	f.payload = b[head : head+int(size)]
	return f, head + int(size), nil
}

// appendFrame appends a whole masked frame to dst.
func appendFrame(dst []byte, op ws.OpCode, payload []byte, mask [4]byte) []byte {
	const masked = 0x80
	dst = append(dst, 0x80|byte(op))
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
