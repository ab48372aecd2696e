package takeover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// kind is what a message says. Numbers are never used again for something else.
type kind uint8

const (
	kindHello     kind = 1 // new → old: who asks
	kindWelcome   kind = 2 // old → new: who answers, and what there is
	kindRefuse    kind = 3 // either: why nothing is moved
	kindListeners kind = 4 // old → new, with descriptors
	kindBegin     kind = 5 // new → old: ready for connections
	kindBatch     kind = 6 // old → new, with descriptors
	kindAck       kind = 7 // new → old: a batch is its own now
	kindChunk     kind = 8 // old → new: state that belongs to no connection
	kindDone      kind = 9 // old → new: that was all
	kindReady     kind = 10
	kindUpgrade   kind = 11 // anybody → old: start the process that takes over, and say how it went
	kindAsk       kind = 12 // new → old: a question, which chunks answer
)

// maxDescriptors is how many descriptors the kernel passes with one message (SCM_MAX_FD).
const maxDescriptors = 253

// maxPayload bounds one message. A batch ends near batchBytes, so only a connection that holds a
// message of this size would not fit.
const maxPayload = 256 << 20

// headerSize: length (4), kind (1), nothing (1), descriptors (2).
const headerSize = 8

// link is one end of the stream between two processes. Any goroutine may send; one receives.
type link struct {
	conn    *net.UnixConn
	sending sync.Mutex
}

// message is what receive returns. Whoever gets it owns the descriptors.
type message struct {
	kind    kind
	payload []byte
	fds     []int
}

func (m *message) closeAll() {
	for _, fd := range m.fds {
		_ = unix.Close(fd)
	}
	m.fds = nil
}

// send writes one message before the deadline. fds are not closed: the other side gets copies.
func (l *link) send(k kind, payload []byte, fds []int, deadline time.Time) error {
	if len(payload) > maxPayload || len(fds) > maxDescriptors {
		return fmt.Errorf("takeover: a message of %d bytes and %d descriptors, at most %d and %d",
			len(payload), len(fds), maxPayload, maxDescriptors)
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	_ = l.conn.SetWriteDeadline(deadline)
	var header [headerSize]byte
	binary.BigEndian.PutUint32(header[:], uint32(len(payload)))
	header[4] = byte(k)
	binary.BigEndian.PutUint16(header[6:], uint16(len(fds)))
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// Descriptors travel with the header's first byte; the kernel never splits them from it.
	n, _, err := l.conn.WriteMsgUnix(header[:], rights, nil)
	if err == nil && n < headerSize {
		_, err = l.conn.Write(header[n:])
	}
	if err == nil && len(payload) > 0 {
		_, err = l.conn.Write(payload)
	}
	if err != nil {
		return fmt.Errorf("takeover: send: %w", err)
	}
	return nil
}

// errTruncated: the kernel could not give us all descriptors, for want of room in our table.
var errTruncated = errors.New("takeover: no room for the descriptors (raise the limit of open files)")

// receive reads one message. A payload grows as its bytes come, never by the length announced.
func (l *link) receive(deadline time.Time) (m message, err error) {
	_ = l.conn.SetReadDeadline(deadline)
	var header [headerSize]byte
	rights := make([]byte, unix.CmsgSpace(4*maxDescriptors))
	n, rn, flags, _, err := l.conn.ReadMsgUnix(header[:], rights)
	if err != nil {
		return m, err
	}
	if n == 0 {
		return m, io.EOF
	}
	if m.fds, err = descriptors(rights[:rn]); err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			m.closeAll()
		}
	}()
	if _, err = io.ReadFull(l.conn, header[n:]); err != nil {
		return m, err
	}
	m.kind = kind(header[4])
	size, want := binary.BigEndian.Uint32(header[:]), int(binary.BigEndian.Uint16(header[6:]))
	if size > maxPayload {
		return m, fmt.Errorf("takeover: a message of %d bytes, at most %d", size, maxPayload)
	}
	if m.payload, err = readGrowing(l.conn, int(size)); err != nil {
		return m, err
	}
	if flags&unix.MSG_CTRUNC != 0 || len(m.fds) != want {
		return m, errTruncated
	}
	return m, nil
}

// readGrowing reads size bytes, a mebibyte at a time.
func readGrowing(r io.Reader, size int) ([]byte, error) {
	const step = 1 << 20
	buf := make([]byte, 0, min(size, step))
	for len(buf) < size {
		from := len(buf)
		small := buf
		buf = append(buf, make([]byte, min(size-from, step))...)
		if from > 0 && &small[0] != &buf[0] {
			clear(small) // it may be secret
		}
		if _, err := io.ReadFull(r, buf[from:]); err != nil {
			return nil, err
		}
	}
	return buf, nil
}

// descriptors parses the control data of recvmsg. Go asks for them close-on-exec.
func descriptors(control []byte) (fds []int, err error) {
	if len(control) == 0 {
		return nil, nil
	}
	parts, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("takeover: control message: %w", err)
	}
	for i := range parts {
		got, err := unix.ParseUnixRights(&parts[i])
		if err != nil {
			return fds, fmt.Errorf("takeover: control message: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
