package load

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// secure is TLS on the loop. The handshake runs on a goroutine of its own, a bounded number at a time; then the
// descriptor moves to the loop, and the same tls.Conn reads from it without blocking: crypto/tls does not let an error
// that calls itself temporary stick, so EAGAIN can be told that way and the next Read goes on where this one stopped.
// A wss connection costs some 3 KB and no goroutine.
type secure struct {
	*tls.Conn
	wire *wire
}

// wire is the net.Conn below a tls.Conn: a real one during the handshake, the loop's descriptor after it.
type wire struct {
	net.Conn
	c *Conn // nil during the handshake
}

// later is EAGAIN in the words of crypto/tls.
type later struct{ error }

func (later) Timeout() bool   { return false }
func (later) Temporary() bool { return true }
func (l later) Unwrap() error { return l.error }

func (w *wire) Read(p []byte) (int, error) {
	if w.c == nil {
		return w.Conn.Read(p)
	}
	n, err := w.c.FD.Read(p)
	if errors.Is(err, unix.EAGAIN) {
		err = later{err}
	}
	return n, err
}

// Write never does less than all on the loop: what the socket does not take is queued.
func (w *wire) Write(p []byte) (int, error) {
	if w.c == nil {
		return w.Conn.Write(p)
	}
	if err := w.c.push(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// dialTLS connects c over TLS: begin follows on the loop, or attemptFailed.
func (c *Conn) dialTLS() {
	w := c.w
	from, to, t := w.source(), w.Addrs[int(c.target)%len(w.Addrs)], w.targets[c.target]
	go func() {
		w.tlsGate <- struct{}{}
		defer func() { <-w.tlsGate }()
		ctx, cancel := context.WithTimeout(context.Background(), w.spec.Timeout)
		defer cancel()
		d := net.Dialer{}
		if from.IsValid() {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		began := time.Now()
		raw, err := d.DialContext(ctx, "tcp", to.String())
		if err != nil {
			w.loop.Post(func() { w.attemptFailed(c, err) })
			return
		}
		took := time.Since(began)
		cfg := w.tls.Clone()
		cfg.ServerName = t.URL.Hostname()
		s := &secure{wire: &wire{Conn: raw}}
		s.Conn = tls.Client(s.wire, cfg)
		if err := s.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			w.loop.Post(func() { w.attemptFailed(c, err) })
			return
		}
		if !w.loop.Post(func() { c.adopt(s, took) }) {
			_ = raw.Close()
		}
	}()
}

// adopt moves the descriptor of a connection whose TLS handshake is done to the loop.
func (c *Conn) adopt(s *secure, took time.Duration) {
	w := c.w
	raw := s.wire.Conn
	defer raw.Close() // the loop has a descriptor of its own for the same socket
	if w.phase.ending() {
		w.end(c)
		w.dialing--
		return
	}
	fd := -1
	control, err := raw.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = control.Control(func(sys uintptr) {
			fd, err = unix.FcntlInt(sys, unix.F_DUPFD_CLOEXEC, 0)
		})
	}
	if err == nil {
		if err = w.loop.Register(&c.FD, fd, c); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		w.attemptFailed(c, err)
		return
	}
	s.wire.c = c
	c.need().tls = s
	w.h.connect.record(took)
	w.expect(c, handshaking, w.spec.Timeout)
	c.begin(w.now())
}
