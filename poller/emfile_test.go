package poller

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// alone reports whether this is a process for this test only. If not, it runs the test in one, for
// limits and getrusage count for a whole process.
func alone(t *testing.T) bool {
	t.Helper()
	const marker = "POLLER_TEST_ALONE"
	if os.Getenv(marker) == t.Name() {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	return false
}

// logLines counts what is logged from now on.
func logLines(t *testing.T) *atomic.Int64 {
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	c := &lineCounter{}
	slog.SetDefault(slog.New(c))
	return &c.n
}

type lineCounter struct{ n atomic.Int64 }

func (c *lineCounter) Enabled(context.Context, slog.Level) bool  { return true }
func (c *lineCounter) Handle(context.Context, slog.Record) error { c.n.Add(1); return nil }
func (c *lineCounter) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c *lineCounter) WithGroup(string) slog.Handler             { return c }

// guest is an accepted connection that stays until its client leaves.
type guest struct {
	FD
	left func()
}

func (g *guest) Readable() {
	for {
		switch _, err := g.Read(g.Loop().ReadBuf()); err {
		case nil:
		case unix.EAGAIN:
			return
		default:
			g.Hangup()
			return
		}
	}
}
func (g *guest) Writable() {}
func (g *guest) Hangup() {
	if !g.Closed() {
		g.Close()
		g.left()
	}
}

// house is a loop that accepts and greets guests.
type house struct {
	*Loop
	addr   *Listener
	door   *Acceptor
	guests int // loop only
	rounds int // loop only
}

const greeting = "hello"

func openHouse(t *testing.T) *house {
	h := &house{Loop: runLoop(t, Config{})}
	var err error
	if h.addr, err = Listen("127.0.0.1:0", ListenOptions{}); err != nil {
		t.Fatal(err)
	}
	on(t, h.Loop, func() {
		h.OnRound(func() { h.rounds++ })
		h.door, err = h.Serve(h.addr, func(sysfd int) {
			g := &guest{left: func() { h.guests-- }}
			if err := h.Register(&g.FD, sysfd, g); err != nil {
				t.Error(err)
				return
			}
			h.guests++
			g.Write([]byte(greeting))
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { on(t, h.Loop, h.door.Close) })
	return h
}

// untilGuests waits for a number of guests.
func (h *house) untilGuests(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		var got int
		on(t, h.Loop, func() { got = h.guests })
		if got == want {
			on(t, h.Loop, func() {}) // those that left are closed at the end of the round
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d guests after %v, want %d", got, patience, want)
		}
	}
}

func setFileLimit(t *testing.T, soft uint64) {
	t.Helper()
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	lim.Cur = soft
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
}

// fill takes all descriptors that the limit leaves.
func fill() (taken []int) {
	for {
		fd := openSpare()
		if fd < 0 {
			return taken
		}
		taken = append(taken, fd)
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// answer reads until the peer has said what there is to say: the greeting, or all up to the end.
func answer(t *testing.T, fd int) string {
	t.Helper()
	var got []byte
	buf := make([]byte, 4096)
	for string(got) != greeting {
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds())); n == 0 {
			t.Fatalf("no answer after %v, so far %q", patience, got)
		} else if err == unix.EINTR {
			continue
		}
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return string(got) + err.Error()
		}
		if n == 0 {
			break
		}
		got = append(got, buf[:n]...)
	}
	return string(got)
}

const (
	crowd = 150 // clients of an episode: more than two bursts of accept
	room  = 8   // descriptors left for them
)

// An episode of exhausted descriptors. Its clients' sockets exist before the limit falls, so only
// accept is short of them.
func (h *house) episode(t *testing.T, spareLost bool, lines *atomic.Int64) {
	setFileLimit(t, 512)
	clients := make([]int, crowd)
	for i := range clients {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		clients[i] = fd
	}
	defer func() { closeAll(clients) }()

	if spareLost {
		on(t, h.Loop, h.door.closeSpare)
	}
	fillers := fill()
	closeAll(fillers[:room])
	fillers = fillers[room:]
	linesBefore, began := lines.Load(), time.Now()

	// On the loop, so that all wait, with their requests sent, when it comes to accept.
	_, to := sockaddr(h.addr.Addr())
	on(t, h.Loop, func() {
		for _, fd := range clients {
			if err := unix.Connect(fd, to); err != nil {
				t.Error(err)
			}
			unix.Write(fd, []byte("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"))
		}
	})
	h.untilGuests(t, room)
	if !spareLost { // otherwise they wait
		for i, fd := range clients[room:] {
			if got := answer(t, fd); got != noDescriptors {
				t.Fatalf("client %d got %q, want 503", room+i, got)
			}
			if code := option(t, fd, unix.SOL_SOCKET, unix.SO_ERROR); code != 0 {
				t.Fatalf("client %d got a reset: %v", room+i, unix.Errno(code))
			}
		}
	}
	h.quietSecond(t)
	if got, most := lines.Load()-linesBefore, 2+int64(time.Since(began)/time.Second); got > most {
		t.Errorf("got %d log lines in %v of exhaustion, want %d at most", got, time.Since(began), most)
	}

	closeAll(fillers)
	if spareLost {
		h.untilGuests(t, crowd) // nobody was turned away
	}
	for i, fd := range clients {
		if i < room || spareLost {
			if got := answer(t, fd); got != greeting {
				t.Errorf("client %d got %q, want the greeting", i, got)
			}
		}
	}
	on(t, h.Loop, func() {
		if h.door.spare < 0 {
			t.Error("the spare descriptor has not come back")
		}
	})
	closeAll(clients)
	clients = nil
	h.untilGuests(t, 0)
}

// quietSecond fails when the loop goes round without need for a second.
func (h *house) quietSecond(t *testing.T) {
	t.Helper()
	second := &alarm{fired: make(chan struct{})}
	second.Init(second)
	var rounds int
	var before, after unix.Rusage
	on(t, h.Loop, func() {
		rounds = h.rounds
		h.Arm(&second.Timer, time.Second)
	})
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	wait(t, second.fired, "timer of a second")
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	on(t, h.Loop, func() { rounds = h.rounds - rounds })
	// Ten rests of 100 ms, each with a round for the timer and one for the listener; a spin would
	// be 100,000.
	if rounds > 60 {
		t.Errorf("got %d rounds in an exhausted second, want a few for each rest of %v", rounds, acceptPause)
	}
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	if cpu > 500*time.Millisecond {
		t.Errorf("an exhausted second used %v of CPU", cpu)
	}
}

func TestAcceptSurvivesThreeEpisodesWithoutDescriptors(t *testing.T) {
	if !alone(t) {
		return
	}
	h := openHouse(t)
	lines := logLines(t)
	for range 3 {
		h.episode(t, false, lines)
	}
	if lines.Load() == 0 {
		t.Error("nothing was logged")
	}
}

func TestAcceptSurvivesThreeEpisodesWithTheSpareLost(t *testing.T) {
	if !alone(t) {
		return
	}
	h := openHouse(t)
	lines := logLines(t)
	for range 3 {
		h.episode(t, true, lines)
	}
	h.episode(t, false, lines) // with the spare that came back
	if lines.Load() == 0 {
		t.Error("nothing was logged")
	}
}

func TestNewLoopGivesBackWhatItGotWhenDescriptorsRunOut(t *testing.T) {
	if !alone(t) {
		return
	}
	setFileLimit(t, 64)
	t.Run("waiting in epoll_wait", func(t *testing.T) { testNewLoopGivesBack(t, Config{}, 3) })
	t.Run("yielding", func(t *testing.T) { testNewLoopGivesBack(t, Config{Yields: true}, 4) })
}

// testNewLoopGivesBack opens loops with ever more descriptors left, of which a loop takes so many.
func testNewLoopGivesBack(t *testing.T, cfg Config, takes int) {
	for left := range 6 {
		fillers := fill()
		closeAll(fillers[:left])
		for range 3 { // what leaks at the first attempt is missing at the next
			l, err := NewLoop(cfg)
			if want := left >= takes; (err == nil) != want {
				t.Fatalf("%d descriptors left: got %v, want success %v", left, err, want)
			}
			if err != nil {
				if !strings.Contains(err.Error(), "descriptor limit") {
					t.Errorf("got %q, want what to do about it", err)
				}
				continue
			}
			l.Close()
			if err := l.Run(); err != nil {
				t.Fatal(err)
			}
		}
		if got := fill(); len(got) != left {
			t.Errorf("%d descriptors left of %d after three attempts", len(got), left)
		} else {
			closeAll(got)
		}
		closeAll(fillers[left:])
	}
}

func TestClientThatSaysNothingIsTurnedAwayToo(t *testing.T) {
	if !alone(t) {
		return
	}
	h := openHouse(t)
	logLines(t)
	setFileLimit(t, 256)
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fillers := fill()
	_, to := sockaddr(h.addr.Addr())
	if err := unix.Connect(client, to); err != nil { // and sends nothing
		t.Fatal(err)
	}
	if got := answer(t, client); got != noDescriptors {
		t.Errorf("got %q, want 503", got)
	}
	closeAll(fillers)
	unix.Close(client)
}

// Without init, the sleep would end this process: "runtime: netpoll failed".
func TestTimersNeedNoDescriptorOnceThereIsNone(t *testing.T) {
	if !alone(t) {
		return
	}
	setFileLimit(t, 64)
	fillers := fill()
	time.Sleep(time.Millisecond)
	closeAll(fillers)
	if again := fill(); len(again) != len(fillers) {
		t.Errorf("got %d descriptors after the sleep, want the %d of before", len(again), len(fillers))
	}
}
