package poller

import (
	"math"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// undecided is told of a hang-up and does not close: it may have messages to store first.
type undecided struct {
	FD
	readable, hangups int
	onReadable        func()
	hung              chan struct{}
}

func (c *undecided) Readable() {
	c.readable++
	if c.onReadable != nil {
		c.onReadable()
	}
}
func (c *undecided) Writable() {}
func (c *undecided) Hangup() {
	c.hangups++
	if c.hangups == 1 {
		close(c.hung)
	}
}

// A peer that sends and closes makes one event of both: netpoll detaches the descriptor right after
// Readable, and what Readable asked for is settled after that.
func TestHangupComesOnceWhateverReadableAskedFor(t *testing.T) {
	for name, ask := range map[string]func(c *undecided){
		"nothing":          func(c *undecided) {},
		"pause":            func(c *undecided) { c.SetInterest(false, false) },
		"pause and write":  func(c *undecided) { c.SetInterest(false, true) },
		"write":            func(c *undecided) { c.SetInterest(true, true) },
		"pause and resume": func(c *undecided) { c.SetInterest(false, false); c.SetInterest(true, false) },
	} {
		t.Run(name, func(t *testing.T) {
			l := runLoop(t, Config{})
			for range 50 {
				ours, theirs := pair(t)
				c := &undecided{hung: make(chan struct{})}
				c.onReadable = func() { ask(c) }
				unix.Write(theirs, []byte("last words"))
				unix.Close(theirs)
				on(t, l, func() {
					if err := l.Register(&c.FD, ours, c); err != nil {
						t.Error(err)
					}
				})
				wait(t, c.hung, "Hangup")
				var readable int
				on(t, l, func() {
					readable = c.readable
					c.SetInterest(true, true) // must not bring it back either
				})
				rounds(t, l, 20)
				on(t, l, func() {
					if c.hangups != 1 {
						t.Errorf("got %d Hangups, want 1", c.hangups)
					}
					if c.readable != readable {
						t.Errorf("Readable came %d times after Hangup", c.readable-readable)
					}
					c.Close()
				})
			}
		})
	}
}

// rounds waits until the loop has gone round n times. Waiting gives netpoll's goroutine for
// hang-ups its turn.
func rounds(t testing.TB, l *Loop, n int) {
	t.Helper()
	for range n {
		runtime.Gosched()
		on(t, l, func() {})
	}
}

func TestAbortSendsResetAndCloseDoesNot(t *testing.T) {
	l := runLoop(t, Config{})
	for _, abort := range []bool{false, true} {
		server, client := tcpPair(t)
		c := newTape()
		on(t, l, func() {
			if err := l.Register(&c.FD, server, c); err != nil {
				t.Error(err)
			}
			if abort {
				c.Abort()
				c.Close()
			} else {
				c.Close()
				c.Abort()
			}
		})
		if err := unix.SetNonblock(client, false); err != nil {
			t.Fatal(err)
		}
		_, err := unix.Read(client, make([]byte, 1))
		if got := err == unix.ECONNRESET; got != abort {
			t.Errorf("abort=%v: the peer's read ends with %v", abort, err)
		}
		unix.Close(client)
	}
}

func tcpPair(t testing.TB) (server, client int) {
	t.Helper()
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client = dialBlocking(t, ln)
	if err := unix.SetNonblock(ln.SysFD(), false); err != nil {
		t.Fatal(err)
	}
	server, errno := accept4(int32(ln.SysFD()))
	if errno != 0 {
		t.Fatal(errno)
	}
	return server, client
}

// dialBlocking connects and returns when the kernel has completed the connection.
func dialBlocking(t testing.TB, ln *Listener) int {
	t.Helper()
	fd, err := Dial(netipPort0(ln.Addr()), ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(patience.Milliseconds())); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestClosedInTheRoundOfItsEventHearsNothing(t *testing.T) {
	l := runLoop(t, Config{})
	const n = 50
	cs := make([]*undecided, n)
	theirs := make([]int, n)
	closed := make(chan struct{})
	on(t, l, func() {
		for i := range cs {
			c := &undecided{hung: make(chan struct{})}
			cs[i] = c
			var ours int
			ours, theirs[i] = pair(t)
			if err := l.Register(&c.FD, ours, c); err != nil {
				t.Error(err)
			}
			// The first to be told closes all others, of which events are in the same batch.
			c.onReadable = func() {
				for _, other := range cs {
					other.Close()
				}
				close(closed)
			}
		}
		// All become ready before the next epoll_wait.
		for _, fd := range theirs {
			unix.Write(fd, []byte("x"))
			unix.Close(fd)
		}
	})
	wait(t, closed, "Readable")
	rounds(t, l, 20)
	on(t, l, func() {
		for i, c := range cs {
			if c.hangups != 0 || c.readable > 1 {
				t.Errorf("connection %d: %d Readable and %d Hangup after Close", i, c.readable, c.hangups)
			}
		}
	})
}

func TestTimerForEverIsNotDueAtOnce(t *testing.T) {
	l := runLoop(t, Config{Tick: time.Second}) // the wheel alone reaches farther than a Duration
	on(t, l, func() {
		for _, after := range []time.Duration{math.MaxInt64, math.MaxInt64 - 1, 200 * 365 * 24 * time.Hour} {
			far := &alarm{fired: make(chan struct{})}
			far.Init(far)
			l.Arm(&far.Timer, after)
			if got, year := time.Duration(far.when)*l.tick, 365*24*time.Hour; got < 50*year {
				t.Errorf("Arm(%v): due after %v", after, got)
			}
			l.ArmAt(&far.Timer, after)
			if got, year := time.Duration(far.when)*l.tick, 365*24*time.Hour; got < 50*year {
				t.Errorf("ArmAt(%v): due at %v", after, got)
			}
			l.Disarm(&far.Timer)
			l.Arm(&far.Timer, -after)
			if far.when > l.wheel.elapsed+1 {
				t.Errorf("Arm(%v): due at tick %d, now %d", -after, far.when, l.wheel.elapsed)
			}
			l.Disarm(&far.Timer)
		}
	})
}

// The timerfd must not go off before Now has come to the time it was set to. Ticks are at the phase
// that was asked for.
func TestTimerfdClockIsNotAheadOfNow(t *testing.T) {
	for range 200 {
		l := Loop{tick: 50 * time.Millisecond}
		const phase = 20 * time.Millisecond
		if err := l.startClock(phase); err != nil {
			t.Fatal(err)
		}
		if at := l.base % l.tick; at != phase {
			t.Fatalf("the first tick is at %v, want %v", at, phase)
		}
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			t.Fatal(err)
		}
		now := time.Since(l.start)
		if scale := time.Duration(ts.Nano()) - l.base; scale > now {
			t.Fatalf("the timerfd's clock is %v ahead", scale-now)
		}
	}
}
