package gateway

import (
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/gatewaytest"
)

// storming is an App whose answers come when it is told, as those of a store that all clients ask
// at once.
type storming struct {
	immortal
	post    func(fn func()) bool
	asked   []*Conn // of the loop
	waiting atomic.Int64
	answers bool // of the loop
}

func (a *storming) ForLoop(post func(fn func()) bool) Handler { a.post = post; return a }

func (a *storming) Open(c *Conn, r *Request) {
	a.waiting.Add(1)
	if a.answers {
		a.post(func() { a.accept(c) })
		return
	}
	a.asked = append(a.asked, c)
}

func (a *storming) accept(c *Conn) {
	a.waiting.Add(-1)
	c.Accept("")
}

// storm has so many clients ask at once, and waits until the Handler has all that it is to have.
func storm(t *testing.T, s *Server, app *storming, clients int) []*wire {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < uint64(2*clients+1000) {
		t.Skipf("a limit of %d open files: %v", limit.Cur, err)
	}
	all := make([]*wire, clients)
	for i := range all {
		all[i] = dial(t, s)
		io.WriteString(all[i], upgradeRequest("/ws"))
	}
	gatewaytest.Await(t, "requests", func() bool { return app.waiting.Load() >= openingsLeast })
	return all
}

// More requests than the Handler will answer in time wait in the kernel's queue, not with the
// Handler; and all of them are answered when it answers.
func TestStormWaitsOutside(t *testing.T) {
	const inRound = 1024 // those that the loop has accepted by then come on top
	app := &storming{}
	s := serve(t, Config{Loops: 1, HandshakeTimeout: testPatience}, app)
	all := storm(t, s, app, openingsLeast+2000)
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		if n := app.waiting.Load(); n > openingsLeast+inRound {
			t.Fatalf("%d requests wait for the Handler, want some %d", n, openingsLeast)
		}
	}
	app.post(func() {
		app.answers = true
		for _, c := range app.asked {
			app.accept(c)
		}
	})
	for i, c := range all {
		if resp := c.response(); resp.StatusCode != 101 {
			t.Fatalf("client %d: got %s", i, resp.Status)
		}
		c.Close()
	}
}

// A storm of clients that have given up, and a Handler that never answers them, keep others waiting
// for HandshakeTimeout and no longer.
func TestStormThatGivesUp(t *testing.T) {
	app := &storming{}
	s := serve(t, Config{Loops: 1, HandshakeTimeout: time.Second}, app)
	all := storm(t, s, app, openingsLeast+500)
	for _, c := range all {
		c.Close()
	}
	app.post(func() { app.answers = true })
	open101(t, s, "/ws").Close()
}
