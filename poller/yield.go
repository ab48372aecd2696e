package poller

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// A goroutine that waits in epoll_wait keeps its place among the GOMAXPROCS that run Go code until
// the runtime's monitor takes it away, which is up to 10 ms. That does not matter to as many loops
// as there are places. But of 52 loops on two processors those with work to do, and everybody else
// who answers them, queue for places that are held by loops that sleep. And what other goroutines
// read from the network is noticed by nobody while all places are held. So there a loop waits as
// other goroutines do, in the runtime's own poller, in which its epoll descriptor is one of many.
type yielder struct {
	file  *os.File // a duplicate: the other one is netpoll's to close
	conn  syscall.RawConn
	ready func(fd uintptr) bool
}

// open prepares the waiting. The loop's goroutine, on its thread if it has its own table.
func (y *yielder) open(p netpoll.Poll) error {
	fd, err := epollFD(p)
	if err != nil {
		return err
	}
	fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate epoll: %w (raise the descriptor limit?)", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os takes it for one that cannot be waited for
		_ = unix.Close(fd)
		return fmt.Errorf("epoll: %w", err)
	}
	y.file = os.NewFile(uintptr(fd), "epoll")
	if y.conn, err = y.file.SyscallConn(); err != nil {
		y.close()
		return fmt.Errorf("epoll: %w", err)
	}
	y.ready = func(fd uintptr) bool {
		// Not epoll_wait, which would take away those of netpoll's events that are edge-triggered.
		one, now := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}, unix.Timespec{}
		for {
			n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&one)), 1,
				uintptr(unsafe.Pointer(&now)), 0, 0, 0)
			if errno != unix.EINTR {
				return errno != 0 || n > 0 // an error is netpoll's to find
			}
		}
	}
	return nil
}

// wait returns when netpoll has events to fetch.
func (y *yielder) wait() {
	if y.conn != nil && y.conn.Read(y.ready) != nil {
		y.conn = nil // the runtime's poller cannot do it: epoll_wait is waited in
	}
}

// close gives the duplicate back, on the loop's thread: in another table its number is another's.
func (y *yielder) close() {
	if y.file != nil {
		_ = y.file.Close()
		y.conn = nil
	}
}
