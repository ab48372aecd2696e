package poller

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ListenOptions sets up Listen. The zero value is the default.
type ListenOptions struct {
	// Backlog is how many connections the kernel completes ahead of accept. Too small and a burst
	// of clients waits for its SYN to be sent again (1 s, 3 s, …); the kernel cuts it to
	// net.core.somaxconn. Default 4096.
	Backlog int

	// ReusePort (SO_REUSEPORT) lets several listeners share the address, one a loop; the kernel
	// spreads connections over them.
	ReusePort bool

	// SocketBuffer is SO_RCVBUF and SO_SNDBUF of accepted sockets, in bytes. The kernel allots
	// twice as much in each direction and so holds at most about 4 times as much for one
	// connection, whatever the peer does. Too small limits the throughput of one connection, to
	// about SocketBuffer for each round trip; too large lets a few hundred peers that do not read
	// exhaust net.ipv4.tcp_mem. Default 96 KiB; negative: the kernel decides, up to
	// net.ipv4.tcp_rmem and tcp_wmem (here some 20 MiB each).
	SocketBuffer int

	// UserTimeout (TCP_USER_TIMEOUT) is how long accepted sockets wait for the peer to acknowledge
	// what it was sent, or to open its window, before the kernel ends the connection; it also holds
	// after close, and after the process was killed. Too short loses mobile peers that change
	// networks, too long keeps memory for peers that have vanished. Default 25 s; negative: the
	// kernel's, some 15 minutes, and none for a peer that keeps its window closed. FD.Patient takes
	// it off a socket.
	UserTimeout time.Duration
}

func (o ListenOptions) withDefaults() ListenOptions {
	if o.Backlog == 0 {
		o.Backlog = 4096
	}
	if o.SocketBuffer == 0 {
		o.SocketBuffer = 96 << 10
	}
	if o.UserTimeout == 0 {
		o.UserTimeout = defaultUserTimeout
	}
	return o
}

const defaultUserTimeout = 25 * time.Second

// Listener is a listening TCP socket that is not bound to a loop yet.
type Listener struct {
	fd   int
	addr netip.AddrPort
}

// Listen opens a listening socket on addr, "host:port" or ":port" (both address families). The host
// must be an address or empty: nothing is resolved, for a gateway's address must not depend on DNS.
func Listen(addr string, o ListenOptions) (*Listener, error) {
	at, err := parseListenAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w", addr, err)
	}
	fd, err := openListener(at, o)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", addr, err)
	}
	return newListener(fd)
}

func parseListenAddr(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("want host:port or :port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("port %q: want 0 to 65535", port)
	}
	switch host {
	case "":
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(number)), nil
	case "localhost":
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("host %q: want an IP address, localhost or nothing", host)
	}
	return netip.AddrPortFrom(ip, uint16(number)), nil
}

// maxUnsent is how many bytes the kernel takes from us for a peer whose window is full. Without it
// a peer that does not read makes it hold tcp_wmem's maximum (4 MiB), and some hundred of them all
// the memory that TCP may have. What is on its way is not counted, so a fast and distant peer is
// not slowed down.
const maxUnsent = 128 << 10

func openListener(at netip.AddrPort, o ListenOptions) (fd int, err error) {
	o = o.withDefaults()
	family, sa := sockaddr(at)
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT && at.Addr() == netip.IPv6Unspecified() { // a host without IPv6
		family, sa = sockaddr(netip.AddrPortFrom(netip.IPv4Unspecified(), at.Port()))
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	set := func(level, name, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value))
		}
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if o.ReusePort {
		set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if family == unix.AF_INET6 && at.Addr() == netip.IPv6Unspecified() {
		set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if err == nil {
		err = tune(fd, o)
	}
	if err != nil {
		return -1, err
	}
	if err = unix.Bind(fd, sa); err != nil {
		return -1, fmt.Errorf("%w (is something else on the port? choose another address)", err)
	}
	return fd, os.NewSyscallError("listen", unix.Listen(fd, o.Backlog))
}

// tune sets what accepted sockets inherit from fd: five system calls less for each.
func tune(fd int, o ListenOptions) (err error) {
	set := func(level, name, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value))
		}
	}
	set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	set(unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, maxUnsent)
	if o.SocketBuffer > 0 {
		set(unix.SOL_SOCKET, unix.SO_RCVBUF, o.SocketBuffer)
		set(unix.SOL_SOCKET, unix.SO_SNDBUF, o.SocketBuffer)
	}
	if o.UserTimeout > 0 {
		set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(o.UserTimeout/time.Millisecond))
	}
	return err
}

// InheritListener adopts a listening socket that another process opened, and owns sysfd from then
// on.
func InheritListener(sysfd int) (*Listener, error) {
	if listening, err := unix.GetsockoptInt(sysfd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listening == 0 {
		return nil, fmt.Errorf("inherit listener: descriptor %d is not a listening socket (%v)", sysfd, err)
	}
	if err := unix.SetNonblock(sysfd, true); err != nil {
		return nil, fmt.Errorf("inherit listener: descriptor %d: %w", sysfd, err)
	}
	unix.CloseOnExec(sysfd)
	return newListener(sysfd)
}

func newListener(fd int) (*Listener, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen: getsockname: %w", err)
	}
	return &Listener{fd: fd, addr: addrPort(sa)}, nil
}

// Tune gives accepted sockets the buffers and the timeout of o, as Listen does. It is for listeners
// that something else than a gateway has opened.
func (ln *Listener) Tune(o ListenOptions) error {
	if !ln.addr.IsValid() {
		return fmt.Errorf("listener: descriptor %d is not a TCP socket", ln.fd)
	}
	if err := tune(ln.fd, o.withDefaults()); err != nil {
		return fmt.Errorf("listener %s: %w", ln.addr, err)
	}
	return nil
}

// Addr is the address listened on, with the port the kernel chose when 0 was asked.
func (ln *Listener) Addr() netip.AddrPort { return ln.addr }

// SysFD is the descriptor's number, for passing it to another process.
func (ln *Listener) SysFD() int { return ln.fd }

// Close closes a listener that no loop serves.
func (ln *Listener) Close() error { return unix.Close(ln.fd) }

const (
	// acceptBurst is how many connections one event accepts before the established ones get their
	// turn.
	acceptBurst = 64

	// acceptPause is how long accepting rests when it cannot go on: level-triggered readiness would
	// spin otherwise.
	acceptPause = 100 * time.Millisecond
)

// Acceptor accepts on one listener for one loop. Loop only.
type Acceptor struct {
	FD
	accept func(sysfd int)
	spare  int // a descriptor to give up for a moment when there is no other left; -1 when it is lost
	rest   Timer
	warned time.Duration
	held   bool // Hold
}

// Serve accepts on ln from l, which owns ln from then on. accept is given each new socket,
// non-blocking, CLOEXEC and TCP_NODELAY, and owns it. Loop only, or before Run.
//
// When the process or the machine has no descriptor left, the clients that wait are told so (503)
// and dropped with the help of a spare descriptor, instead of being left in the queue for the
// reactor to report for ever.
func (l *Loop) Serve(ln *Listener, accept func(sysfd int)) (*Acceptor, error) {
	a := &Acceptor{accept: accept, spare: openSpare(), warned: -time.Hour}
	a.rest.Init((*acceptorRest)(a))
	if err := l.Register(&a.FD, ln.fd, a); err != nil {
		a.closeSpare()
		return nil, fmt.Errorf("serve %s: epoll: %w", ln.addr, err)
	}
	return a, nil
}

// Close stops accepting and closes the listener. Loop only.
func (a *Acceptor) Close() {
	a.loop.Disarm(&a.rest)
	a.closeSpare()
	a.FD.Close()
}

func (a *Acceptor) closeSpare() {
	if a.spare >= 0 {
		_ = unix.Close(a.spare)
		a.spare = -1
	}
}

// Readable implements Events.
func (a *Acceptor) Readable() {
	for range acceptBurst {
		fd, errno := accept4(a.fd)
		switch errno {
		case 0:
			a.accept(fd)
		case unix.EAGAIN:
			return
		case unix.EMFILE, unix.ENFILE:
			if !a.loop.lingerers.resetOldest() && !a.turnAway(errno) {
				return
			}
		case unix.EINTR, unix.ECONNABORTED:
		case unix.ENOBUFS, unix.ENOMEM:
			a.pause("accept", errno)
			return
		default:
			// accept(2): pending network errors of the new socket are reported here too, and to be
			// treated like EAGAIN by trying again.
			a.loop.metrics.acceptErrors.Inc()
			a.warn("accept", errno)
		}
		if a.Closed() {
			return
		}
	}
}

// Writable implements Events; a listening socket reports it never.
func (a *Acceptor) Writable() {}

// Hangup implements Events. It comes when a process that shares the socket has called shutdown on
// it, which ends it for all of them.
func (a *Acceptor) Hangup() {
	a.loop.metrics.acceptErrors.Inc()
	slog.Error("accept: the listening socket was shut down, no connection comes any more (restart to listen again)")
}

const noDescriptors = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

// turnAway drops the first waiting connection by way of the spare descriptor, and reports whether
// accepting may go on.
func (a *Acceptor) turnAway(errno syscall.Errno) bool {
	a.loop.metrics.acceptNoFile.Inc()
	if a.spare < 0 {
		if a.spare = openSpare(); a.spare < 0 {
			a.pause("accept: no descriptor left, connections wait", errno)
			return false
		}
	}
	a.warn("accept: no descriptor left, turning connections away (raise the descriptor limit or lower --max-conns)", errno)
	a.closeSpare()
	fd, failed := accept4(a.fd)
	if failed == 0 {
		// Closing with the request unread would send a reset, which can overtake and destroy the
		// answer.
		_, _ = unix.Read(fd, a.loop.readBuf)
		_, _ = unix.Write(fd, []byte(noDescriptors))
		_ = unix.Shutdown(fd, unix.SHUT_WR)
		_ = unix.Close(fd)
	}
	a.spare = openSpare()
	return failed == 0
}

func (a *Acceptor) pause(what string, errno syscall.Errno) {
	a.loop.metrics.acceptErrors.Inc()
	a.warn(what, errno)
	a.SetInterest(false, false)
	a.loop.Arm(&a.rest, acceptPause)
}

// warn logs at most once a second: the cause is outside, and it comes with every connection.
func (a *Acceptor) warn(what string, errno syscall.Errno) {
	if a.loop.now-a.warned < time.Second {
		return
	}
	a.warned = a.loop.now
	slog.Warn(what, "error", errno)
}

// acceptorRest is the Acceptor as its timer sees it.
type acceptorRest Acceptor

// Expire implements Expirer: accepting goes on, and a lost spare has the first claim on a
// descriptor that has come free.
func (a *acceptorRest) Expire() {
	if a.spare < 0 {
		a.spare = openSpare()
	}
	(*Acceptor)(a).SetInterest(!a.held, false)
}

// init starts the Go runtime's own poller. The runtime does so at the first timer that somebody
// waits for, with two descriptors, and ends the process when there are none: that must not happen
// in the middle of an exhaustion which the Acceptor survives.
func init() { time.Sleep(time.Nanosecond) }

func openSpare() int {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// accept4 leaves the peer's address in the kernel: it is wanted for debug lines only (see
// PeerAddr).
func accept4(listener int32) (int, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(fd), errno
}
