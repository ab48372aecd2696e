package count

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sluice/gateway"
	"sluice/gateway/gatewaytest"
	"sluice/sessions"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak
// alone waits for less than half a second, which is too little on a loaded machine.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(20 * time.Second); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

// serve starts a gateway for one test, without heartbeats unless it asks for them.
func serve(t testing.TB, cfg gateway.Config, app App) *gateway.Server {
	t.Helper()
	cfg.Listen, cfg.Logger = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = -1 // the default's first comes at a random time, and now and then within the test
	}
	if cfg.HandshakeTimeout == 0 {
		cfg.HandshakeTimeout = gatewaytest.Patience
	}
	s, err := gateway.New(cfg, app)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func memory(t testing.TB) sessions.Store {
	store := sessions.NewMemory(sessions.MemoryConfig{})
	t.Cleanup(func() { store.Close(context.Background()) })
	return store
}

func wireOf(pieces ...[]byte) []byte { return bytes.Join(pieces, nil) }

// counting returns how much a counter of s grows from here on.
func counting(t testing.TB, s *gateway.Server, series string) func() int {
	read := func() (n int) {
		t.Helper()
		var b bytes.Buffer
		s.WriteMetrics(&b)
		for line := range bytes.Lines(b.Bytes()) {
			if scan(string(line), series+" %d", &n) {
				return n
			}
		}
		t.Fatalf("there is no series %s", series)
		return 0
	}
	before := read()
	return func() int { return read() - before }
}

// drain begins a drain and returns when the gateway has taken notice.
func drain(t testing.TB, s *gateway.Server) chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), gatewaytest.Patience)
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() { done <- s.Drain(ctx) }()
	gatewaytest.Await(t, "the gateway drains", func() bool { return s.Ready() != nil })
	return done
}

func ended(t testing.TB, done chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Drain: got %v, want nil", err)
		}
	case <-time.After(gatewaytest.Patience):
		t.Fatal("Drain does not return")
	}
}

func scan(s, format string, into ...any) bool {
	n, err := fmt.Sscanf(s, format, into...)
	return err == nil && n == len(into)
}

// lazyStore answers nothing by itself: the test says what is answered and when, from its own
// goroutine, as a store behind a network would.
type lazyStore struct {
	sessions.Store
	room     int // messages an attachment may have pending
	attached chan *lazyAttachment
}

func newLazyStore(room int) *lazyStore {
	return &lazyStore{room: room, attached: make(chan *lazyAttachment, 100)}
}

func (s *lazyStore) Ready() error { return nil }
func (s *lazyStore) Join(post func(fn func()) bool) sessions.Loop {
	return lazyLoop{store: s, post: post}
}

type lazyLoop struct {
	sessions.Loop
	store *lazyStore
	post  func(fn func()) bool
}

func (l lazyLoop) Attach(id sessions.ID, _ string, resume bool, o sessions.Owner) {
	l.store.attached <- &lazyAttachment{loop: l, owner: o, resume: resume, detached: make(chan struct{})}
}

// lazyAttachment is one connection's. Its fields belong to the loop.
type lazyAttachment struct {
	sessions.Attachment
	loop     lazyLoop
	owner    sessions.Owner
	resume   bool
	pending  int
	touched  int
	leaving  sessions.Owner
	detached chan struct{}
}

func (a *lazyAttachment) Add() (uint64, bool) { a.pending++; return 0, false }
func (a *lazyAttachment) Pending() int        { return a.pending }
func (a *lazyAttachment) Full() bool          { return a.pending >= a.loop.store.room }
func (a *lazyAttachment) Touch()              { a.touched++ }
func (a *lazyAttachment) Detach(o sessions.Owner) {
	a.leaving = o
	close(a.detached) // a second Detach panics
}

// on runs fn on the attachment's loop and waits for it.
func (a *lazyAttachment) on(fn func()) {
	done := make(chan struct{})
	a.loop.post(func() { fn(); close(done) })
	<-done
}

func (a *lazyAttachment) attach(total uint64, resumed bool) {
	a.on(func() { a.owner.Attached(a, total, resumed, nil) })
}

func (a *lazyAttachment) acknowledge(first, last uint64) {
	a.on(func() {
		a.pending -= int(last - first + 1)
		a.owner.Acknowledged(first, last)
	})
}

// waitPending waits until n messages wait for their acknowledgement.
func (a *lazyAttachment) waitPending(t testing.TB, n int) {
	t.Helper()
	var got int
	gatewaytest.Await(
		t,
		fmt.Sprintf("%d messages pending", n),
		func() bool { a.on(func() { got = a.pending }); return got == n },
	)
}

// wait waits for something that the gateway must do.
func wait(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(gatewaytest.Patience):
		t.Fatalf("not so after %v: %s", gatewaytest.Patience, what)
	}
}

// ask connects and waits for the gateway to ask the store.
func (s *lazyStore) ask(
	t testing.TB,
	server *gateway.Server,
	target string,
) (*gatewaytest.Client, *lazyAttachment) {
	t.Helper()
	c := gatewaytest.Dial(t, server)
	c.Write([]byte(gatewaytest.Upgrade(target)))
	select {
	case a := <-s.attached:
		return c, a
	case <-time.After(gatewaytest.Patience):
		t.Fatal("the store is not asked")
		return nil, nil
	}
}

func (s *lazyStore) open(
	t testing.TB,
	server *gateway.Server,
	total uint64,
) (*gatewaytest.Client, *lazyAttachment) {
	t.Helper()
	c, a := s.ask(t, server, "/ws?session_id="+sessions.NewID().String())
	a.attach(total, true)
	if resp := c.Response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	c.Welcome(int(total), true)
	return c, a
}

const finWait2 = 5 // TCP_FIN_WAIT2 of linux/tcp_states.h

func tcpState(t testing.TB, conn net.Conn) (state uint8) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Error(err)
			return
		}
		state = info.State
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}
