package backend

import (
	"context"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// freshConn is a connection to a backend that looks, before each write, whether the backend has
// closed it. net/http notices that only when its reading goroutine has run. Until then it would
// send a request whose fate nobody could tell; refused here before its first byte, it is sent again
// on another connection.
type freshConn struct {
	net.Conn
	raw syscall.RawConn
}

func dialFresh(timeout time.Duration) func(ctx context.Context, network, address string) (
	net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		sys, ok := conn.(syscall.Conn)
		if !ok {
			return conn, nil
		}
		raw, err := sys.SyscallConn()
		if err != nil {
			return conn, nil
		}
		return &freshConn{conn, raw}, nil
	}
}

// Write implements net.Conn.
func (c *freshConn) Write(p []byte) (int, error) {
	if c.closedByPeer() {
		return 0, io.ErrClosedPipe
	}
	return c.Conn.Write(p)
}

func (c *freshConn) closedByPeer() (closed bool) {
	var one [1]byte
	err := c.raw.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && err != unix.EAGAIN && err != unix.EINTR
	})
	return closed || err != nil
}
