package poller

import (
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Accepted sockets have bounded buffers, and a bound on the time for unacknowledged bytes.
func TestAcceptedSocketsAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name     string
		options  ListenOptions
		buffer   int // what the kernel allots: twice what was asked
		userTime int
	}{
		{"default", ListenOptions{}, 2 * 96 << 10, 25_000},
		{"asked", ListenOptions{SocketBuffer: 32 << 10, UserTimeout: 5 * time.Second}, 2 * 32 << 10, 5000},
		{"the kernel's", ListenOptions{SocketBuffer: -1, UserTimeout: -1}, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, err := Listen("127.0.0.1:0", tc.options)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var fd int
			for { // the listener does not block
				if fd, _, err = unix.Accept4(ln.fd, unix.SOCK_CLOEXEC); err != unix.EAGAIN {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
				got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option)
				if err != nil || tc.buffer != 0 && got != tc.buffer {
					t.Errorf("buffer option %d: got %d, %v, want %d", option, got, err, tc.buffer)
				}
			}
			got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			if err != nil || got != tc.userTime {
				t.Errorf("TCP_USER_TIMEOUT: got %d, %v, want %d ms", got, err, tc.userTime)
			}
		})
	}
}

// fullSocket returns a non-blocking socket with unsent bytes, and its peer, which has read nothing.
func fullSocket(t *testing.T) (fd int32, peer net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if peer, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(n uintptr) {
		own, err := unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
		}
		fd = int32(own)
	}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = unix.Write(int(fd), make([]byte, 64<<10))
	}
	for deadline := time.Now().Add(10 * time.Second); unsent(fd) <= 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is unsent though the socket is full")
		}
	}
	return fd, peer
}

// A socket with unsent bytes is kept until the peer has read them, or reset when that takes too
// long.
func TestLingeringSockets(t *testing.T) {
	newLingerers := func() (*Loop, *lingerers) {
		l := &Loop{tick: time.Millisecond, metrics: unexposed()}
		l.wheel.init()
		l.lingerers.init(l)
		return l, &l.lingerers
	}
	t.Run("the peer reads", func(t *testing.T) {
		_, g := newLingerers()
		fd, peer := fullSocket(t)
		if !g.take(fd) {
			t.Fatal("not taken")
		}
		n, err := io.Copy(io.Discard, peer)
		if err != nil || n == 0 {
			t.Fatalf("the peer got %d bytes and %v, want all and FIN", n, err)
		}
		for deadline := time.Now().Add(10 * time.Second); len(g.list) > 0; g.Expire() {
			if time.Now().After(deadline) {
				t.Fatal("kept though all was taken")
			}
			time.Sleep(time.Millisecond)
		}
	})
	t.Run("the peer does not", func(t *testing.T) {
		l, g := newLingerers()
		fd, peer := fullSocket(t)
		g.take(fd)
		l.now = lingerTime - 1
		if g.Expire(); len(g.list) != 1 {
			t.Fatal("given up before its time")
		}
		l.now = lingerTime
		if g.Expire(); len(g.list) != 0 {
			t.Fatal("kept beyond its time")
		}
		if _, err := io.Copy(io.Discard, peer); err == nil {
			t.Error("the peer saw FIN, want a reset")
		}
	})
	t.Run("too many", func(t *testing.T) {
		l, g := newLingerers()
		for range lingerMax + 1 {
			fd, _ := fullSocket(t)
			g.take(fd)
		}
		if len(g.list) != lingerMax || l.metrics.lingering.Load() != lingerMax {
			t.Errorf("%d are kept and %d counted, want %d", len(g.list), l.metrics.lingering.Load(), lingerMax)
		}
		g.leave()
		if n := l.metrics.lingering.Load(); n != 0 {
			t.Errorf("%d are counted after the loop has ended", n)
		}
	})
	t.Run("nothing unsent", func(t *testing.T) {
		_, g := newLingerers()
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		if g.take(int32(pair[0])) {
			t.Error("taken")
		}
	})
}

// The kernel's clock is off while the owner judges the peer, and on again for what close leaves to
// the kernel.
func TestPatient(t *testing.T) {
	l := runLoop(t, Config{})
	f, _ := acceptOne(t, l, ListenOptions{})
	var second int
	on(t, l, func() {
		var err error
		if second, err = unix.Dup(f.SysFD()); err != nil {
			t.Error(err)
		}
	})
	defer unix.Close(second)
	check := func(when string, want int) {
		t.Helper()
		got, err := unix.GetsockoptInt(second, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || got != want {
			t.Errorf("TCP_USER_TIMEOUT %s: got %d, %v, want %d ms", when, got, err, want)
		}
	}
	check("at first", int(defaultUserTimeout/time.Millisecond))
	on(t, l, f.Patient)
	check("of a patient one", 0)
	on(t, l, f.Close)
	eventually(t, func() bool {
		closed := false
		on(t, l, func() { closed = f.SysFD() == -1 })
		return closed
	})
	check("after close", int(defaultUserTimeout/time.Millisecond))
	on(t, l, f.Patient) // too late, and does no harm
}
