package load

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// secure is TLS on the loop. The handshake runs on a goroutine of its own, a bounded number at a
// time, between which and the socket the loop carries the bytes: a goroutine elsewhere does not
// have the loop's descriptors. Then the same tls.Conn is read on the loop without blocking:
// crypto/tls does not let an error that calls itself temporary stick, so EAGAIN can be told that
// way and the next Read goes on where this one stopped. A wss connection costs some 3 KB and no
// goroutine.
type secure struct {
	*tls.Conn
	wire *wire
}

// wire is the net.Conn below a tls.Conn.
type wire struct {
	net.Conn // nil: crypto/tls uses the methods below only
	c        *Conn

	mu    sync.Mutex
	more  *sync.Cond
	in    []byte // what has come during the handshake
	ended bool
	done  bool // the handshake; from then on the loop reads and writes
}

// later is EAGAIN in the words of crypto/tls.
type later struct{ error }

func (later) Timeout() bool   { return false }
func (later) Temporary() bool { return true }
func (l later) Unwrap() error { return l.error }

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	for !w.done && len(w.in) == 0 && !w.ended {
		w.more.Wait()
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	done := w.done
	w.mu.Unlock()
	switch {
	case n > 0:
		return n, nil
	case !done:
		return 0, io.EOF
	}
	n, err := w.c.Socket.Read(p)
	if errors.Is(err, unix.EAGAIN) {
		err = later{err}
	}
	return n, err
}

// Write never writes less than all: what the socket does not take is queued.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	done := w.done
	w.mu.Unlock()
	if !done {
		b := slices.Clone(p)
		w.c.w.loop.Post(func() {
			if w.c.state != dead && w.c.push(b) != nil {
				w.c.writeFailed()
			}
		})
		return len(p), nil
	}
	if err := w.c.push(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close ends a handshake that nobody waits for any more; the loop closes the socket.
func (w *wire) Close() error {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	w.more.Signal()
	return nil
}

// SetWriteDeadline implements net.Conn; the loop has its own deadlines.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn; the loop has its own deadlines.
func (w *wire) SetReadDeadline(time.Time) error { return nil }

// SetDeadline implements net.Conn; the loop has its own deadlines.
func (w *wire) SetDeadline(time.Time) error { return nil }

// take reads from the socket for the handshake. It reports whether there may be more; an end is for
// the handshake to report, which may say why.
func (s *secure) take(from *Conn, buf []byte) (more bool) {
	n, err := from.Socket.Read(buf)
	if errors.Is(err, unix.EAGAIN) {
		return false
	}
	s.wire.mu.Lock()
	s.wire.in = append(s.wire.in, buf[:n]...)
	s.wire.ended = s.wire.ended || err != nil
	s.wire.mu.Unlock()
	s.wire.more.Signal()
	return n == len(buf)
}

// tlsGate bounds the TLS connections of one worker that are being made.
type tlsGate struct {
	busy    int
	waiting []place
}

// tlsAtOnce is how many of them there are at most.
const tlsAtOnce = 64

// enter reports whether the client at p may connect now; otherwise it will when another is done.
func (g *tlsGate) enter(p place) bool {
	if g.busy >= tlsAtOnce {
		g.waiting = append(g.waiting, p)
		return false
	}
	g.busy++
	return true
}

// leaveTLSGate lets the next client in.
func (w *worker) leaveTLSGate() {
	g := &w.tls
	g.busy--
	switch {
	case len(g.waiting) == 0:
	case w.phase.ending():
		w.dialing -= len(g.waiting)
		g.waiting = nil
	default:
		p := g.waiting[0]
		g.waiting = g.waiting[1:]
		w.loop.Later(func() { w.dial(p) })
	}
}

// beginTLS starts the TLS handshake of a connection that is there; secured follows.
func (c *Conn) beginTLS() {
	w := c.w
	wire := &wire{c: c}
	wire.more = sync.NewCond(&wire.mu)
	s := &secure{tls.Client(wire, w.secure[c.target]), wire}
	c.need().tls = s
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), w.spec.Timeout)
		defer cancel()
		err := s.HandshakeContext(ctx)
		w.loop.Post(func() { c.secured(s, err) })
	}()
}

// secured ends the TLS handshake, well or badly, and begins that of WebSocket.
func (c *Conn) secured(s *secure, err error) {
	w := c.w
	switch {
	case c.state == dead:
		return
	case err != nil:
		w.attemptFailed(c, err)
		return
	}
	s.wire.mu.Lock()
	s.wire.done = true
	s.wire.mu.Unlock()
	c.begin(w.now())
	w.leaveTLSGate()
}
