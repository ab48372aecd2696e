package poller

import (
	"testing"

	"golang.org/x/sys/unix"
)

// reader counts the bytes that come.
type reader struct {
	FD
	got    []byte
	events chan string
}

func (r *reader) Readable() {
	buf := make([]byte, 64)
	n, err := r.Read(buf)
	if err != nil {
		return
	}
	r.got = append(r.got, buf[:n]...)
	r.events <- "readable"
}
func (r *reader) Writable() { r.events <- "writable" }
func (r *reader) Hangup()   { r.events <- "hangup" }

func newReader(t *testing.T, l *Loop) (r *reader, peer int) {
	t.Helper()
	ours, theirs := tcpPair(t)
	r = &reader{events: make(chan string, 16)}
	on(t, l, func() {
		if err := l.Register(&r.FD, ours, r); err != nil {
			t.Error(err)
		}
	})
	return r, theirs
}

func TestDetachedHearsNothingUntilAttach(t *testing.T) {
	l := runLoop(t, Config{})
	r, peer := newReader(t, l)
	defer unix.Close(peer)
	on(t, l, func() {
		if err := r.Detach(); err != nil {
			t.Error(err)
		}
		if r.Detach() == nil {
			t.Error("a second Detach: no error")
		}
		r.SetInterest(true, true) // kept for Attach
	})
	unix.Write(peer, []byte("hello"))
	rounds(t, l, 20)
	select {
	case e := <-r.events:
		t.Fatalf("%s while detached", e)
	default:
	}
	on(t, l, r.Attach)
	for seen := map[string]bool{}; !seen["readable"] || !seen["writable"]; {
		e := <-r.events
		seen[e] = true
		if e == "writable" {
			on(t, l, func() { r.SetInterest(true, false) })
		}
	}
	on(t, l, func() {
		if string(r.got) != "hello" {
			t.Errorf("got %q, want hello", r.got)
		}
		r.Close()
	})
}

func TestHangupWhileDetachedComesWithAttach(t *testing.T) {
	l := runLoop(t, Config{})
	r, peer := newReader(t, l)
	on(t, l, func() {
		if err := r.Detach(); err != nil {
			t.Error(err)
		}
	})
	abort(peer)
	rounds(t, l, 20)
	on(t, l, r.Attach)
	for e := range r.events {
		if e == "hangup" {
			break
		}
	}
	on(t, l, func() {
		if r.Detach() == nil {
			t.Error("Detach after a hang-up: no error")
		}
		r.Close()
	})
}

// abort closes with RST, which epoll reports whatever the interest.
func abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// TestReleaseLeavesTheConnection: whoever has a copy of the descriptor goes on with it.
func TestReleaseLeavesTheConnection(t *testing.T) {
	from, to := runLoop(t, Config{}), runLoop(t, Config{})
	for range 50 {
		r, peer := newReader(t, from)
		var copied int
		on(t, from, func() {
			if err := r.Detach(); err != nil {
				t.Error(err)
			}
			var err error
			if copied, err = unix.FcntlInt(uintptr(r.SysFD()), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				t.Error(err)
			}
			r.SetInterest(true, true)
			r.Release()
			r.Release()
		})
		heir := &reader{events: make(chan string, 16)}
		unix.Write(peer, []byte("still there?"))
		on(t, to, func() {
			if err := to.Register(&heir.FD, copied, heir); err != nil {
				t.Error(err)
			}
		})
		<-heir.events
		on(t, to, func() {
			if _, err := heir.Write([]byte("yes")); err != nil {
				t.Error(err)
			}
			heir.Close()
		})
		answer := make([]byte, 8)
		if n, err := unix.Read(peer, answer); err != nil || string(answer[:n]) != "yes" {
			t.Errorf("the peer reads %q, %v, want yes", answer[:max(n, 0)], err)
		}
		unix.Close(peer)
	}
	rounds(t, from, 10)
}
