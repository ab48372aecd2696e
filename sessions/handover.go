package sessions

import (
	"encoding/binary"
	"errors"
)

// Role is what a store has to do with the replacement of its process.
type Role int

const (
	// Serving is the usual one: this process is alone with its connections.
	Serving Role = iota
	// Giving: another process takes this one's connections over, and what the store holds. A
	// resume might find a session that has left already, so a Memory refuses it
	// (ErrUnavailable); a Redis writes under another name from now on, so that the other
	// process can have its own.
	Giving
	// Taking: sessions come from the process before. In a Memory the resume of one that is not
	// here waits until that process has nothing of it any more, if it can be asked, or until
	// the role is another one.
	Taking
	// Taken is Serving after Taking: the process before has ended, and nothing comes from it
	// any more. In any other role it changes nothing.
	Taken
)

// packedVersion begins every state, so that another version of this package refuses it instead of
// reading something else into it. packedGone begins a list of ids.
const (
	packedVersion = 1
	packedGone    = 2
)

// errPacked is the error of a state that this version does not understand.
var errPacked = errors.New("session state: not of a version that this program knows")

// unpacker reads what the functions of encoding/binary have appended. After the first failure it
// reads zeros; fail says so.
type unpacker struct {
	b    []byte
	fail bool
}

func unpack(state []byte) *unpacker {
	u := &unpacker{b: state}
	if len(state) == 0 || state[0] != packedVersion {
		u.fail = true
	}
	u.bytes(1)
	return u
}

// bytes reads n of them.
func (u *unpacker) bytes(n int) []byte {
	if u.fail || n < 0 || n > len(u.b) {
		u.fail = true
		return nil
	}
	b := u.b[:n]
	u.b = u.b[n:]
	return b
}

// number reads one of at most maxTotal.
func (u *unpacker) number() uint64 {
	n, size := binary.Uvarint(u.b)
	if u.fail || size <= 0 || n > maxTotal {
		u.fail = true
		return 0
	}
	u.b = u.b[size:]
	return n
}

func (u *unpacker) text() string { return string(u.bytes(int(min(u.number(), 1<<16)))) }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// array reads 16 bytes: an ID or a subject.
func (u *unpacker) array() (a [16]byte) {
	copy(a[:], u.bytes(len(a)))
	return a
}

// end reports whether everything was read, and no more.
func (u *unpacker) end() error {
	if u.fail || len(u.b) > 0 {
		return errPacked
	}
	return nil
}
