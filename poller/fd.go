package poller

import (
	"io"
	"syscall"
	"time"
	"unsafe"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// Events is what a registered descriptor reports to its owner, always on the loop.
type Events interface {
	// Readable is level-triggered and also comes ahead of a hang-up: read until EAGAIN, io.EOF or a
	// short read, or the last bytes of a peer that sent and closed may be lost (Hangup says how to
	// get at them).
	Readable()

	// Writable comes while write interest is on and the socket takes bytes.
	Writable()

	// Hangup says that the peer is gone or the socket failed. What it sent before may still be
	// read; then call Close. The descriptor is off the reactor by then: neither Readable nor
	// Writable follows.
	Hangup()
}

// FD is one registered descriptor: embed it in what owns the connection. It costs its 40 bytes,
// netpoll's operator of 112 and two method values of 16. It serves one registration: a hang-up of
// the last one may still be on its way when the next begins, so a new connection needs a new FD.
// Loop only.
type FD struct {
	loop *Loop
	op   *netpoll.FDOperator
	ev   Events
	fd   int32
	want interest // what the owner asked for last
	have interest // what the reactor knows
	bits fdBits
}

type interest uint8

const (
	reading interest = 1 << iota
	writing
	// edge is the reactor's only state without read interest: write readiness, edge-triggered.
	// Paused descriptors are in it whether they want to write or not.
	edge
)

type fdBits uint8

const (
	fdClosed   fdBits = 1 << iota
	fdDirty           // on the loop's list for the end of the round
	fdHung            // netpoll has detached it
	fdReset           // close with RST
	fdDetached        // off the reactor, between Detach and Attach
	fdPatient         // TCP_USER_TIMEOUT is off
)

// Register takes over sysfd, a non-blocking descriptor, with read interest. FD.Read and FD.Write
// are for sockets only. On an error the caller still owns sysfd. Loop only.
func (l *Loop) Register(f *FD, sysfd int, ev Events) error {
	return l.register(f, sysfd, ev, netpoll.PollReadable, reading, reading)
}

// RegisterDial takes over a socket from Dial. Writable comes when the connect has succeeded or
// failed (see SocketError), or Hangup when it has failed; after success, SetInterest(true, false).
// Loop only.
func (l *Loop) RegisterDial(f *FD, sysfd int, ev Events) error {
	return l.register(f, sysfd, ev, netpoll.PollWritable, writing, edge)
}

func (l *Loop) register(f *FD, sysfd int, ev Events, event netpoll.PollEvent, want, have interest) error {
	f.loop, f.ev, f.fd, f.bits = l, ev, int32(sysfd), 0
	f.want, f.have = want, have
	f.op = l.poll.Alloc()
	f.op.FD = sysfd
	f.op.OnRead = f.onRead
	f.op.OnHup = f.onHup
	if want&writing != 0 {
		f.op.OnWrite = f.onWrite
	}
	if err := l.poll.Control(f.op, event); err != nil {
		l.poll.Free(f.op)
		f.op, f.bits = nil, fdClosed
		return err
	}
	return nil
}

func (f *FD) onRead(netpoll.Poll) error {
	// Closed or paused by another connection's callback in this same round.
	if f.bits&(fdClosed|fdDetached) == 0 && f.want&reading != 0 {
		f.ev.Readable()
	}
	return nil
}

func (f *FD) onWrite(netpoll.Poll) error {
	if f.bits&(fdClosed|fdDetached) == 0 && f.want&writing != 0 {
		f.ev.Writable()
	}
	return nil
}

// onHup is the one callback that netpoll runs on a goroutine of its own, after it has detached the
// operator.
func (f *FD) onHup(netpoll.Poll) error {
	f.loop.Post(f.hangup)
	return nil
}

func (f *FD) hangup() {
	if f.bits&(fdClosed|fdHung) != 0 {
		return
	}
	f.bits |= fdHung
	f.ev.Hangup()
}

// Loop is the loop that f is registered with.
func (f *FD) Loop() *Loop { return f.loop }

// SysFD is the descriptor's number, for socket options; -1 from the end of the round in which it
// was closed.
func (f *FD) SysFD() int { return int(f.fd) }

// Closed reports whether Close or Abort has been called, or Register has failed.
func (f *FD) Closed() bool { return f.bits&fdClosed != 0 }

// Read reads once. It returns io.EOF at the end of the stream and unix.EAGAIN when there is nothing
// to read.
func (f *FD) Read(p []byte) (int, error) {
	for {
		n, errno := rawIO(unix.SYS_RECVFROM, f.fd, p, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return 0, errno
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Write writes once, as much as the socket takes. It returns 0 and unix.EAGAIN when the socket
// takes nothing.
func (f *FD) Write(p []byte) (int, error) {
	for {
		n, errno := rawIO(unix.SYS_SENDTO, f.fd, p, unix.MSG_NOSIGNAL)
		switch {
		case errno == unix.EINTR:
			continue
		case errno != 0:
			return 0, errno
		}
		return n, nil
	}
}

// rawIO makes a recv or send call without telling the Go scheduler. The sockets are non-blocking,
// so the call is over in microseconds, and handing the processor over and back would cost a tenth
// of it. recv and send go straight to the socket; read and write would pass the file layer first,
// its locks and its watchers.
func rawIO(call uintptr, fd int32, p []byte, flags uintptr) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// SetInterest says which of Readable and Writable are wanted from now on. A callback that is no
// longer wanted does not come; the kernel learns of it at the end of the round. Hangup always
// comes: also, while reading is paused, when the peer half-closes.
func (f *FD) SetInterest(read, write bool) {
	var want interest
	if read {
		want |= reading
	}
	if write {
		want |= writing
	}
	if want != f.want {
		f.want = want
		f.touch()
	}
}

// touch puts f on the list of what is settled when the round's callbacks have returned. There is no
// round any more when Run has ended.
func (f *FD) touch() {
	if f.loop.over {
		f.settle()
		return
	}
	if f.bits&fdDirty == 0 {
		f.bits |= fdDirty
		f.loop.dirty = append(f.loop.dirty, f)
	}
}

// settle runs when none of f's callbacks does: netpoll spins when an operator is freed or added
// from inside one.
func (f *FD) settle() {
	f.bits &^= fdDirty
	if f.op == nil {
		return // Release
	}
	if f.bits&fdClosed != 0 {
		switch {
		case f.bits&fdReset != 0:
			reset(f.fd)
		case !f.loop.lingerers.take(f.fd):
			if f.bits&fdPatient != 0 {
				_ = setUserTimeout(int(f.fd), defaultUserTimeout)
			}
			_ = unix.Close(int(f.fd))
		}
		f.loop.poll.Free(f.op)
		f.op = nil
		f.fd = -1 // a Read or Write that comes too late must not reach whoever gets the number next
		return
	}
	if f.bits&(fdHung|fdDetached) != 0 || f.loop.over {
		return // off the reactor for good
	}
	next := f.want
	if next&reading == 0 {
		next = edge
	}
	if next == f.have {
		return
	}
	switch { // most connections never need it, and dialled ones only once
	case next == reading:
		f.op.OnWrite = nil
	case f.op.OnWrite == nil:
		f.op.OnWrite = f.onWrite
	}
	for _, event := range moves[f.have][next] {
		// ENOENT: netpoll has just detached the descriptor, and its Hangup is on its way. It must
		// not be added again: netpoll would report the hang-up a second time, and would not detach
		// it, for that works only once.
		if f.loop.poll.Control(f.op, event) != nil && event == netpoll.PollDetach {
			return
		}
	}
	f.have = next
}

// moves are the calls that take the reactor from what it knows of a descriptor to what is wanted.
var moves = [...][edge + 1][]netpoll.PollEvent{
	reading: {
		reading | writing: {netpoll.PollR2RW},
		edge:              {netpoll.PollDetach, netpoll.PollWritable},
	},
	reading | writing: {
		reading: {netpoll.PollRW2R},
		edge:    {netpoll.PollDetach, netpoll.PollWritable},
	},
	edge: {
		reading:           {netpoll.PollDetach, netpoll.PollReadable},
		reading | writing: {netpoll.PollDetach, netpoll.PollReadable, netpoll.PollR2RW},
	},
}

// detach goes through the Poll and not FDOperator.Control, whose detach works only once.
func (f *FD) detach() error { return f.loop.poll.Control(f.op, netpoll.PollDetach) }

// SocketError takes the socket's pending error (SO_ERROR), nil when there is none: how a connect
// ended.
func (f *FD) SocketError() error {
	code, err := unix.GetsockoptInt(int(f.fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return syscall.Errno(code)
	}
	return nil
}

// Unacked is how many of the bytes written the peer's kernel has not acknowledged, sent or not
// (TIOCOUTQ); a FIN counts as one. 0 also stands for a socket that cannot say. Costs about 0.5 µs.
// Loop only.
func (f *FD) Unacked() int {
	var n int32
	_, _, errno := syscall.RawSyscall(unix.SYS_IOCTL, uintptr(f.fd), unix.TIOCOUTQ,
		uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0
	}
	return int(n)
}

// Acked is how many bytes the peer's kernel has acknowledged since the connection began (tcp_info's
// bytes_acked). Two readings tell whether the peer takes what it is sent, however slowly: write
// readiness does not, because the kernel reports it only when a third of the buffer is free. 0 also
// stands for a socket that cannot say. Costs about 1 µs: ask only where Unacked is not 0. Loop
// only.
func (f *FD) Acked() uint64 {
	var info unix.TCPInfo
	size := uint32(unsafe.Offsetof(info.Bytes_acked) + unsafe.Sizeof(info.Bytes_acked))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(f.fd), unix.IPPROTO_TCP,
		unix.TCP_INFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0
	}
	return info.Bytes_acked
}

// Patient takes TCP_USER_TIMEOUT off until the descriptor is closed, for a peer that is seen to
// read and whose owner goes on to judge it by Acked. The kernel's clock starts at a closed window
// and stops only when all of the next segment fits, which is never with a receive buffer of less
// than a segment: it resets such peers, however steadily they read. Loop only.
func (f *FD) Patient() {
	if f.bits&(fdPatient|fdClosed) == 0 && setUserTimeout(int(f.fd), 0) == nil {
		f.bits |= fdPatient
	}
}

func setUserTimeout(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d/time.Millisecond))
}

// CloseWrite sends FIN; the peer may go on sending.
func (f *FD) CloseWrite() error { return unix.Shutdown(int(f.fd), unix.SHUT_WR) }

// Close takes the descriptor off the reactor at once and closes it at the end of the round, so that
// its number cannot come back while events of this round still name it. No callback follows. It may
// be called any number of times. When the peer's window is full, the loop keeps the descriptor for
// up to 10 s, and then resets the connection.
func (f *FD) Close() {
	if f.bits&fdClosed != 0 {
		return
	}
	f.bits |= fdClosed
	_ = f.op.Control(netpoll.PollDetach) // does nothing when netpoll has detached it
	f.touch()
}

// Abort is Close with a reset: the kernel drops what is unsent at once instead of keeping it for a
// peer that does not read.
func (f *FD) Abort() {
	if f.bits&fdClosed == 0 {
		f.bits |= fdReset
		f.Close()
	}
}
