package poller

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Dial starts a non-blocking connect from local (the zero AddrPort: the kernel's choice) and
// returns the socket for RegisterDial. Any goroutine.
//
// With a local address and port 0 the port is chosen at connect time (IP_BIND_ADDRESS_NO_PORT): a
// source address then has some 28,000 ports for each destination and not in all.
func Dial(local, remote netip.AddrPort) (sysfd int, err error) {
	family, to := sockaddr(remote)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if local.IsValid() {
		_, from := sockaddr(local)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1) // only costs ports on old kernels
		if err := unix.Bind(fd, from); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// PeerAddr asks the kernel for the peer's address; the zero AddrPort when the connection is gone.
// Any goroutine that knows sysfd to be open.
func PeerAddr(sysfd int) netip.AddrPort {
	sa, err := unix.Getpeername(sysfd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
