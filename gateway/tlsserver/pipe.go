package tlsserver

import (
	"errors"
	"io"
	"net"
	"time"
)

// Sizes of a record (RFC 8446, section 5.1, and RFC 5246, section 6.2.3, which allows more).
const (
	recordHeader = 5
	maxFragment  = 1<<14 + 2048
)

// MaxRecord is the size of the longest record of any version, with its header.
const MaxRecord = recordHeader + maxFragment

// ErrNotTLS is what Whole says of bytes that no TLS client sends.
var ErrNotTLS = errors.New("tls: not a TLS record")

// Whole reports how many bytes at the start of b are whole records; what follows is part of one.
// first says that nothing was read before: a ClientHello must come, so that other protocols and
// garbage cost no goroutine.
func Whole(b []byte, first bool) (n int, err error) {
	for rest := b; len(rest) > 0; rest = b[n:] {
		switch {
		case rest[0] < 20 || rest[0] > 23, first && n == 0 && rest[0] != 22,
			len(rest) > 1 && rest[1] != 3:
			return n, ErrNotTLS
		case len(rest) < recordHeader:
			return n, nil
		}
		size := int(rest[3])<<8 | int(rest[4])
		if size > maxFragment || (first && n == 0 && size < 4) ||
			(first && n == 0 && len(rest) > recordHeader && rest[recordHeader] != 1) {
			return n, ErrNotTLS
		}
		if len(rest) < recordHeader+size {
			return n, nil
		}
		n += recordHeader + size
	}
	return n, nil
}

// pipe is the connection in memory that crypto/tls reads from and writes to.
type pipe struct {
	in   []byte // what has been read from the socket
	out  []byte // what is to be written to it
	left int    // bytes of in that belong to the record being read
	eof  bool   // nothing comes behind in

	// wait returns when there is more in in, or says why there is not. nil once the handshake is
	// over: the loop reads, and must not wait.
	wait func() error
}

// again is what a read has where there is nothing to read: crypto/tls takes it as temporary, so
// that the next read goes on where this one stopped.
type again struct{}

// Error implements error; Timeout and Temporary, net.Error.
func (again) Error() string   { return "tls: nothing to read" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

// Read implements net.Conn. It gives out no more than the rest of one record.
func (p *pipe) Read(b []byte) (int, error) {
	for len(p.in) == 0 {
		switch {
		case p.eof:
			return 0, io.EOF
		case p.wait == nil:
			return 0, again{}
		}
		if err := p.wait(); err != nil {
			return 0, err
		}
	}
	if p.left == 0 {
		p.left = len(p.in)
		if len(p.in) >= recordHeader {
			p.left = min(p.left, recordHeader+(int(p.in[3])<<8|int(p.in[4])))
		}
	}
	n := copy(b, p.in[:min(p.left, len(p.in))])
	p.in = p.in[n:]
	p.left -= n
	return n, nil
}

// Write implements net.Conn.
func (p *pipe) Write(b []byte) (int, error) {
	p.out = append(p.out, b...)
	return len(b), nil
}

// Close implements net.Conn; the socket is the loop's.
func (p *pipe) Close() error { return nil }

// LocalAddr implements net.Conn.
func (p *pipe) LocalAddr() net.Addr { return noAddr{} }

// RemoteAddr implements net.Conn.
func (p *pipe) RemoteAddr() net.Addr { return noAddr{} }

// SetDeadline implements net.Conn: deadlines are on the loop's wheel.
func (p *pipe) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (p *pipe) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

type noAddr struct{}

// Network and String implement net.Addr.
func (noAddr) Network() string { return "memory" }
func (noAddr) String() string  { return "memory" }
