package poller

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak
// alone waits for less than half a second, which is too little on a loaded machine.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(patience); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

// patience is how long a test waits for what must come. Only a failing test waits that long.
const patience = time.Minute

// runLoop starts a loop and ends it with the test.
func runLoop(t testing.TB, cfg Config) *Loop {
	t.Helper()
	cfg.Yields = yields
	l, err := NewLoop(cfg)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	t.Cleanup(func() {
		l.Close()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Errorf("Run did not return %v after Close", patience)
		}
	})
	return l
}

// on runs fn on the loop and waits for it.
func on(t testing.TB, l *Loop, fn func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { fn(); close(done) }) {
		t.Fatal("Post: loop is closed")
	}
	wait(t, done, "posted function")
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
	}
}

// The linkname and the hooks in netpoll.go were written against this version's source. A new one
// may be fine: read poll_default_linux.go, poll_default.go and fd_operator.go again, then change
// the constant.
func TestNetpollIsThePinnedVersion(t *testing.T) {
	const want = "v0.7.2"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build info")
	}
	got := ""
	for _, dep := range info.Deps {
		if dep.Path == "github.com/cloudwego/netpoll" {
			got = dep.Version
		}
	}
	if got == "" { // test binaries carry no module list with some toolchains
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/cloudwego/netpoll").Output()
		if err != nil {
			t.Fatal(err)
		}
		got = strings.TrimSpace(string(out))
	}
	if got != want {
		t.Errorf("netpoll is %s, netpoll.go was written for %s", got, want)
	}
}

func TestPostRunsInOrderAndFailsAfterClose(t *testing.T) {
	l, err := NewLoop(Config{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	var got []int
	for i := range 1000 {
		l.Post(func() { got = append(got, i) })
	}
	on(t, l, func() {})
	for i, v := range got {
		if i != v {
			t.Fatalf("position %d: got %d", i, v)
		}
	}
	l.Close()
	l.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l.Post(func() {}) {
		t.Error("Post after Close: got true, want false")
	}
}

func TestPostFromManyGoroutinesLosesNothing(t *testing.T) {
	l := runLoop(t, Config{})
	const posters, each = 8, 5000
	var ran int // loop only
	var wg sync.WaitGroup
	for range posters {
		wg.Go(func() {
			for range each {
				l.Post(func() { ran++ })
			}
		})
	}
	wg.Wait()
	on(t, l, func() {
		if ran != posters*each {
			t.Errorf("got %d runs, want %d", ran, posters*each)
		}
	})
}

func TestLaterRunsAfterTheCallbacksOfTheRound(t *testing.T) {
	l := runLoop(t, Config{})
	var order []string
	done := make(chan struct{})
	l.Post(func() {
		l.Later(func() {
			order = append(order, "later")
			l.Later(func() { order = append(order, "next round"); close(done) })
		})
		order = append(order, "posted")
	})
	wait(t, done, "Later")
	if got := strings.Join(order, ","); got != "posted,later,next round" {
		t.Errorf("got %s", got)
	}
}

// alarm is a timer that says when it fired.
type alarm struct {
	Timer
	fired chan struct{}
}

func (a *alarm) Expire() { close(a.fired) }

func TestTimerFiresNeverEarly(t *testing.T) {
	l := runLoop(t, Config{Tick: time.Millisecond})
	for _, after := range []time.Duration{0, time.Millisecond, 3500 * time.Microsecond, 70 * time.Millisecond} {
		a := &alarm{fired: make(chan struct{})}
		a.Init(a)
		var armed time.Time
		on(t, l, func() {
			armed = time.Now()
			l.now = time.Since(l.start) // Arm counts from the round's time; here the test's own clock is compared
			l.Arm(&a.Timer, after)
		})
		wait(t, a.fired, "timer")
		if got := time.Since(armed); got < after {
			t.Errorf("armed for %v, fired after %v", after, got)
		}
	}
}

func TestTimersLeaveTheLoopAsleep(t *testing.T) {
	l := runLoop(t, Config{Tick: time.Millisecond})
	var rounds int
	a := &alarm{fired: make(chan struct{})}
	a.Init(a)
	on(t, l, func() {
		l.Arm(&a.Timer, 300*time.Millisecond)
		l.OnRound(func() { rounds++ })
	})
	wait(t, a.fired, "timer")
	on(t, l, func() {
		// A wake-up each millisecond would be 300; cascades and the posts of this test are a
		// handful.
		if rounds > 30 {
			t.Errorf("the loop woke %d times for one timer of 300 ticks", rounds)
		}
	})
}

func TestChildProcessesInheritNoDescriptors(t *testing.T) {
	runLoop(t, Config{})
	out, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, leaked := range []string{"eventpoll", "eventfd", "timerfd"} {
		if bytes.Contains(out, []byte(leaked)) {
			t.Errorf("a child process got a descriptor of kind %s:\n%s", leaked, out)
		}
	}
}

// tape is a connection that records what happens to it.
type tape struct {
	FD
	in       bytes.Buffer
	eof      chan struct{}
	writable int
	hung     chan struct{}
	onData   func()
}

func newTape() *tape { return &tape{eof: make(chan struct{}), hung: make(chan struct{})} }

func (c *tape) Readable() {
	buf := c.Loop().ReadBuf()
	for {
		n, err := c.Read(buf)
		c.in.Write(buf[:n])
		if c.onData != nil && n > 0 {
			c.onData()
		}
		if err == io.EOF {
			c.Close()
			close(c.eof)
			return
		}
		if err != nil || n < len(buf) || c.Closed() {
			return
		}
	}
}
func (c *tape) Writable() { c.writable++ }
func (c *tape) Hangup() {
	close(c.hung)
	c.Close()
}

func pair(t testing.TB) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

func registered(t testing.TB, l *Loop) (c *tape, theirs int) {
	t.Helper()
	ours, theirs := pair(t)
	c = newTape()
	on(t, l, func() {
		if err := l.Register(&c.FD, ours, c); err != nil {
			t.Error(err)
		}
	})
	return c, theirs
}

func TestLastBytesOfAPeerThatSentAndClosedAreRead(t *testing.T) {
	l := runLoop(t, Config{ReadBuffer: 4096})
	for range 200 {
		c, theirs := registered(t, l)
		sent := bytes.Repeat([]byte("x"), 10_000)
		if n, err := unix.Write(theirs, sent); n != len(sent) || err != nil {
			t.Fatal(n, err)
		}
		unix.Close(theirs)
		select {
		case <-c.eof:
		case <-c.hung:
		case <-time.After(patience):
			t.Fatal("neither EOF nor hang-up")
		}
		on(t, l, func() {
			if c.in.Len() != len(sent) {
				t.Errorf("got %d bytes, want %d", c.in.Len(), len(sent))
			}
		})
	}
}

func TestPausedReadingHoldsDataBackAndResumes(t *testing.T) {
	l := runLoop(t, Config{})
	c, theirs := registered(t, l)
	defer unix.Close(theirs)
	for i := range 50 {
		on(t, l, func() { c.SetInterest(false, false) })
		unix.Write(theirs, []byte("y"))
		on(t, l, func() {})
		on(t, l, func() {
			if c.in.Len() != i {
				t.Fatalf("read while paused: %d bytes, want %d", c.in.Len(), i)
			}
		})
		got := make(chan struct{})
		on(t, l, func() {
			c.onData = func() { close(got) }
			c.SetInterest(true, i%2 == 0)
		})
		wait(t, got, "data after resume")
		on(t, l, func() { c.onData = nil })
	}
	on(t, l, func() { c.Close() })
}

func TestPauseAndCloseFromInsideTheCallbackDoNotSpin(t *testing.T) {
	l := runLoop(t, Config{})
	c, theirs := registered(t, l)
	defer unix.Close(theirs)
	done := make(chan struct{}, 4)
	var sysfd int
	on(t, l, func() {
		sysfd = c.SysFD()
		c.onData = func() { c.SetInterest(false, true); c.SetInterest(false, false); done <- struct{}{} }
	})
	unix.Write(theirs, []byte("a"))
	<-done
	on(t, l, func() {
		c.onData = func() { c.SetInterest(true, true); c.Close(); c.Close(); done <- struct{}{} }
		c.SetInterest(true, false)
	})
	unix.Write(theirs, []byte("b"))
	<-done
	on(t, l, func() {}) // perhaps still in the round of the Close
	on(t, l, func() {
		if c.SysFD() != -1 {
			t.Errorf("a round after Close: SysFD %d, want -1", c.SysFD())
		}
		if _, err := c.Write([]byte("late")); err != unix.EBADF {
			t.Errorf("Write a round after Close: got %v, want EBADF", err)
		}
	})
	if _, err := unix.FcntlInt(uintptr(sysfd), unix.F_GETFD, 0); err == nil {
		t.Error("the descriptor is still open a round after Close")
	}
}

func TestWriteInterestReportsSpace(t *testing.T) {
	l := runLoop(t, Config{})
	c, theirs := registered(t, l)
	defer unix.Close(theirs)
	chunk := make([]byte, 64<<10)
	for _, paused := range []bool{false, true} {
		var before int
		on(t, l, func() {
			for {
				if _, err := c.Write(chunk); err == unix.EAGAIN {
					break
				}
			}
			before = c.writable
			c.SetInterest(!paused, true)
		})
		deadline := time.Now().Add(patience)
		for got := before; got == before; {
			if time.Now().After(deadline) {
				t.Fatalf("paused=%v: no Writable although the peer drained the socket", paused)
			}
			unix.Read(theirs, chunk)
			on(t, l, func() { got = c.writable })
		}
		on(t, l, func() { c.SetInterest(true, false) })
	}
	on(t, l, func() { c.Close() })
}

func TestHangupComesWhilePaused(t *testing.T) {
	l := runLoop(t, Config{})
	c, theirs := registered(t, l)
	on(t, l, func() { c.SetInterest(false, false) })
	unix.Write(theirs, []byte("unread"))
	unix.Close(theirs)
	wait(t, c.hung, "hang-up")
}

// TestManyShortConnectionsOverReusedDescriptors closes from both sides at once, so that descriptor
// numbers are reused while stale events and late hang-ups are about.
func TestManyShortConnectionsOverReusedDescriptors(t *testing.T) {
	l := runLoop(t, Config{})
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Int64
	var a *Acceptor
	on(t, l, func() {
		a, err = l.Serve(ln, func(fd int) {
			c := newTape()
			c.onData = func() {
				if c.in.String() != "hello" {
					wrong.Add(1)
				}
				c.Write([]byte("world"))
				c.Close()
			}
			if err := l.Register(&c.FD, fd, c); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				conn, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				conn.Write([]byte("hello"))
				if got, _ := io.ReadAll(conn); string(got) != "world" {
					t.Errorf("got %q, want world", got)
				}
				conn.Close()
			}
		})
	}
	wg.Wait()
	if wrong.Load() != 0 {
		t.Errorf("%d connections saw another's data", wrong.Load())
	}
	on(t, l, func() { a.Close() })
}

func TestDialReportsSuccessAndRefusal(t *testing.T) {
	l := runLoop(t, Config{})
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr()
	defer ln.Close()
	for _, refused := range []bool{false, true} {
		if refused {
			addr = deafPort(t)
		}
		c := &dialed{done: make(chan error, 2)}
		local := netipPort0(addr)
		fd, err := Dial(local, addr)
		if err != nil {
			if refused && err == unix.ECONNREFUSED {
				continue
			}
			t.Fatal(err)
		}
		on(t, l, func() {
			if err := l.RegisterDial(&c.FD, fd, c); err != nil {
				t.Error(err)
			}
		})
		select {
		case err := <-c.done:
			if (err != nil) != refused {
				t.Errorf("refused=%v: got %v", refused, err)
			}
		case <-time.After(patience):
			t.Fatal("connect never ended")
		}
	}
}

// A descriptor without write interest holds no callback for it: 16 bytes of every dialled
// connection.
func TestNoWriteCallbackIsKeptWithoutWriteInterest(t *testing.T) {
	l := runLoop(t, Config{})
	ours, theirs := pair(t)
	defer unix.Close(theirs)
	c := &undecided{hung: make(chan struct{})}
	on(t, l, func() {
		if err := l.RegisterDial(&c.FD, ours, c); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []struct{ read, write bool }{{true, false}, {true, true}, {true, false}, {false, true}, {true, false}} {
		on(t, l, func() { c.SetInterest(step.read, step.write) })
		on(t, l, func() {
			if got := c.op.OnWrite != nil; got != step.write {
				t.Errorf("interest %+v: the callback is there: %v", step, got)
			}
		})
	}
	on(t, l, func() { c.Close() })
}

// deafPort returns an address that refuses connections until the test ends: taken, so that nobody
// else listens there, and not listened on.
func deafPort(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at.(*unix.SockaddrInet4).Port))
}

type dialed struct {
	FD
	done chan error
}

func (c *dialed) Readable() {}
func (c *dialed) Writable() { c.done <- c.SocketError(); c.Close() }
func (c *dialed) Hangup() {
	err := c.SocketError()
	if err == nil {
		err = os.ErrClosed
	}
	c.done <- err
	c.Close()
}

func netipPort0(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), 0) }
