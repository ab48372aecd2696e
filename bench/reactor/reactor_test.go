package reactor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tables runs a test with a shared descriptor table and with one of the loop's own.
func tables(t *testing.T, test func(t *testing.T, own bool)) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own=%t", own), func(t *testing.T) {
			if own {
				if err := CanSplit(); err != nil {
					t.Skip(err)
				}
			}
			test(t, own)
		})
	}
}

func start(t *testing.T, own bool) *Loop {
	t.Helper()
	l, err := Start(Options{OwnTable: own}, func(*Loop) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Post(l.Close)
		if err := l.Wait(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// on runs fn on the loop and waits for it.
func on[T any](t *testing.T, l *Loop, fn func() T) T {
	t.Helper()
	result := make(chan T, 1)
	if !l.Post(func() { result <- fn() }) {
		t.Fatal("the loop has ended")
	}
	select {
	case v := <-result:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("the loop does not answer")
		panic("unreachable")
	}
}

// echo is a TCP server that sends back what comes, and closes after "bye".
func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					_, _ = c.Write(buf[:n])
					if string(buf[:n]) == "bye" {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// client sends what it is told and passes on what comes; io.EOF's text at the end.
type client struct {
	Socket
	l   *Loop
	got chan string
}

func (c *client) Ready(e Events) {
	for {
		n, err := c.Read(c.l.ReadBuf())
		switch {
		case err == nil:
			c.got <- string(c.l.ReadBuf()[:n])
			continue
		case errors.Is(err, unix.EAGAIN):
			return
		}
		c.got <- err.Error()
		c.l.CloseSocket(&c.Socket)
		return
	}
}

func (c *client) dial(to netip.AddrPort) error {
	err := c.l.Dial(&c.Socket, c, netip.MustParseAddr("127.0.0.7"), to)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte("hello")); err != nil && !errors.Is(err, unix.EAGAIN) {
		return err
	}
	return c.l.Watch(&c.Socket, false)
}

func receive(t *testing.T, from chan string, want string) {
	t.Helper()
	select {
	case got := <-from:
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("nothing came; want %q", want)
	}
}

func TestSocketsTalk(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		l, to := start(t, own), echo(t)
		c := &client{l: l, got: make(chan string, 10)}
		if err := on(t, l, func() error { return c.dial(to) }); err != nil {
			t.Fatal(err)
		}
		receive(t, c.got, "hello")
		on(t, l, func() error { _, err := c.Write([]byte("bye")); return err })
		receive(t, c.got, "bye")
		receive(t, c.got, io.EOF.Error())
	})
}

func TestRefusedConnect(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		l := start(t, own)
		c := &client{l: l, got: make(chan string, 1)}
		err := on(t, l, func() error { return c.dial(netip.MustParseAddrPort("127.0.0.1:1")) })
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("got %v, want ECONNREFUSED", err)
		}
		on(t, l, func() int { l.CloseSocket(&c.Socket); l.CloseSocket(&c.Socket); return 0 })
	})
}

// A table of a loop's own has room for RLIMIT_NOFILE descriptors whatever others have open, and
// what is open in it does not show in the process's.
func TestOwnTableIsApart(t *testing.T) {
	if err := CanSplit(); err != nil {
		t.Skip(err)
	}
	before := openHere(t)
	l := start(t, true)
	open := on(t, l, func() (fds []int) {
		for fd := range 4096 {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				fds = append(fds, fd)
			}
		}
		return fds
	})
	if want := 3 + len(runtimeFDs) + 2; len(open) > want || len(runtimeFDs) != 2 {
		t.Errorf("open in the table: %v; want at most %d, with %v", open, want, runtimeFDs)
	}
	on(t, l, func() error {
		for range 100 {
			if _, err := unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
				return err
			}
		}
		return nil
	})
	if after := openHere(t); after > before+1 {
		t.Errorf("%d descriptors are open in the process's table, %d were: want one more, the eventfd",
			after, before)
	}
}

func openHere(t *testing.T) int {
	t.Helper()
	links, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(links)
}

// The process's first thread does not end, and so its table would not either.
func TestFirstThreadKeepsItsTable(t *testing.T) {
	if err := CanSplit(); err != nil {
		t.Skip(err)
	}
	for range 100 {
		l := start(t, true)
		if on(t, l, unix.Gettid) == unix.Getpid() {
			t.Fatal("a loop with a table of its own runs on the process's first thread")
		}
	}
}

// A loop that ends gives everything back: descriptors, thread, sockets.
func TestEndGivesEverythingBack(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		to := echo(t)
		before := -1
		for i := range 20 {
			l, err := Start(Options{OwnTable: own}, func(*Loop) error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			c := &client{l: l, got: make(chan string, 10)}
			if err := on(t, l, func() error { return c.dial(to) }); err != nil {
				t.Fatal(err)
			}
			receive(t, c.got, "hello")
			l.Post(l.Close)
			if err := l.Wait(); err != nil {
				t.Fatal(err)
			}
			if l.Post(func() {}) {
				t.Fatal("a loop that has ended takes mail")
			}
			if i == 1 {
				before = openHere(t)
			}
		}
		// The other ends close a moment later.
		for deadline := time.Now().Add(20 * time.Second); openHere(t) > before; {
			if time.Now().After(deadline) {
				t.Fatalf("%d descriptors are open, %d were after two loops", openHere(t), before)
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}

func TestSetupFails(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		want := errors.New("no")
		before := openHere(t)
		if _, err := Start(Options{OwnTable: own}, func(*Loop) error { return want }); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
		if after := openHere(t); after > before {
			t.Errorf("%d descriptors are open, %d were", after, before)
		}
	})
}

// The runtime's own poller must work from a thread with a table of its own: timers and channels.
func TestRuntimeTimersOnOwnTable(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		l := start(t, own)
		for range 50 {
			on(t, l, func() int {
				time.Sleep(100 * time.Microsecond)
				<-time.After(100 * time.Microsecond)
				runtime.Gosched()
				return 0
			})
		}
	})
}

func TestTimersFireInOrder(t *testing.T) {
	tables(t, func(t *testing.T, own bool) {
		l := start(t, own)
		fired := make(chan int, 10)
		on(t, l, func() int {
			now := l.Now()
			var all [5]Timer
			for i := range all {
				all[i].Do = func() {
					if l.Now() < now+time.Duration(i)*time.Millisecond {
						t.Errorf("timer %d fired early", i)
					}
					fired <- i
				}
			}
			for _, i := range []int{3, 0, 4, 2, 1} {
				l.Arm(&all[i], now+time.Duration(i)*time.Millisecond)
			}
			l.Arm(&all[0], now+10*time.Millisecond) // moved
			l.Disarm(&all[2])
			l.Disarm(&all[2])
			return 0
		})
		for _, want := range []int{1, 3, 4, 0} {
			if got := <-fired; got != want {
				t.Errorf("timer %d fired, want %d", got, want)
			}
		}
	})
}

// Without epoll_pwait2 the loop waits in whole milliseconds.
func TestCoarseWait(t *testing.T) {
	l := start(t, false)
	fired := make(chan time.Duration, 1)
	on(t, l, func() int {
		l.coarse = true
		at := l.Now() + 1500*time.Microsecond
		l.Arm(&Timer{Do: func() { fired <- l.Now() - at }}, at)
		return 0
	})
	if late := <-fired; late < 0 {
		t.Errorf("fired %v early", -late)
	}
}

func TestLaterAndRounds(t *testing.T) {
	l := start(t, false)
	order := make(chan string, 10)
	on(t, l, func() int {
		l.OnRound(func() { order <- "round" })
		l.Later(func() {
			order <- "later"
			l.Later(func() { order <- "later still" })
		})
		return 0
	})
	for _, want := range []string{"round", "later", "round", "later still"} {
		if got := <-order; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	on(t, l, func() int { l.OnRound(nil); return 0 })
}
