package poller

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	_ "unsafe" // for go:linkname

	"golang.org/x/sys/unix"
)

// A limit of open files holds for a descriptor table, and on Linux a thread may leave the table of
// its process and have one of its own. This file does so for a loop: see the package's comment.

// isPollDescriptor says whether fd is the epoll or the eventfd of the Go runtime's own poller.
//
//go:linkname isPollDescriptor internal/poll.IsPollDescriptor
func isPollDescriptor(fd uintptr) bool

// tables are the descriptors that have one number in every table of the process, so that each
// thread may use them. They are opened before the first thread leaves the process's table and stay
// open: a number that came free in one table could become a client's socket there.
var tables struct {
	sync.Mutex
	opened bool
	err    error  // why no thread can have a table of its own
	common []int  // all of them, ascending
	parcel [2]int // a socket pair that carries descriptors from one table to another
	wakes  []int  // eventfds of loops that have ended, or are still to come
}

// defaultTables is how many loops can have tables of their own at a time, unless ReserveTables
// comes first. Each costs every table one descriptor.
const defaultTables = 128

// CanSplit is nil where a loop can have a descriptor table of its own (Config.OwnTable), and else
// says why not: a kernel before Linux 5.9, or a seccomp profile without close_range. It tries it
// once. Any goroutine.
func CanSplit() error {
	_, err := openedTables(defaultTables)
	return err
}

// ReserveTables makes room for n loops with tables of their own at a time; there is room for 128
// without it. It comes before the first of them and before CanSplit, for all tables must have the
// same descriptors: later it is an error to ask for more than there is. Any goroutine.
func ReserveTables(n int) error {
	room, err := openedTables(n)
	if err == nil && n > room {
		err = fmt.Errorf("descriptor tables: there is room for %d loops with their own and not for %d"+
			" (call ReserveTables earlier)", room, n)
	}
	return err
}

// openedTables opens what all tables share, for n loops, unless that was done before. It returns
// for how many loops there is room.
func openedTables(n int) (room int, err error) {
	tables.Lock()
	defer tables.Unlock()
	if !tables.opened {
		tables.opened = true
		if tables.err = openTables(n); tables.err != nil {
			tables.err = fmt.Errorf("descriptor tables: %w", tables.err)
		}
	}
	return len(tables.common) - tablesBase, tables.err
}

// tablesBase is how many of the common descriptors are not eventfds: the runtime's and the parcel.
const tablesBase = 4

func openTables(n int) (err error) {
	common := runtimeDescriptors()
	if len(common) != 2 {
		return fmt.Errorf("found %d descriptors of the Go runtime's poller instead of 2", len(common))
	}
	defer func() {
		if err != nil {
			for _, fd := range common[2:] {
				_ = unix.Close(fd)
			}
			tables.common, tables.wakes = nil, nil
		}
	}()
	parcel, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	common = append(common, parcel[0], parcel[1])
	for range n {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("eventfd: %w", err)
		}
		common = append(common, fd)
		tables.wakes = append(tables.wakes, fd)
	}
	tables.parcel = parcel
	slices.Reverse(tables.wakes) // the lowest first
	slices.Sort(common)
	tables.common = common
	return trySplit()
}

// runtimeDescriptors finds the two of the Go runtime's poller. They are opened by init, before
// the program opens anything, so they are low; but it may have inherited some.
func runtimeDescriptors() (found []int) {
	var limit unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // cannot fail
	for fd := 3; fd < int(min(limit.Max, 1<<20)) && len(found) < 2; fd++ {
		if isPollDescriptor(uintptr(fd)) {
			found = append(found, fd)
		}
	}
	return found
}

// trySplit has a thread leave the process's table for good, and looks at both.
func trySplit() error {
	probe, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	result := make(chan error)
	onOwnThread(func() {
		// Only the probe is closed, so that a kernel which ignores the flag does no harm.
		err := unix.CloseRange(uint(probe), uint(probe), unix.CLOSE_RANGE_UNSHARE)
		if err != nil {
			err = fmt.Errorf("close_range with CLOSE_RANGE_UNSHARE: %w (it takes Linux 5.9, and a"+
				" seccomp profile that allows it)", err)
		} else if isOpen(probe) {
			err = errors.New("close_range reported success and closed nothing")
		}
		result <- err
	})
	err = <-result
	if !isOpen(probe) {
		return errors.New("close_range did not give the thread a table of its own")
	}
	_ = unix.Close(probe)
	return err
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

// leaveTable gives the calling thread a table of its own, in which only the standard streams and
// what all tables share are open. The thread must be locked, and must end with its goroutine.
func leaveTable() error {
	tables.Lock()
	common := tables.common
	tables.Unlock()
	// First what is above them, so that the kernel does not copy it.
	above := uint(common[len(common)-1] + 1)
	if err := unix.CloseRange(above, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	next := 3
	for _, fd := range common {
		if next < fd {
			if err := unix.CloseRange(uint(next), uint(fd-1), 0); err != nil {
				return fmt.Errorf("close_range: %w", err)
			}
		}
		next = fd + 1
	}
	return nil
}

// onOwnThread runs fn on a thread that no other goroutine uses and that ends with it, and so does
// the thread's table. It does not wait for fn.
func onOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime then ends the thread with the goroutine
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// The process's first thread never ends, and /proc/self/fd shows its table. It is held
		// until fn has another.
		has := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(has)
			fn()
		}()
		<-has
		runtime.UnlockOSThread()
	}()
}

// waker wakes a loop that has a table of its own. The reactor's eventfd has no number in the
// tables of other threads; this one has the same in all.
type waker struct {
	FD
	number int // of the eventfd, in every table
}

// open takes one of the common eventfds and registers it with l.
func (w *waker) open(l *Loop) error {
	tables.Lock()
	n := len(tables.wakes)
	if n == 0 {
		tables.Unlock()
		return errors.New("no room for another loop with a table of its own (see ReserveTables)")
	}
	w.number, tables.wakes = tables.wakes[n-1], tables.wakes[:n-1]
	tables.Unlock()
	w.clear()
	if err := l.Register(&w.FD, w.number, w); err != nil {
		w.release()
		return fmt.Errorf("wake-up: epoll: %w", err)
	}
	return nil
}

// release gives the eventfd to the next loop. Nobody may ring any more. Any goroutine.
func (w *waker) release() {
	tables.Lock()
	tables.wakes = append(tables.wakes, w.number)
	tables.Unlock()
}

// ring wakes the loop. Any goroutine, on whatever table its thread has.
func (w *waker) ring() {
	one := [8]byte{1}
	_, _ = rawIO(unix.SYS_WRITE, int32(w.number), one[:], 0)
}

// clear takes back what was rung.
func (w *waker) clear() {
	var count [8]byte
	_, _ = rawIO(unix.SYS_READ, int32(w.number), count[:], 0)
}

// Readable implements Events: what was posted is run later in the round.
func (w *waker) Readable() {
	w.clear()
	if w.loop.closing.Load() {
		_ = w.loop.poll.Close()
	}
}

func (w *waker) Writable() {}
func (w *waker) Hangup()   {}
