package tls13

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// stateVersion is the first byte of a Layer's state. Another layout gets another number.
const stateVersion = 1

const stateHead = 1 + 2 + 3 + 2*8

// StateSize is the length of the longest state, in bytes.
const StateSize = stateHead + 2*48

// AppendState appends what another process needs to go on with the connection. The bytes are as
// secret as what the connection carries: clear them when they have been sent. Wipe this Layer when
// the other process has taken over: two that send under one key would repeat nonces.
func (l *Layer) AppendState(dst []byte) []byte {
	dst = append(dst, stateVersion)
	dst = binary.BigEndian.AppendUint16(dst, l.CipherSuite())
	dst = append(dst, uint8(l.flags), l.useless, l.partial)
	dst = binary.BigEndian.AppendUint64(dst, l.half[in].seq)
	dst = binary.BigEndian.AppendUint64(dst, l.half[out].seq)
	dst = append(dst, l.secret(in)...)
	return append(dst, l.secret(out)...)
}

// Restore is a Layer from the state at the start of b, and the number of bytes that it took.
func Restore(b []byte) (l Layer, n int, err error) {
	if len(b) < stateHead {
		return Layer{}, 0, errors.New("tls13: restore: the state is cut short")
	}
	if b[0] != stateVersion {
		return Layer{}, 0, fmt.Errorf("tls13: restore: version %d, want %d", b[0], stateVersion)
	}
	s, err := suiteOf(binary.BigEndian.Uint16(b[1:]))
	if err != nil {
		return Layer{}, 0, fmt.Errorf("restore: %w", err)
	}
	l = Layer{suite: s, flags: flags(b[3]), useless: b[4], partial: b[5]}
	if l.flags > ended|mute|owing|asked || l.useless > maxUseless+1 ||
		int(l.partial) > len(keyUpdate) {
		return Layer{}, 0, errors.New("tls13: restore: no state that a connection can be in")
	}
	l.half[in].seq = binary.BigEndian.Uint64(b[6:])
	l.half[out].seq = binary.BigEndian.Uint64(b[14:])
	size := s.secretSize()
	n = stateHead + 2*size
	if len(b) < n {
		return Layer{}, 0, errors.New("tls13: restore: the secrets are cut short")
	}
	l.setSecrets(b[stateHead:stateHead+size], b[stateHead+size:n])
	return l, n, nil
}
