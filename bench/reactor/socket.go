package reactor

import (
	"encoding/binary"
	"io"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket is a TCP socket on a loop: embed it in what owns the connection. It is 8 bytes, and 16 in
// the loop's table of sockets. Loop only.
type Socket struct {
	fd      int32 // one more than the descriptor, so that the zero value has none
	writing bool  // epoll tells when the socket takes bytes
	closed  bool
}

// Dial starts a connect from local, or from an address that the kernel chooses where that is the
// zero Addr, and puts the socket on the loop. Over the loopback interface the connection is there
// when Dial returns, so the owner tries to Write at once; where that says EAGAIN, Ready comes with
// Writable when the connect has ended, well or badly (see Error).
//
// The port is chosen at connect time: a source address then has some 28,000 ports for each
// destination and not in all.
func (l *Loop) Dial(s *Socket, h Handler, local netip.Addr, remote netip.AddrPort) error {
	fd, err := dial(local, remote)
	if err != nil {
		return err
	}
	s.fd = int32(fd) + 1
	for len(l.sockets) <= fd {
		l.sockets = append(l.sockets, nil)
	}
	l.sockets[fd] = h
	return nil
}

// Watch has epoll report what happens to the socket from now on; with writing also that it takes
// bytes again. Call it once, when the first Write has been tried.
func (l *Loop) Watch(s *Socket, writing bool) error {
	s.writing = writing
	return l.control(s, unix.EPOLL_CTL_ADD)
}

// WatchWriting has epoll report also that the socket takes bytes again.
func (l *Loop) WatchWriting(s *Socket) {
	if !s.writing && !s.closed {
		s.writing = true
		_ = l.control(s, unix.EPOLL_CTL_MOD) // the socket is there
	}
}

func (l *Loop) control(s *Socket, how int) error {
	const edge = 1 << 31 // unix.EPOLLET is a signed -1<<31
	e := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | edge, Fd: s.fd - 1}
	if s.writing {
		e.Events |= unix.EPOLLOUT
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), uintptr(how),
		uintptr(s.fd-1), uintptr(unsafe.Pointer(&e)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// CloseSocket closes the socket at the end of the round, so that its number does not come back
// while events of this round still name it. Ready is not called any more. It may be called again.
func (l *Loop) CloseSocket(s *Socket) {
	if s.closed || s.fd == 0 {
		return
	}
	s.closed = true
	l.sockets[s.fd-1] = nil
	l.ended = append(l.ended, s.fd-1)
}

// Abort is CloseSocket with a reset: the kernel drops what is unsent.
func (l *Loop) Abort(s *Socket) {
	if !s.closed && s.fd != 0 {
		_ = unix.SetsockoptLinger(int(s.fd-1), unix.SOL_SOCKET, unix.SO_LINGER,
			&unix.Linger{Onoff: 1})
		l.CloseSocket(s)
	}
}

// SysFD is the descriptor, for socket options; -1 where there is none.
func (s *Socket) SysFD() int { return int(s.fd) - 1 }

// Error takes the socket's pending error; nil when there is none.
func (s *Socket) Error() error {
	code, err := unix.GetsockoptInt(s.SysFD(), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return syscall.Errno(code)
	}
	return nil
}

// Read reads once. It returns io.EOF at the end of the stream and unix.EAGAIN when there is
// nothing.
func (s *Socket) Read(p []byte) (int, error) {
	n, errno := transfer(unix.SYS_RECVFROM, s.fd-1, p, 0)
	switch {
	case errno != 0:
		return 0, errno
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write writes once. It returns 0 and unix.EAGAIN when the socket takes nothing, or is not
// connected yet.
func (s *Socket) Write(p []byte) (int, error) {
	n, errno := transfer(unix.SYS_SENDTO, s.fd-1, p, unix.MSG_NOSIGNAL)
	if errno != 0 {
		return 0, errno
	}
	return n, nil
}

// transfer makes a recv or send call without telling the Go scheduler, which pays for calls that
// may block only.
func transfer(call uintptr, fd int32, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(call, uintptr(fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

func dial(local netip.Addr, remote netip.AddrPort) (int, error) {
	ip := remote.Addr().Unmap()
	family := unix.AF_INET6
	if ip.Is4() {
		family = unix.AF_INET
	}
	r, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family),
		unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	fd := int(r)
	set(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY)
	if local.IsValid() {
		set(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT) // before Linux 4.2 only costs ports
		if errno = addressed(unix.SYS_BIND, fd, netip.AddrPortFrom(local, 0)); errno != 0 {
			_ = unix.Close(fd)
			return -1, errno
		}
	}
	errno = addressed(unix.SYS_CONNECT, fd, netip.AddrPortFrom(ip, remote.Port()))
	if errno != 0 && errno != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, errno
	}
	return fd, nil
}

func set(fd, level, option int) {
	one := int32(1)
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one), 0)
}

// addressed makes a bind or connect call, without the allocations of package unix.
func addressed(call uintptr, fd int, a netip.AddrPort) syscall.Errno {
	port := binary.NativeEndian.Uint16([]byte{byte(a.Port() >> 8), byte(a.Port())}) // in network order
	if ip := a.Addr().Unmap(); ip.Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ip.As4()}
		_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
			unsafe.Sizeof(sa))
		return errno
	}
	sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: a.Addr().As16()}
	_, _, errno := syscall.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&sa)),
		unsafe.Sizeof(sa))
	return errno
}
