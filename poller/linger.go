package poller

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// When close(2) meets bytes that were never sent, because the peer's window is full, the kernel
// keeps them, and some 100 KiB of memory, for as long as the peer answers its probes, and no
// descriptor shows it. So the loop keeps such a descriptor until the peer has taken what it was
// sent, and resets the connection when that takes too long. Bytes that were sent and are not
// acknowledged yet stay with the kernel: TCP_USER_TIMEOUT bounds how long.
const (
	lingerTime  = 10 * time.Second
	lingerCheck = time.Second // also how late a descriptor is given back
	lingerMax   = 256         // sockets a loop; one more, and the oldest is reset
)

// lingerers are a loop's closed sockets with unsent bytes, oldest first.
type lingerers struct {
	loop  *Loop
	timer Timer
	list  []lingerer
}

type lingerer struct {
	fd       int32
	deadline time.Duration
}

func (g *lingerers) init(l *Loop) {
	g.loop = l
	g.timer.Init(g)
}

// take sends FIN behind the unsent bytes of fd and owns fd from then on. It reports false when
// there are none, and leaves fd to the caller.
func (g *lingerers) take(fd int32) bool {
	if unsent(fd) <= 0 || g.loop.over {
		return false
	}
	if len(g.list) >= lingerMax {
		g.resetOldest()
	}
	_ = unix.Shutdown(int(fd), unix.SHUT_WR)
	g.list = append(g.list, lingerer{fd, g.loop.now + lingerTime})
	g.loop.metrics.lingering.Add(1)
	if !g.timer.Armed() {
		g.loop.Arm(&g.timer, lingerCheck)
	}
	return true
}

// Expire implements Expirer: it closes those that are done and resets those that took too long.
func (g *lingerers) Expire() {
	kept := g.list[:0]
	for _, s := range g.list {
		switch {
		case finAcked(s.fd):
			_ = unix.Close(int(s.fd))
		case g.loop.now >= s.deadline:
			reset(s.fd)
		default:
			kept = append(kept, s)
			continue
		}
		g.loop.metrics.lingering.Add(-1)
	}
	g.list = kept
	if len(g.list) > 0 {
		g.loop.Arm(&g.timer, lingerCheck)
	}
}

// resetOldest gives a descriptor back at once. It reports false when there is none to give.
func (g *lingerers) resetOldest() bool {
	if len(g.list) == 0 {
		return false
	}
	reset(g.list[0].fd)
	g.list = append(g.list[:0], g.list[1:]...)
	g.loop.metrics.lingering.Add(-1)
	return true
}

// leave closes all of them and leaves their bytes to the kernel: the loop ends.
func (g *lingerers) leave() {
	for _, s := range g.list {
		_ = unix.Close(int(s.fd))
	}
	g.loop.metrics.lingering.Add(-int64(len(g.list)))
	g.list = nil
}

// reset closes fd with RST: the kernel drops what is unsent at once.
func reset(fd int32) {
	_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(int(fd))
}

// unsent is how many bytes written to fd were not sent even once (SIOCOUTQNSD); -1 when fd is no
// connected TCP socket.
func unsent(fd int32) int {
	const siocOutqNsd = 0x894b // linux/sockios.h
	var n int32
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(fd), siocOutqNsd, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return -1
	}
	return int(n)
}

// finAcked reports whether the peer has acknowledged our FIN, and all before it, or the connection
// has failed.
func finAcked(fd int32) bool {
	var state uint8 // tcp_info's first byte
	size := uint32(1)
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return true
	}
	switch state {
	case tcpFinWait1, tcpClosing, tcpLastAck:
		return false
	}
	return true
}

// States of include/net/tcp_states.h in which our FIN is not acknowledged yet.
const (
	tcpFinWait1 = 4
	tcpLastAck  = 9
	tcpClosing  = 11
)
