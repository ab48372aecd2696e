package poller

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxCopy is how many descriptors CopyFDs copies at a time: the kernel's SCM_MAX_FD.
const MaxCopy = 253

// ErrLoopEnded is the error of CopyFDs, TakeFDs and GiveFDs when a loop ends meanwhile.
var ErrLoopEnded = errors.New("the loop has ended")

// inParcel keeps one parcel on its way at a time: the pair of sockets is one for all tables, and a
// message must not be taken out by another's receiver.
var inParcel sync.Mutex

// CopyFDs makes copies, in the table of to, of descriptors in the table of from, and returns their
// numbers there. A nil loop stands for the table of the process. The originals stay open: close
// them on a loop's own thread (Loop.Post), and the copies likewise. At most MaxCopy at a time.
//
// It fails when to has no descriptor left (unix.EMFILE), a loop has ended (ErrLoopEnded), or a
// number is not open (unix.EBADF); nothing is left behind then. It waits for both loops, so they
// must run. Any goroutine but a loop's.
func CopyFDs(from, to *Loop, fds []int) ([]int, error) {
	if len(fds) == 0 {
		return nil, nil
	}
	if len(fds) > MaxCopy {
		return nil, fmt.Errorf("copy descriptors: %d at a time are too many (want %d)", len(fds), MaxCopy)
	}
	var copies []int
	err := carry(from.call, to.call, from.ownsTable() || to.ownsTable(),
		func() []int { return fds }, func(c []int) { copies = c })
	if err != nil {
		return nil, fmt.Errorf("copy %d descriptors: %w", len(fds), err)
	}
	return copies, nil
}

// TakeFDs is CopyFDs from a loop's table to that of the process, of what choose returns, which runs
// on the loop: it is one turn of the loop where Do and CopyFDs are two. With an error choose may
// have run.
func TakeFDs(from *Loop, choose func() []int) (copies []int, err error) {
	err = carry(from.Do, (*Loop)(nil).call, from.ownsTable(), choose, func(c []int) { copies = c })
	if err != nil {
		return nil, fmt.Errorf("copy descriptors: %w", err)
	}
	return copies, nil
}

// GiveFDs is CopyFDs from the table of the process to that of a loop, where use gets the copies:
// one turn of the loop, as with TakeFDs. With an error use has not run.
func GiveFDs(to *Loop, fds []int, use func(copies []int)) error {
	err := carry((*Loop)(nil).call, to.Do, to.ownsTable(), func() []int { return fds }, use)
	if err != nil {
		return fmt.Errorf("copy %d descriptors: %w", len(fds), err)
	}
	return nil
}

// carry copies what choose returns, on one side, for use, on the other. from and to run functions
// there, and report false when the loop has ended. parted says that the tables are two.
func carry(from, to func(fn func()) bool, parted bool, choose func() []int, use func([]int)) error {
	var n int
	var copies []int
	var err error
	send, receive := pack, func() ([]int, error) { return unpack(n) }
	if parted {
		inParcel.Lock()
		defer inParcel.Unlock()
	} else {
		send = func(fds []int) (err error) { copies, err = dupAll(fds); return err }
		receive = func() ([]int, error) { return copies, nil }
	}
	ran := from(func() {
		fds := choose()
		if n = len(fds); n > 0 {
			err = send(fds)
		}
	})
	if !ran {
		return ErrLoopEnded
	}
	if err != nil || n == 0 {
		return err
	}
	ran = to(func() {
		var fds []int
		if fds, err = receive(); err == nil {
			use(fds)
		}
	})
	if !ran {
		// They are taken out here, or the next receiver would get them.
		fds, _ := receive()
		closeFDs(fds)
		return ErrLoopEnded
	}
	return err
}

func (l *Loop) ownsTable() bool { return l != nil && l.own }

// call runs fn where the numbers of l's table mean something, and waits for it. It reports false
// when the loop ended before. Any goroutine but a loop's.
func (l *Loop) call(fn func()) bool {
	if !l.ownsTable() {
		fn()
		return true
	}
	done := make(chan struct{})
	if !l.Post(func() { fn(); close(done) }) {
		return false
	}
	select {
	case <-done:
		return true
	case <-l.ended:
	}
	select {
	case <-done: // both have happened
		return true
	default:
		return false
	}
}

func dupAll(fds []int) ([]int, error) {
	copies := make([]int, 0, len(fds))
	for _, fd := range fds {
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			closeFDs(copies)
			return nil, err
		}
		copies = append(copies, dup)
	}
	return copies, nil
}

// pack sends fds of the calling thread's table.
func pack(fds []int) error {
	return os.NewSyscallError("sendmsg",
		unix.Sendmsg(tables.parcel[0], []byte{0}, unix.UnixRights(fds...), nil, 0))
}

// unpack receives n descriptors into the calling thread's table.
func unpack(n int) ([]int, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4*n))
	_, used, flags, _, err := unix.Recvmsg(tables.parcel[1], data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(control[:used])
	for i := 0; err == nil && i < len(messages); i++ {
		fds, err = unix.ParseUnixRights(&messages[i])
	}
	if err == nil && (flags&unix.MSG_CTRUNC != 0 || len(fds) != n) {
		err = os.NewSyscallError("recvmsg", unix.EMFILE) // the kernel has dropped those that did not fit
	}
	if err != nil {
		closeFDs(fds)
		return nil, err
	}
	return fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
