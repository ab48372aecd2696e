package poller

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// acceptOne is an accepted connection on l and the client that made it.
func acceptOne(t testing.TB, l *Loop, o ListenOptions) (f *FD, client *net.TCPConn) {
	t.Helper()
	ln, err := Listen("127.0.0.1:0", o)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan *FD, 1)
	var a *Acceptor
	on(t, l, func() {
		a, err = l.Serve(ln, func(fd int) {
			f := new(FD)
			if err := l.Register(f, fd, discard{f}); err != nil {
				t.Error(err)
			}
			accepted <- f
		})
		if err != nil {
			t.Error(err)
		}
	})
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f = <-accepted
	t.Cleanup(func() {
		c.Close()
		on(t, l, func() { a.Close(); f.Close() })
	})
	return f, c.(*net.TCPConn)
}

// discard takes nothing.
type discard struct{ f *FD }

func (d discard) Readable() { d.f.SetInterest(false, false) }
func (d discard) Writable() {}
func (d discard) Hangup()   { d.f.Close() }

func TestAckedFollowsAPeerThatReadsSlowly(t *testing.T) {
	l := runLoop(t, Config{})
	f, client := acceptOne(t, l, ListenOptions{})
	if err := client.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	var wrote int
	read := func() (unacked int, acked uint64) {
		on(t, l, func() { unacked, acked = f.Unacked(), f.Acked() })
		return unacked, acked
	}
	if unacked, _ := read(); unacked != 0 {
		t.Errorf("new connection: %d bytes not acknowledged, want 0", unacked)
	}
	_, base := read()
	on(t, l, func() {
		for range 64 {
			n, err := f.Write(make([]byte, 16<<10))
			wrote += n
			if err != nil && err != unix.EAGAIN {
				t.Error(err)
			}
		}
	})
	// What is with the peer's kernel and what is still here adds up, whenever it is looked at.
	var before uint64
	eventually(t, func() bool {
		unacked, acked := read()
		stable := acked == before
		before = acked
		return stable && unacked > 0 && acked > base && int(acked-base)+unacked == wrote
	})
	// The peer takes a part: acknowledged grows by it, although the socket is far from writable.
	buf := make([]byte, 16<<10)
	for range 4 {
		if _, err := client.Read(buf); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() bool { _, acked := read(); return acked > before })
	// All of it: nothing is outstanding.
	go func() {
		for {
			if _, err := client.Read(buf); err != nil {
				return
			}
		}
	}()
	eventually(t, func() bool {
		unacked, acked := read()
		return unacked == 0 && int(acked-base) == wrote
	})
	on(t, l, func() { f.Close() })
	eventually(t, func() bool { unacked, acked := read(); return unacked == 0 && acked == 0 && f.SysFD() == -1 })
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about in 20 s")
		}
	}
}

func BenchmarkUnacked(b *testing.B) {
	l := runLoop(b, Config{})
	f, _ := acceptOne(b, l, ListenOptions{})
	on(b, l, func() {
		for b.Loop() {
			f.Unacked()
		}
	})
}

func BenchmarkAcked(b *testing.B) {
	l := runLoop(b, Config{})
	f, _ := acceptOne(b, l, ListenOptions{})
	on(b, l, func() {
		for b.Loop() {
			f.Acked()
		}
	})
}
