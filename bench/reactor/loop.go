package reactor

import (
	"container/heap"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options sets up a Loop. The zero value is the default.
type Options struct {
	OwnTable   bool // run on a thread with a descriptor table of its own
	ReadBuffer int  // bytes; default 64 KiB
	// Start is the zero of Now; default: when the loop starts. Loops with the same Start can
	// compare their times.
	Start time.Time
}

// eventsAtOnce is how many events one epoll_pwait2 returns at most.
const eventsAtOnce = 256

// Loop is one event loop. What is not marked otherwise may be used on the loop only.
type Loop struct {
	options Options

	// Any goroutine.
	mail    sync.Mutex
	inbox   []func()
	over    bool          // under mail: wake is closed, or about to be
	wake    int           // an eventfd, with one number in the loop's table and in the process's
	stopped chan struct{} // closed when the loop has ended
	err     error         // why; valid after stopped

	// The loop only.
	start   time.Time
	epoll   int
	coarse  bool // the kernel has no epoll_pwait2
	closing bool
	events  [eventsAtOnce]unix.EpollEvent
	sockets []Handler // by descriptor
	timers  timers
	outbox  []func() // inbox's other half
	later   []func()
	spare   []func() // later's other half
	ended   []int32  // descriptors that are closed at the end of the round
	onRound func()
	readBuf []byte
}

// Handler is told what happened to its socket, on the loop. Events are edge-triggered: what is not
// read to its end is not told again.
type Handler interface{ Ready(Events) }

// Events is what epoll said of a socket.
type Events uint32

// Readable reports whether there is something to read.
func (e Events) Readable() bool { return e&unix.EPOLLIN != 0 }

// Writable reports whether the socket takes bytes again, or has been connected.
func (e Events) Writable() bool { return e&unix.EPOLLOUT != 0 }

// Hangup reports whether the peer has ended its side, or the socket has failed.
func (e Events) Hangup() bool { return e&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// Start starts a loop and calls setup on it, before anything else. It fails when setup does, or
// when descriptors or, with OwnTable, the kernel do not allow it; nothing is left of the loop then.
// Any goroutine that is not on a loop may call it.
func Start(o Options, setup func(*Loop) error) (*Loop, error) {
	if o.ReadBuffer == 0 {
		o.ReadBuffer = 64 << 10
	}
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	l := &Loop{options: o, start: o.Start, stopped: make(chan struct{}),
		readBuf: make([]byte, o.ReadBuffer)}
	var err error
	if l.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("start a loop: eventfd: %w", err)
	}
	ready, ended := make(chan error, 1), make(chan error, 1)
	l.onThread(func() { ended <- l.live(ready, setup) })
	go func() { // in the process's table, whatever the loop's is
		l.err = <-ended
		l.mail.Lock()
		l.over, l.inbox = true, nil
		_ = unix.Close(l.wake)
		l.mail.Unlock()
		close(l.stopped)
	}()
	if err := <-ready; err != nil {
		<-l.stopped
		return nil, err
	}
	return l, nil
}

// onThread starts the loop's goroutine, on a thread of its own. Where it has a table of its own the
// thread ends with it, and closes that.
func (l *Loop) onThread(live func()) {
	if l.options.OwnTable {
		onOwnThread(live)
		return
	}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		live()
	}()
}

// live is the loop's life.
func (l *Loop) live(ready chan<- error, setup func(*Loop) error) error {
	// By default the kernel lets timers of a thread be 50 µs late, to save wake-ups.
	const exact, usual = 1, 0
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, exact, 0, 0, 0)
	defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0) }()
	err := l.open()
	if err == nil {
		if err = setup(l); err != nil {
			l.closeAll()
		}
	}
	ready <- err
	if err != nil {
		return nil // Start has it
	}
	err = l.run()
	l.closeAll()
	return err
}

func (l *Loop) open() (err error) {
	if l.options.OwnTable {
		if err := splitTable(l.wake); err != nil {
			return err
		}
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("start a loop: epoll_create1: %w", err)
	}
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.wake)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.wake, &e); err != nil {
		_ = unix.Close(l.epoll)
		return fmt.Errorf("start a loop: epoll_ctl: %w", err)
	}
	return nil
}

// closeAll closes what the loop has open.
func (l *Loop) closeAll() {
	l.closeEnded()
	for fd, h := range l.sockets {
		if h != nil {
			_ = unix.Close(fd)
		}
	}
	_ = unix.Close(l.epoll)
}

// Wait waits for the end of the loop: nil after Close, or why epoll failed. Any goroutine that is
// not on the loop may call it.
func (l *Loop) Wait() error {
	<-l.stopped
	return l.err
}

// Stopped is closed when the loop has ended.
func (l *Loop) Stopped() <-chan struct{} { return l.stopped }

// Close ends the loop after the round in hand and closes what it has open.
func (l *Loop) Close() { l.closing = true }

// Post has fn run on the loop. It never blocks. It reports false when the loop has ended; true is
// no promise that fn runs, for the loop may end before. Any goroutine may call it, but none that is
// on another loop: it would not have this one's eventfd.
func (l *Loop) Post(fn func()) bool {
	l.mail.Lock()
	defer l.mail.Unlock()
	if l.over {
		return false
	}
	l.inbox = append(l.inbox, fn)
	if len(l.inbox) == 1 {
		one := [8]byte{1}
		_, _ = unix.Write(l.wake, one[:]) // fails when it is full, and then the loop wakes anyway
	}
	return true
}

// Later has fn run at the end of this round.
func (l *Loop) Later(fn func()) { l.later = append(l.later, fn) }

// OnRound has fn run at the end of every round.
func (l *Loop) OnRound(fn func()) { l.onRound = fn }

// ReadBuf is the loop's one read buffer. What is in it is valid until the next read.
func (l *Loop) ReadBuf() []byte { return l.readBuf }

// Now is the time since Options.Start. It reads the clock.
func (l *Loop) Now() time.Duration { return time.Since(l.start) }

func (l *Loop) run() error {
	for !l.closing {
		n, err := l.wait()
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		for i := range l.events[:n] {
			e := &l.events[i]
			if int(e.Fd) == l.wake {
				var count [8]byte
				_, _ = unix.Read(l.wake, count[:])
			} else if h := l.sockets[e.Fd]; h != nil { // nil: closed in this round
				h.Ready(Events(e.Events))
			}
		}
		l.deliver()
		l.expire()
		if l.onRound != nil {
			l.onRound()
		}
		l.runLater()
		l.closeEnded()
	}
	return nil
}

// wait waits for events until the next timer is due.
func (l *Loop) wait() (n int, err error) {
	until := time.Duration(-1)
	switch {
	case len(l.later) > 0:
		until = 0
	case len(l.timers) > 0:
		until = max(l.timers[0].at-l.Now(), 0)
	}
	if !l.coarse {
		n, errno := l.pwait2(until)
		switch errno {
		case 0, unix.EINTR:
			return n, nil
		case unix.ENOSYS, unix.EPERM: // before Linux 5.11, or a sandbox older than it
			l.coarse = true
		default:
			return 0, errno
		}
	}
	ms := -1
	if until >= 0 {
		ms = int((until + time.Millisecond - 1) / time.Millisecond)
	}
	n, err = unix.EpollWait(l.epoll, l.events[:], ms)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// pwait2 has a resolution of nanoseconds; epoll_wait has milliseconds, which would show in every
// latency of an open loop.
func (l *Loop) pwait2(until time.Duration) (n int, errno syscall.Errno) {
	var timeout *unix.Timespec
	if until >= 0 {
		ts := unix.NsecToTimespec(int64(until))
		timeout = &ts
	}
	r, _, errno := syscall.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll),
		uintptr(unsafe.Pointer(&l.events)), eventsAtOnce, uintptr(unsafe.Pointer(timeout)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// deliver runs what was posted.
func (l *Loop) deliver() {
	l.mail.Lock()
	l.inbox, l.outbox = l.outbox[:0], l.inbox
	l.mail.Unlock()
	runAll(l.outbox)
}

// runLater runs what this round put off; what that puts off in turn waits for the next round.
func (l *Loop) runLater() {
	l.later, l.spare = l.spare[:0], l.later
	runAll(l.spare)
}

func runAll(fns []func()) {
	for i, fn := range fns {
		fns[i] = nil
		fn()
	}
}

func (l *Loop) closeEnded() {
	for _, fd := range l.ended {
		_ = unix.Close(int(fd))
	}
	l.ended = l.ended[:0]
}

// Timer calls a function at a time. The zero value is a timer that is not armed.
type Timer struct {
	Do    func()
	at    time.Duration
	place int // in the heap, from 1; 0: not armed
}

// timersAtOnce bounds how many timers fire in one round, so that the sockets get their turn.
const timersAtOnce = 512

// Arm has t fire when Now is at least at. An armed timer is moved.
func (l *Loop) Arm(t *Timer, at time.Duration) {
	t.at = at
	if t.place > 0 {
		heap.Fix(&l.timers, t.place-1)
	} else {
		heap.Push(&l.timers, t)
	}
}

// Disarm has t not fire.
func (l *Loop) Disarm(t *Timer) {
	if t.place > 0 {
		heap.Remove(&l.timers, t.place-1)
	}
}

// expire fires what is due. A timer that arms itself for now waits for the next round.
func (l *Loop) expire() {
	now := l.Now()
	for range timersAtOnce {
		if len(l.timers) == 0 || l.timers[0].at > now {
			return
		}
		heap.Pop(&l.timers).(*Timer).Do()
	}
}

// timers is a heap by time.
type timers []*Timer

func (q timers) Len() int           { return len(q) }
func (q timers) Less(i, j int) bool { return q[i].at < q[j].at }
func (q timers) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i+1, j+1
}

func (q *timers) Push(x any) {
	t := x.(*Timer)
	*q = append(*q, t)
	t.place = len(*q)
}

func (q *timers) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	t.place = 0
	return t
}
