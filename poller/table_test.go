package poller

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needTables(t testing.TB) {
	t.Helper()
	if err := CanSplit(); err != nil {
		t.Skip(err)
	}
}

// table is what is open in the table of a thread, by number; nil when the thread is gone.
func table(t testing.TB, tid int) map[int]string {
	t.Helper()
	dir := fmt.Sprintf("/proc/self/task/%d/fd", tid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	open := make(map[int]string)
	for _, e := range entries {
		// What ReadDir itself had open is gone by now.
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil {
			n, _ := strconv.Atoi(e.Name())
			open[n] = to
		}
	}
	return open
}

// mainTable is the table of the process.
func mainTable(t testing.TB) map[int]string { return table(t, os.Getpid()) }

// kinds counts what a table holds beside the standard streams and what all tables share.
func kinds(open map[int]string) map[string]int {
	n := make(map[string]int)
	for fd, to := range open {
		if fd < 3 || slices.Contains(tables.common, fd) {
			continue
		}
		if strings.HasPrefix(to, "socket:") {
			to = "socket"
		}
		n[to]++
	}
	return n
}

func isCommon(t testing.TB, open map[int]string) {
	t.Helper()
	for _, fd := range tables.common {
		if open[fd] != mainTable(t)[fd] {
			t.Errorf("descriptor %d: got %q, in the process's table it is %q", fd, open[fd], mainTable(t)[fd])
		}
	}
}

// startOwn starts a loop with its own table and ends it with the test.
func startOwn(t testing.TB, setup func(*Loop) error) (l *Loop, tid int) {
	t.Helper()
	l, err := Start(Config{OwnTable: true, Yields: yields}, func(l *Loop) error {
		tid = unix.Gettid()
		if setup == nil {
			return nil
		}
		return setup(l)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if err := l.Wait(); err != nil {
			t.Errorf("Wait: %v", err)
		}
	})
	return l, tid
}

// untilGone waits for a thread to end.
func untilGone(t testing.TB, tid int) {
	t.Helper()
	for end := time.Now().Add(patience); table(t, tid) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("thread %d still holds %v", tid, table(t, tid))
		}
	}
}

func TestALoopsTableHoldsItsOwnDescriptorsOnly(t *testing.T) {
	needTables(t)
	// What the process has open: a file, a socket, and numbers on both sides of the common ones.
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	before := mainTable(t)
	var acceptor *Acceptor
	l, tid := startOwn(t, func(l *Loop) error {
		ln, err := Listen("127.0.0.1:0", ListenOptions{ReusePort: true})
		if err != nil {
			return err
		}
		acceptor, err = l.Serve(ln, func(fd int) { unix.Close(fd) })
		return err
	})
	if got := mainTable(t); !maps.Equal(got, before) {
		t.Errorf("the process's table changed: got %v, want %v", got, before)
	}
	open := table(t, tid)
	isCommon(t, open)
	want := map[string]int{
		"anon_inode:[eventpoll]": 1, "anon_inode:[eventfd]": 1, "anon_inode:[timerfd]": 1,
		"socket": 1, "/dev/null": 1, // the listener and its spare
	}
	if yields {
		want["anon_inode:[eventpoll]"]++
	}
	if got := kinds(open); !maps.Equal(got, want) {
		t.Errorf("the loop's table: got %v, want %v", got, want)
	}
	on(t, l, func() { acceptor.Close() })
	delete(want, "socket")
	delete(want, "/dev/null")
	on(t, l, func() {}) // a round later they are closed
	if got := kinds(table(t, tid)); !maps.Equal(got, want) {
		t.Errorf("after the acceptor's Close: got %v, want %v", got, want)
	}
	l.Close()
	if err := l.Wait(); err != nil {
		t.Fatal(err)
	}
	untilGone(t, tid)
	if got := mainTable(t); !maps.Equal(got, before) {
		t.Errorf("the process's table after the end: got %v, want %v", got, before)
	}
}

func TestTheRuntimesPollerIsInEveryTable(t *testing.T) {
	needTables(t)
	found := runtimeDescriptors()
	if len(found) != 2 {
		t.Fatalf("got %v, want two descriptors", found)
	}
	open := mainTable(t)
	got := []string{open[found[0]], open[found[1]]}
	slices.Sort(got)
	if want := []string{"anon_inode:[eventfd]", "anon_inode:[eventpoll]"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, fd := range found {
		if !slices.Contains(tables.common, fd) {
			t.Errorf("%d is not common to all tables", fd)
		}
	}
}

func TestTheProcesssFirstThreadIsNeverALoops(t *testing.T) {
	needTables(t)
	for range 50 {
		l, tid := startOwn(t, nil)
		if tid == os.Getpid() {
			t.Fatal("the loop runs on the process's first thread")
		}
		l.Close()
		_ = l.Wait()
	}
}

func TestAConnectionClosedInTheProcesssTableEnds(t *testing.T) {
	needTables(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ours, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	startOwn(t, nil) // it must not keep a copy of the connection
	startOwn(t, nil)
	ours.Close()
	_ = theirs.SetReadDeadline(time.Now().Add(patience))
	if n, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %d bytes, %v; want EOF", n, err)
	}
}

func TestTimersAndGoroutinesOfALoopWithItsOwnTable(t *testing.T) {
	needTables(t)
	var fill []int
	l, _ := startOwn(t, func(*Loop) error {
		// The numbers that sockets of the process have are taken here by others.
		for range 200 {
			fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
			if err != nil {
				return err
			}
			fill = append(fill, fd)
		}
		return nil
	})
	const timers = 500
	fired := make(chan struct{}, 2*timers)
	on(t, l, func() {
		for i := range timers {
			time.AfterFunc(time.Duration(i)*10*time.Microsecond, func() { fired <- struct{}{} })
			go func() { time.Sleep(time.Microsecond); fired <- struct{}{} }()
		}
		runtime.GC() // looks into the runtime's poller from this thread
	})
	for range 2 * timers {
		wait(t, fired, "timers that a loop set")
	}
	on(t, l, func() {
		for _, fd := range fill {
			var count [8]byte
			if _, err := unix.Read(fd, count[:]); err != unix.EAGAIN {
				t.Errorf("descriptor %d of the loop was written to: %x, %v", fd, count, err)
			}
		}
	})
}

func TestALoopWithoutDescriptorsLeavesTheOthersRoom(t *testing.T) {
	needTables(t)
	full, _ := startOwn(t, nil)
	other, _ := startOwn(t, nil)
	var taken int
	on(t, full, func() {
		for {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				if err != unix.EMFILE {
					t.Errorf("got %v, want EMFILE", err)
				}
				return
			}
			taken++
		}
	})
	if taken == 0 {
		t.Error("the loop's table had no room from the beginning")
	}
	on(t, other, func() {
		fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Errorf("another loop: %v", err)
		}
		unix.Close(fd)
	})
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("the process: %v", err)
	}
	unix.Close(fd)
	// The full one is woken and runs timers all the same.
	fired := make(chan struct{})
	on(t, full, func() {
		a := &alarm{fired: fired}
		a.Timer.Init(a)
		full.Arm(&a.Timer, time.Millisecond)
	})
	wait(t, fired, "timer of a loop without descriptors")
	if _, err := CopyFDs(nil, full, []int{1}); err == nil || !strings.Contains(err.Error(), "too many open files") {
		t.Errorf("CopyFDs into a full table: got %v, want EMFILE", err)
	}
	// What did not fit must not come out with the next one.
	got, err := CopyFDs(nil, other, []int{0})
	if err != nil || len(got) != 1 {
		t.Errorf("CopyFDs after that: got %v, %v", got, err)
	}
}

// echo returns what it reads.
type echoer struct{ FD }

func (e *echoer) Readable() {
	buf := e.Loop().ReadBuf()
	for {
		n, err := e.Read(buf)
		if err != nil {
			if err == io.EOF {
				e.Close()
			}
			return
		}
		_, _ = e.Write(buf[:n])
	}
}
func (e *echoer) Writable() {}
func (e *echoer) Hangup()   { e.Close() }

// echoOn starts a loop with its own table that echoes on addr.
func echoOn(t testing.TB, addr string) (l *Loop, at netip.AddrPort) {
	l, _ = startOwn(t, func(l *Loop) error {
		ln, err := Listen(addr, ListenOptions{ReusePort: true})
		if err != nil {
			return err
		}
		at = ln.Addr()
		_, err = l.Serve(ln, func(fd int) {
			e := new(echoer)
			if err := l.Register(&e.FD, fd, e); err != nil {
				t.Error(err)
			}
		})
		return err
	})
	return l, at
}

// Loops come and go while others set timers, post to each other and echo. A byte that somebody
// writes to a number of another table shows in an echo, or ends the process.
func TestThousandsOfTablesWithoutAStrayWrite(t *testing.T) {
	needTables(t)
	const runs, workers = 2000, 4
	a, addr := echoOn(t, "127.0.0.1:0")
	b, _ := echoOn(t, addr.String())
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				want := fmt.Appendf(nil, "client %d message %d", i, n)
				got := make([]byte, len(want))
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err := c.Write(want); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
					t.Errorf("got %q, %v; want %q", got, err, want)
					return
				}
			}
		})
	}
	var ticks, turns atomic.Int64
	for range runs / workers {
		var batch sync.WaitGroup
		for range workers {
			batch.Go(func() {
				var fds [2]int
				l, err := Start(Config{OwnTable: true, Yields: yields}, func(l *Loop) (err error) {
					fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				var both sync.WaitGroup
				both.Add(2)
				l.Post(func() {
					time.AfterFunc(time.Microsecond, func() { ticks.Add(1); both.Done() })
					a.Post(func() { b.Post(func() { l.Post(func() { turns.Add(1); both.Done() }) }) })
				})
				both.Wait()
				l.Post(func() {
					for _, fd := range fds {
						if n, err := unix.Read(fd, make([]byte, 8)); err != unix.EAGAIN {
							t.Errorf("got %d bytes, %v, on a socket that nobody wrote to", n, err)
						}
					}
					l.Close()
				})
				if err := l.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
		batch.Wait()
	}
	close(stop)
	all.Wait()
	if ticks.Load() != runs || turns.Load() != runs {
		t.Errorf("got %d timers and %d turns, want %d of each", ticks.Load(), turns.Load(), runs)
	}
	if got, want := len(tables.wakes), len(tables.common)-tablesBase-2; got != want {
		t.Errorf("%d eventfds are free, want %d", got, want)
	}
}

func TestStartReportsWhatSetupReports(t *testing.T) {
	for _, own := range []bool{false, true} {
		if own && CanSplit() != nil {
			continue
		}
		t.Run(fmt.Sprint("OwnTable=", own), func(t *testing.T) {
			want := fmt.Errorf("no")
			var tid int
			l, err := Start(Config{OwnTable: own}, func(*Loop) error { tid = unix.Gettid(); return want })
			if l != nil || err != want {
				t.Errorf("got %v, %v; want nil, %v", l, err, want)
			}
			if own {
				untilGone(t, tid)
			}
			var ended, order []string
			l, err = Start(Config{OwnTable: own}, func(l *Loop) error {
				l.OnEnd(func(err error) { ended = append(ended, fmt.Sprint("end ", err)) })
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			on(t, l, func() { order = append(order, "posted") })
			l.Close()
			if err := l.Wait(); err != nil || len(order) != 1 || !slices.Equal(ended, []string{"end <nil>"}) {
				t.Errorf("got %v, %v, %v", err, order, ended)
			}
			if l.Post(func() {}) {
				t.Error("Post after the end: got true, want false")
			}
		})
	}
	if _, err := NewLoop(Config{OwnTable: true}); err == nil {
		t.Error("NewLoop with OwnTable: got no error")
	}
}

func TestReserveTablesComesFirst(t *testing.T) {
	needTables(t)
	room := len(tables.common) - tablesBase
	if err := ReserveTables(room); err != nil {
		t.Errorf("%d: %v", room, err)
	}
	if err := ReserveTables(room + 1); err == nil {
		t.Errorf("%d: got no error", room+1)
	}
}

// taken and given are TakeFDs and GiveFDs in the form of CopyFDs.
func taken(from, _ *Loop, fds []int) ([]int, error) {
	return TakeFDs(from, func() []int { return fds })
}

func given(_, to *Loop, fds []int) (copies []int, err error) {
	err = GiveFDs(to, fds, func(c []int) { copies = c })
	return copies, err
}

func TestCopyFDsBetweenAllTables(t *testing.T) {
	needTables(t)
	a, tidA := startOwn(t, nil)
	b, tidB := startOwn(t, nil)
	plain := runLoop(t, Config{})
	before := mainTable(t)
	for _, c := range []struct {
		name     string
		from, to *Loop
		copy     func(from, to *Loop, fds []int) ([]int, error)
	}{{"in", nil, a, CopyFDs}, {"out", a, nil, CopyFDs}, {"across", a, b, CopyFDs},
		{"within", a, a, CopyFDs}, {"none", nil, nil, CopyFDs}, {"plain", plain, b, CopyFDs},
		{"taken", a, nil, taken}, {"taken, plain", plain, nil, taken},
		{"given", nil, a, given}, {"given, plain", nil, plain, given}} {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range []int{1, 2, MaxCopy - 1, MaxCopy} {
				var ours, theirs []int
				run := func(l *Loop, fn func()) {
					if l.ownsTable() {
						on(t, l, fn)
					} else {
						fn()
					}
				}
				run(c.from, func() {
					for range n {
						p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
						if err != nil {
							t.Error(err)
							return
						}
						ours, theirs = append(ours, p[0]), append(theirs, p[1])
					}
				})
				got, err := c.copy(c.from, c.to, theirs)
				if err != nil || len(got) != n {
					t.Fatalf("%d: got %d, %v", n, len(got), err)
				}
				run(c.from, func() {
					for i, fd := range ours {
						_, _ = unix.Write(fd, []byte{byte(i)})
					}
					closeFDs(theirs)
				})
				run(c.to, func() {
					for i, fd := range got {
						var b [2]byte
						if n, err := unix.Read(fd, b[:]); n != 1 || b[0] != byte(i) {
							t.Errorf("copy %d: got %d bytes %x, %v", i, n, b, err)
						}
						if !flag(t, fd, unix.F_GETFD, unix.FD_CLOEXEC) {
							t.Errorf("copy %d is not close-on-exec", i)
						}
					}
					closeFDs(got)
				})
				run(c.from, func() { closeFDs(ours) })
			}
		})
	}
	if got, err := CopyFDs(nil, a, make([]int, MaxCopy+1)); err == nil {
		t.Errorf("%d at a time: got %v, want an error", MaxCopy+1, got)
	}
	if got, err := CopyFDs(a, b, []int{1, 1 << 19}); err == nil {
		t.Errorf("a closed number: got %v, want an error", got)
	}
	if got, err := CopyFDs(nil, nil, []int{1, 1 << 19}); err == nil {
		t.Errorf("a closed number: got %v, want an error", got)
	}
	for _, l := range []*Loop{a, plain} {
		if got, err := taken(l, nil, []int{1, 1 << 19}); err == nil {
			t.Errorf("a closed number, taken: got %v, want an error", got)
		}
		if got, err := given(nil, l, []int{1, 1 << 19}); err == nil || got != nil {
			t.Errorf("a closed number, given: got %v, want an error", got)
		}
		if got, err := taken(l, nil, nil); err != nil || got != nil {
			t.Errorf("nothing to take: got %v, %v", got, err)
		}
	}
	if got := mainTable(t); !maps.Equal(got, before) {
		t.Errorf("the process's table changed: got %v, want %v", got, before)
	}
	b.Close()
	_ = b.Wait()
	untilGone(t, tidB)
	if _, err := CopyFDs(a, b, []int{1}); err == nil {
		t.Error("into a loop that has ended: got no error")
	}
	if _, err := CopyFDs(b, a, []int{1}); err == nil {
		t.Error("out of a loop that has ended: got no error")
	}
	if _, err := taken(b, nil, []int{1}); err == nil {
		t.Error("taken out of a loop that has ended: got no error")
	}
	if _, err := given(nil, b, []int{1}); err == nil {
		t.Error("given to a loop that has ended: got no error")
	}
	if got := mainTable(t); !maps.Equal(got, before) {
		t.Errorf("the process's table changed: got %v, want %v", got, before)
	}
	if got := kinds(table(t, tidA)); got["socket"] != 0 {
		t.Errorf("left behind: %v", got)
	}
}
