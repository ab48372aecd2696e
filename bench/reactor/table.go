package reactor

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runtimeFDs are the two descriptors of the Go runtime's own poller. They must have their numbers
// in every table: a timer that is set on a loop wakes the runtime's poller through them, and the
// runtime ends the process when it cannot.
var runtimeFDs = findRuntimeFDs()

// findRuntimeFDs has the runtime open its poller, which it does for the first timer, and looks for
// what that opened. It runs before main, so nobody else has an epoll instance or an eventfd yet.
func findRuntimeFDs() (fds []int) {
	time.Sleep(time.Nanosecond)
	links, _ := os.ReadDir("/proc/self/fd")
	for _, l := range links {
		to, err := os.Readlink("/proc/self/fd/" + l.Name())
		if err != nil {
			continue // the directory's own
		}
		if strings.HasPrefix(to, "anon_inode:[event") {
			if fd, err := strconv.Atoi(l.Name()); err == nil {
				fds = append(fds, fd)
			}
		}
	}
	return fds
}

// splitTable gives the calling thread, which must be locked, a descriptor table of its own with
// standard input, output and error, the runtime's descriptors and those in keep.
func splitTable(keep ...int) error {
	if len(runtimeFDs) == 0 {
		return fmt.Errorf("split the descriptor table: " +
			"the Go runtime's descriptors were not found in /proc/self/fd")
	}
	keep = append(append(keep, 0, 1, 2), runtimeFDs...)
	slices.Sort(keep)
	// The kernel copies what lies below the range and leaves the rest out.
	above := uint(keep[len(keep)-1]) + 1
	if err := unix.CloseRange(above, math.MaxUint32, unix.CLOSE_RANGE_UNSHARE); err != nil {
		return fmt.Errorf("split the descriptor table: close_range: %w", err)
	}
	for i, fd := range keep[1:] {
		if first, last := uint(keep[i])+1, uint(fd)-1; first <= last {
			if err := unix.CloseRange(first, last, 0); err != nil {
				return fmt.Errorf("split the descriptor table: close_range: %w", err)
			}
		}
	}
	return nil
}

// CanSplit reports why no thread can have a descriptor table of its own here; nil when it can. Old
// kernels (before 5.9) and some sandboxes do not allow it.
func CanSplit() error {
	result := make(chan error)
	onOwnThread(func() { result <- splitTable() })
	return <-result
}

// onOwnThread runs fn on a thread that ends with it. It does not wait for that. The process's first
// thread would not end: it is kept busy until fn has another.
func onOwnThread(fn func()) {
	go func() {
		runtime.LockOSThread() // not unlocked: the runtime ends the thread
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			fn()
		}()
		<-elsewhere
		runtime.UnlockOSThread()
	}()
}
