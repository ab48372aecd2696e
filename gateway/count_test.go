package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/sessions"
)

func TestTwoConnectionsOnOneSessionAddUp(t *testing.T) {
	store := memory(t)
	s := serve(t, Config{Loops: 2}, Count{Store: store})
	const clients, each = 6, 300
	id := sessions.NewID()
	replies := make([][]int, clients)
	var wg sync.WaitGroup
	for i := range clients {
		c := open101(t, s, "/ws?session_id="+id.String())
		if got := c.next(); !welcomePattern.MatchString(got) || !strings.Contains(got, id.String()) {
			t.Fatalf("got %q, want a welcome to %s", got, id)
		}
		wg.Go(func() {
			go func() {
				for range each {
					c.Write(text("x"))
				}
			}()
			for range each {
				var n int
				if got := c.next(); !scan(got, `text {"count":%d}`, &n) {
					t.Errorf("got %q, want a count", got)
					return
				}
				replies[i] = append(replies[i], n)
			}
		})
	}
	wg.Wait()
	var all []int
	for i, r := range replies {
		if !slices.IsSorted(r) {
			t.Errorf("client %d: its counts are not in order", i)
		}
		all = append(all, r...)
	}
	slices.Sort(all)
	for i, n := range all {
		if n != i+1 {
			t.Fatalf("got %d as count %d of all, want each number once", n, i+1)
		}
	}
	if total, err := store.Lookup(context.Background(), id); total != clients*each || err != nil {
		t.Errorf("stored: got %d, %v, want %d", total, err, clients*each)
	}
}

func scan(s, format string, into ...any) bool {
	n, err := fmt.Sscanf(s, format, into...)
	return err == nil && n == len(into)
}

func TestNoWelcome(t *testing.T) {
	s := serve(t, Config{}, Count{Store: memory(t), NoWelcome: true})
	c := open101(t, s, "/ws")
	c.Write(text("a"))
	c.expect(`text {"count":1}`)
}

func TestFramesBehindTheRequestAreCountedAfterTheWelcome(t *testing.T) {
	s := serve(t, Config{}, nil)
	c := dial(t, s)
	c.Write(append([]byte(handshake(getChat)), wireOf(text("a"), text("b"), closeFrame(1000, ""))...))
	c.response()
	c.welcome(0, false)
	c.expect(`text {"count":1}`, `text {"count":2}`, `text {"bye":true,"total":2}`, "close 1000", "EOF")
}

func TestStoreThatIsFull(t *testing.T) {
	store := sessions.NewMemory(sessions.MemoryConfig{MaxSessions: 1})
	t.Cleanup(func() { store.Close(context.Background()) })
	s := serve(t, Config{}, Count{Store: store})
	first := open101(t, s, "/ws")
	first.welcome(0, false)
	first.Write(text("a"))
	first.expect(`text {"count":1}`)
	c := dial(t, s)
	c.Write([]byte(handshake(getChat)))
	if resp, _ := c.answer("GET"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
}

// lazyStore answers nothing by itself: the test says what is answered and when, from its own goroutine, as a store behind
// a network would.
type lazyStore struct {
	sessions.Store
	room     int // messages an attachment may have pending
	attached chan *lazyAttachment
}

func newLazyStore(room int) *lazyStore {
	return &lazyStore{room: room, attached: make(chan *lazyAttachment, 100)}
}

func (s *lazyStore) Ready() error                                 { return nil }
func (s *lazyStore) Join(post func(fn func()) bool) sessions.Loop { return lazyLoop{s, post} }

type lazyLoop struct {
	store *lazyStore
	post  func(fn func()) bool
}

func (l lazyLoop) Attach(id sessions.ID, resume bool, o sessions.Owner) {
	l.store.attached <- &lazyAttachment{loop: l, owner: o, resume: resume, detached: make(chan struct{})}
}

// lazyAttachment is one connection's. Its fields belong to the loop.
type lazyAttachment struct {
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
	await(t, fmt.Sprintf("%d messages pending", n), func() bool { a.on(func() { got = a.pending }); return got == n })
}

// wait waits for something that the gateway must do.
func wait(t testing.TB, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(testPatience):
		t.Fatalf("not so after %v: %s", testPatience, what)
	}
}

// ask connects and waits for the gateway to ask the store.
func (s *lazyStore) ask(t testing.TB, server *Server, target string) (*wire, *lazyAttachment) {
	t.Helper()
	c := dial(t, server)
	c.Write([]byte(handshake("GET " + target + " HTTP/1.1")))
	select {
	case a := <-s.attached:
		return c, a
	case <-time.After(testPatience):
		t.Fatal("the store is not asked")
		return nil, nil
	}
}

func (s *lazyStore) open(t testing.TB, server *Server, total uint64) (*wire, *lazyAttachment) {
	t.Helper()
	c, a := s.ask(t, server, "/ws?session_id="+sessions.NewID().String())
	a.attach(total, true)
	if resp := c.response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	c.welcome(int(total), true)
	return c, a
}

// silent insists that nothing has been sent: a Ping, which is answered in order, is answered first.
func (c *wire) silent() {
	c.t.Helper()
	c.Write(frame(true, ws.OpPing, "anything?"))
	c.expect("pong anything?")
}

func TestRepliesComeWithTheAcknowledgement(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, Config{}, Count{Store: store})
	c, a := store.ask(t, s, "/ws")
	if a.resume {
		t.Error("a new session was looked up")
	}
	a.attach(0, false)
	c.response()
	c.welcome(0, false)

	c.Write(wireOf(text("a"), text("b"), text("c")))
	a.waitPending(t, 3)
	c.silent()
	a.acknowledge(1, 2)
	c.expect(`text {"count":1}`, `text {"count":2}`)
	c.silent()
	a.acknowledge(7, 7) // others count on this session too
	c.expect(`text {"count":7}`)
	c.silent()
}

// At the bound reading pauses, and goes on when there is room.
func TestReadingPausesWhenFull(t *testing.T) {
	const room = 10
	store := newLazyStore(room)
	s := serve(t, Config{Heartbeat: -1}, Count{Store: store})
	c, a := store.open(t, s, 0)
	for i := range 100 {
		c.Write(text(fmt.Sprint("in segments of their own ", i)))
	}
	a.waitPending(t, room)
	a.on(func() {})
	a.waitPending(t, room) // not one more
	for first := 1; first <= 100; first += 5 {
		a.acknowledge(uint64(first), uint64(first+4))
		for i := first; i < first+5; i++ {
			c.expect(fmt.Sprintf(`text {"count":%d}`, i))
		}
		a.waitPending(t, min(room, 100-first-4))
	}
	c.silent()
}

func TestByeComesWhenDetached(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want []string
	}{
		{"stored", nil, []string{`text {"bye":true,"total":42}`, "close 3001", "EOF"}},
		{"not stored", errors.New("the store is gone"), []string{"close 3001", "EOF"}}, // no total that is not certain
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := newLazyStore(100)
			s := serve(t, Config{}, Count{Store: store})
			c, a := store.open(t, s, 40)
			c.Write(wireOf(text("a"), text("b"), closeFrame(3001, "")))
			wait(t, "it is detached", a.detached)
			a.acknowledge(41, 42) // what is pending is answered before the bye
			c.expect(`text {"count":41}`, `text {"count":42}`)
			a.on(func() { a.leaving.Detached(42, tc.err) })
			c.expect(tc.want...)
		})
	}
}

// A bye that takes longer than CloseTimeout is left out.
func TestByeThatComesTooLate(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, Config{CloseTimeout: 50 * time.Millisecond}, Count{Store: store})
	c, a := store.open(t, s, 40)
	c.Write(wireOf(text("a"), closeFrame(1000, "")))
	wait(t, "it is detached", a.detached)
	c.expect("close 1000", "EOF")
	a.acknowledge(41, 41)
	a.on(func() { a.leaving.Detached(41, nil) })
	c.Close()
	await(t, "it is gone", func() bool { return s.Connections() == 0 })
	a.on(func() { a.leaving.Acknowledged(42, 42) }) // nothing may come of that
	checkQuiet(t, s)
}

func TestStoreThatCannotAnswer(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, Config{}, Count{Store: store})
	for _, tc := range []struct {
		err    error
		reason string
	}{
		{sessions.ErrUnavailable, "store"}, {fmt.Errorf("%w: refused", sessions.ErrUnavailable), "store"},
		{sessions.ErrFull, "full"}, {fmt.Errorf("%w: at its bound", sessions.ErrFull), "full"},
	} {
		n := counting(rejected[tc.reason])
		c, a := store.ask(t, s, "/ws?session_id="+sessions.NewID().String())
		if !a.resume {
			t.Error("a session asked for was not looked up")
		}
		a.on(func() { a.owner.Attached(nil, 0, false, tc.err) })
		resp, _ := c.answer("GET")
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || n() != 1 {
			t.Errorf("%v: got %d %v, counted %d times, want 503 with Retry-After, once", tc.err, resp.StatusCode, resp.Header, n())
		}
		c.Close()
	}
}

// A client that does not wait leaves no attachment behind, whatever it did not wait for.
func TestClientThatDoesNotWait(t *testing.T) {
	store := newLazyStore(3)
	s := serve(t, Config{}, Count{Store: store})
	gone := func() { await(t, "it is gone", func() bool { return s.Connections() == 0 }) }

	t.Run("for the store's answer", func(t *testing.T) {
		c, a := store.ask(t, s, "/ws")
		c.Close()
		a.attach(0, false) // it may have ended its own side only, so the answer is awaited
		wait(t, "it is detached", a.detached)
		gone()
	})
	t.Run("and the answer is an error", func(t *testing.T) {
		c, a := store.ask(t, s, "/ws")
		c.Close()
		a.on(func() { a.owner.Attached(nil, 0, false, sessions.ErrUnavailable) })
		gone()
	})
	t.Run("because the answer came too late", func(t *testing.T) {
		s := serve(t, Config{}, Count{Store: store})
		c, a := store.ask(t, s, "/ws")
		overdue(s)
		if resp, _ := c.answer("GET"); resp.StatusCode != 503 {
			t.Errorf("got %d, want 503", resp.StatusCode)
		}
		c.Close()
		await(t, "it is gone", func() bool { return s.Connections() == 0 })
		a.attach(0, false)
		wait(t, "it is detached", a.detached)
	})
	t.Run("for its acknowledgements", func(t *testing.T) {
		c, a := store.open(t, s, 0)
		c.Write(wireOf(text("a"), text("b"), text("c"), text("not read")))
		a.waitPending(t, 3)
		c.Close()
		gone()
		wait(t, "it is detached", a.detached)
		a.acknowledge(1, 3)
		a.on(func() {
			if a.leaving != nil {
				t.Error("somebody waits for the last word to a client that is gone")
			}
		})
	})
	t.Run("for its bye", func(t *testing.T) {
		c, a := store.open(t, s, 0)
		c.Write(closeFrame(1000, ""))
		wait(t, "it is detached", a.detached)
		c.Close()
		gone()
		a.on(func() { a.leaving.Detached(0, nil) })
	})
	checkQuiet(t, s)
}

// A session that is connected and silent is kept alive at half of its life.
func TestSilentSessionIsTouched(t *testing.T) {
	store := newLazyStore(10)
	s := serve(t, Config{}, Count{Store: store, SessionTTL: 40 * time.Millisecond})
	_, a := store.open(t, s, 0)
	var touched int
	await(t, "it is touched again and again", func() bool { a.on(func() { touched = a.touched }); return touched >= 3 })
}

// A drain ends with the last commits, and every client is told its total.
func TestDrainWaitsForTheStore(t *testing.T) {
	store := newLazyStore(10)
	s := serve(t, Config{DrainSpread: -1}, Count{Store: store})
	c, a := store.open(t, s, 0)
	c.Write(text("a"))
	a.waitPending(t, 1)
	done := drain(t, s)
	wait(t, "it is detached", a.detached)
	a.acknowledge(1, 1)
	a.on(func() { a.leaving.Detached(1, nil) })
	c.expect(`text {"count":1}`, `text {"bye":true,"total":1}`, "close 1001")
	c.Write(closeFrame(1001, ""))
	c.expect("EOF")
	c.Close()
	ended(t, done)
}

// A drain finds connections that are paused because the store does not keep up, and can still end them.
func TestDrainWhileFull(t *testing.T) {
	store := newLazyStore(2)
	s := serve(t, Config{DrainSpread: -1}, Count{Store: store})
	c, a := store.open(t, s, 0)
	c.Write(wireOf(text("a"), text("b"), text("c")))
	a.waitPending(t, 2)
	done := drain(t, s)
	wait(t, "it is detached", a.detached)
	a.acknowledge(1, 2)
	a.on(func() { a.leaving.Detached(2, nil) })
	c.expect(`text {"count":1}`, `text {"count":2}`, `text {"bye":true,"total":2}`, "close 1001")
	c.Write(closeFrame(1001, "")) // behind a message that was kept back and is not counted any more
	c.expect("EOF")
	c.Close()
	ended(t, done)
}

// A store that refuses a session ends its connections, also one that is paused for what it has pending.
func TestStoreGivesUpASession(t *testing.T) {
	for code, err := range map[string]error{
		"close 1013": fmt.Errorf("too many: %w", sessions.ErrFull), "close 1011": fmt.Errorf("foreign: %w", sessions.ErrUnavailable),
	} {
		store := newLazyStore(1)
		s := serve(t, Config{}, Count{Store: store})
		c, a := store.open(t, s, 5)
		c.Write(text("counted by nobody"))
		a.waitPending(t, 1)
		a.on(func() { a.owner.Detached(0, err) })
		c.expect(code)
		select {
		case <-a.detached:
			t.Error("detached from what the store gave up")
		default:
		}
		c.Write(closeFrame(1000, ""))
		c.expect("EOF")
	}
}
