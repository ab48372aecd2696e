package count

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
	"sluice/gateway/gatewaytest"
	"sluice/sessions"
)

func TestTwoConnectionsOnOneSessionAddUp(t *testing.T) {
	store := memory(t)
	s := serve(t, gateway.Config{Loops: 2}, App{Store: store})
	const clients, each = 6, 300
	id := sessions.NewID()
	replies := make([][]int, clients)
	var wg sync.WaitGroup
	for i := range clients {
		c := gatewaytest.Open(t, s, "/ws?session_id="+id.String())
		if got := c.Next(); !gatewaytest.WelcomePattern.MatchString(got) ||
			!strings.Contains(got, id.String()) {
			t.Fatalf("got %q, want a welcome to %s", got, id)
		}
		wg.Go(func() {
			go func() {
				for range each {
					c.Write(gatewaytest.Text("x"))
				}
			}()
			for range each {
				var n int
				if got := c.Next(); !scan(got, `text {"count":%d}`, &n) {
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

func TestNoWelcome(t *testing.T) {
	s := serve(t, gateway.Config{}, App{Store: memory(t), NoWelcome: true})
	c := gatewaytest.Open(t, s, "/ws")
	c.Write(gatewaytest.Text("a"))
	c.Expect(`text {"count":1}`)
}

func TestFramesBehindTheRequestAreCountedAfterTheWelcome(t *testing.T) {
	s := serve(t, gateway.Config{}, App{Store: memory(t)})
	c := gatewaytest.Dial(t, s)
	c.Write(
		append(
			[]byte(gatewaytest.Upgrade("/ws/chat/")),
			wireOf(
				gatewaytest.Text("a"),
				gatewaytest.Text("b"),
				gatewaytest.CloseFrame(1000, ""),
			)...),
	)
	c.Response()
	c.Welcome(0, false)
	c.Expect(
		`text {"count":1}`,
		`text {"count":2}`,
		`text {"bye":true,"total":2}`,
		"close 1000",
		"EOF",
	)
}

func TestStoreThatIsFull(t *testing.T) {
	store := sessions.NewMemory(sessions.MemoryConfig{MaxSessions: 1})
	t.Cleanup(func() { store.Close(context.Background()) })
	s := serve(t, gateway.Config{}, App{Store: store})
	first := gatewaytest.Open(t, s, "/ws")
	first.Welcome(0, false)
	first.Write(gatewaytest.Text("a"))
	first.Expect(`text {"count":1}`)
	c := gatewaytest.Dial(t, s)
	c.Write([]byte(gatewaytest.Upgrade("/ws/chat/")))
	if resp := c.Response(); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %v, want 503 with Retry-After", resp.StatusCode, resp.Header)
	}
}

func TestRepliesComeWithTheAcknowledgement(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, gateway.Config{}, App{Store: store})
	c, a := store.ask(t, s, "/ws")
	if a.resume {
		t.Error("a new session was looked up")
	}
	a.attach(0, false)
	c.Response()
	c.Welcome(0, false)

	c.Write(wireOf(gatewaytest.Text("a"), gatewaytest.Text("b"), gatewaytest.Text("c")))
	a.waitPending(t, 3)
	c.Silent()
	a.acknowledge(1, 2)
	c.Expect(`text {"count":1}`, `text {"count":2}`)
	c.Silent()
	a.acknowledge(7, 7) // others count on this session too
	c.Expect(`text {"count":7}`)
	c.Silent()
}

// At the bound reading pauses, and goes on when there is room.
func TestReadingPausesWhenFull(t *testing.T) {
	const room = 10
	store := newLazyStore(room)
	s := serve(t, gateway.Config{Heartbeat: -1}, App{Store: store})
	c, a := store.open(t, s, 0)
	for i := range 100 {
		c.Write(gatewaytest.Text(fmt.Sprint("in segments of their own ", i)))
	}
	a.waitPending(t, room)
	a.on(func() {})
	a.waitPending(t, room) // not one more
	for first := 1; first <= 100; first += 5 {
		a.acknowledge(uint64(first), uint64(first+4))
		for i := first; i < first+5; i++ {
			c.Expect(fmt.Sprintf(`text {"count":%d}`, i))
		}
		a.waitPending(t, min(room, 100-first-4))
	}
	c.Silent()
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
			s := serve(t, gateway.Config{}, App{Store: store})
			c, a := store.open(t, s, 40)
			c.Write(
				wireOf(
					gatewaytest.Text("a"),
					gatewaytest.Text("b"),
					gatewaytest.CloseFrame(3001, ""),
				),
			)
			wait(t, "it is detached", a.detached)
			a.acknowledge(41, 42) // what is pending is answered before the bye
			c.Expect(`text {"count":41}`, `text {"count":42}`)
			a.on(func() { a.leaving.Detached(42, tc.err) })
			c.Expect(tc.want...)
		})
	}
}

// A bye that takes longer than CloseTimeout is left out.
func TestByeThatComesTooLate(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, gateway.Config{CloseTimeout: 50 * time.Millisecond}, App{Store: store})
	c, a := store.open(t, s, 40)
	c.Write(wireOf(gatewaytest.Text("a"), gatewaytest.CloseFrame(1000, "")))
	wait(t, "it is detached", a.detached)
	c.Expect("close 1000", "EOF")
	a.acknowledge(41, 41)
	a.on(func() { a.leaving.Detached(41, nil) })
	c.Close()
	gatewaytest.Await(t, "it is gone", func() bool { return s.Connections() == 0 })
	a.on(func() { a.leaving.Acknowledged(42, 42) }) // nothing may come of that
}

func TestStoreThatCannotAnswer(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, gateway.Config{}, App{Store: store})
	for _, tc := range []struct {
		err    error
		reason string
	}{
		{sessions.ErrUnavailable, "store"}, {fmt.Errorf("%w: refused", sessions.ErrUnavailable), "store"},
		{sessions.ErrFull, "full"}, {fmt.Errorf("%w: at its bound", sessions.ErrFull), "full"},
	} {
		n := counting(t, s, fmt.Sprintf(`sluice_handshakes_rejected_total{reason=%q}`, tc.reason))
		c, a := store.ask(t, s, "/ws?session_id="+sessions.NewID().String())
		if !a.resume {
			t.Error("a session asked for was not looked up")
		}
		a.on(func() { a.owner.Attached(nil, 0, false, tc.err) })
		resp := c.Response()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || n() != 1 {
			t.Errorf(
				"%v: got %d %v, counted %d times, want 503 with Retry-After, once",
				tc.err,
				resp.StatusCode,
				resp.Header,
				n(),
			)
		}
		c.Close()
	}
}

// A client that does not wait leaves no attachment behind, whatever it did not wait for.
func TestClientThatDoesNotWait(t *testing.T) {
	store := newLazyStore(3)
	s := serve(t, gateway.Config{}, App{Store: store})
	gone := func() { gatewaytest.Await(t, "it is gone", func() bool { return s.Connections() == 0 }) }

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
		s := serve(t, gateway.Config{HandshakeTimeout: time.Second}, App{Store: store})
		c, a := store.ask(t, s, "/ws")
		if resp := c.Response(); resp.StatusCode != 503 {
			t.Errorf("got %d, want 503", resp.StatusCode)
		}
		c.Close()
		gatewaytest.Await(t, "it is gone", func() bool { return s.Connections() == 0 })
		a.attach(0, false)
		wait(t, "it is detached", a.detached)
	})
	t.Run("for its acknowledgements", func(t *testing.T) {
		c, a := store.open(t, s, 0)
		c.Write(
			wireOf(
				gatewaytest.Text("a"),
				gatewaytest.Text("b"),
				gatewaytest.Text("c"),
				gatewaytest.Text("not read"),
			),
		)
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
		s := serve(t, gateway.Config{CloseTimeout: 100 * time.Millisecond}, App{Store: store})
		c, a := store.open(t, s, 0)
		c.Write(gatewaytest.CloseFrame(1000, ""))
		wait(t, "it is detached", a.detached)
		c.Close()
		gatewaytest.Await(t, "it is gone", func() bool { return s.Connections() == 0 })
		a.on(func() { a.leaving.Detached(0, nil) })
	})
}

// A session that is connected and silent is kept alive at half of its life.
func TestSilentSessionIsTouched(t *testing.T) {
	store := newLazyStore(10)
	s := serve(t, gateway.Config{}, App{Store: store, SessionTTL: 40 * time.Millisecond})
	_, a := store.open(t, s, 0)
	var touched int
	gatewaytest.Await(
		t,
		"it is touched again and again",
		func() bool { a.on(func() { touched = a.touched }); return touched >= 3 },
	)
}

// A drain ends with the last commits, and every client is told its total.
func TestDrainWaitsForTheStore(t *testing.T) {
	store := newLazyStore(10)
	s := serve(t, gateway.Config{DrainSpread: -1}, App{Store: store})
	c, a := store.open(t, s, 0)
	c.Write(gatewaytest.Text("a"))
	a.waitPending(t, 1)
	done := drain(t, s)
	wait(t, "it is detached", a.detached)
	a.acknowledge(1, 1)
	a.on(func() { a.leaving.Detached(1, nil) })
	c.Expect(`text {"count":1}`, `text {"bye":true,"total":1}`, "close 1001")
	c.Write(gatewaytest.CloseFrame(1001, ""))
	c.Expect("EOF")
	c.Close()
	ended(t, done)
}

// A drain finds connections that are paused because the store does not keep up, and can still end
// them.
func TestDrainWhileFull(t *testing.T) {
	store := newLazyStore(2)
	s := serve(t, gateway.Config{DrainSpread: -1}, App{Store: store})
	c, a := store.open(t, s, 0)
	c.Write(wireOf(gatewaytest.Text("a"), gatewaytest.Text("b"), gatewaytest.Text("c")))
	a.waitPending(t, 2)
	done := drain(t, s)
	wait(t, "it is detached", a.detached)
	a.acknowledge(1, 2)
	a.on(func() { a.leaving.Detached(2, nil) })
	c.Expect(`text {"count":1}`, `text {"count":2}`, `text {"bye":true,"total":2}`, "close 1001")
	c.Write(
		gatewaytest.CloseFrame(1001, ""),
	) // behind a message that was kept back and is not counted any more
	c.Expect("EOF")
	c.Close()
	ended(t, done)
}

// A store that refuses a session ends its connections, also one that is paused for what it has
// pending.
func TestStoreGivesUpASession(t *testing.T) {
	for code, err := range map[string]error{
		"close 1013": fmt.Errorf("too many: %w", sessions.ErrFull),
		"close 1011": fmt.Errorf("foreign: %w", sessions.ErrUnavailable),
		"close 1008": fmt.Errorf("another's: %w", sessions.ErrForbidden),
	} {
		store := newLazyStore(1)
		s := serve(t, gateway.Config{}, App{Store: store})
		c, a := store.open(t, s, 5)
		c.Write(gatewaytest.Text("counted by nobody"))
		a.waitPending(t, 1)
		a.on(func() { a.owner.Detached(0, err) })
		c.Expect(code)
		select {
		case <-a.detached:
			t.Error("detached from what the store gave up")
		default:
		}
		c.Write(gatewaytest.CloseFrame(1000, ""))
		c.Expect("EOF")
	}
}

// Somebody else's session is 403, whatever the client may do about it.
func TestSessionOfAnother(t *testing.T) {
	store := newLazyStore(100)
	s := serve(t, gateway.Config{}, App{Store: store})
	c, a := store.ask(t, s, "/ws?session_id="+sessions.NewID().String())
	a.on(func() { a.owner.Attached(nil, 0, false, sessions.ErrForbidden) })
	if resp := c.Response(); resp.StatusCode != 403 {
		t.Errorf("got %d, want 403", resp.StatusCode)
	}
}

// With keys the gateway makes the ids, resumes what was made with one of them, also by an earlier
// key, and takes no others.
func TestSessionKeys(t *testing.T) {
	keys := func(texts ...string) *sessions.IDKeys {
		var all [][]byte
		for _, text := range texts {
			all = append(all, []byte(strings.Repeat(text, 32)))
		}
		k, err := sessions.NewIDKeys(all[0], all[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	store := memory(t)
	old := serve(t, gateway.Config{}, App{Store: store, Keys: keys("a")})
	rotated := serve(t, gateway.Config{}, App{Store: store, Keys: keys("b", "a")})
	other := serve(t, gateway.Config{}, App{Store: store, Keys: keys("c")})
	c := gatewaytest.Open(t, old, "/ws")
	id := c.Welcome(0, false)
	c.Write(gatewaytest.Text("x"))
	c.Expect(`text {"count":1}`)
	gatewaytest.Open(t, rotated, "/ws?session_id="+id).Welcome(1, true)
	for _, refused := range []struct {
		s  *gateway.Server
		id string
	}{{other, id}, {old, sessions.NewID().String()}, {rotated, sessions.NewID().String()}} {
		c := gatewaytest.Dial(t, refused.s)
		c.Write([]byte(gatewaytest.Upgrade("/ws?session_id=" + refused.id)))
		if resp := c.Response(); resp.StatusCode != 400 {
			t.Errorf("%s: got %d, want 400", refused.id, resp.StatusCode)
		}
	}
}

func TestCountAndResume(t *testing.T) {
	s := serve(t, gateway.Config{}, App{Store: memory(t)})
	c := gatewaytest.Open(t, s, "/ws/chat/")
	id := c.Welcome(0, false)
	c.Write(append(gatewaytest.Text("a"), gatewaytest.Text("b")...))
	c.Write(gatewaytest.Frame(true, ws.OpBinary, "c"))
	c.Expect(`text {"count":1}`, `text {"count":2}`, `text {"count":3}`)
	c.Write(gatewaytest.CloseFrame(1000, "done"))
	c.Expect(`text {"bye":true,"total":3}`, "close 1000", "EOF")

	c = gatewaytest.Open(t, s, "/ws?session_id="+id)
	if got := c.Welcome(3, true); got != id {
		t.Errorf("resumed %s, asked for %s", got, id)
	}
	c.Write(gatewaytest.Text("d"))
	c.Expect(`text {"count":4}`)
}

// No more sessions begin in a second than NewSessionRate allows; a session that is there is not
// one.
func TestNewSessionRate(t *testing.T) {
	const rate = 5
	s := serve(t, gateway.Config{Loops: 1}, App{Store: memory(t), NewSessionRate: rate})
	refused := counting(t, s, `sluice_handshakes_rejected_total{reason="session_rate"}`)
	for time.Now().Nanosecond() > 200_000_000 { // all of it within one second of the clock
		time.Sleep(10 * time.Millisecond)
	}
	accepted := 0
	for range 3 * rate {
		c := gatewaytest.Dial(t, s)
		io.WriteString(c, gatewaytest.Upgrade("/ws/chat/"))
		if resp := c.Response(); resp.StatusCode == 101 {
			accepted++
		} else if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
			t.Fatalf("got %d, want 503 with Retry-After", resp.StatusCode)
		}
	}
	// A slow machine may need more than a second.
	if accepted < rate || accepted+refused() != 3*rate || refused() == 0 {
		t.Errorf("%d began and %d were refused, want %d and %d", accepted, refused(), rate, 2*rate)
	}
}

// A client that ends its side with messages on their way gets all of its replies and the bye.
func TestHalfCloseIsServedToTheEnd(t *testing.T) {
	store := newLazyStore(1000)
	s := serve(t, gateway.Config{Loops: 1}, App{Store: store})
	c, a := store.ask(t, s, "/ws")
	c.Write(bytes.Repeat(gatewaytest.Text("x"), 3))
	c.Conn.(*net.TCPConn).CloseWrite()
	// The gateway's kernel has the FIN when it has acknowledged it, and the loop soon after.
	gatewaytest.Await(t, "the end has come", func() bool { return tcpState(t, c.Conn) == finWait2 })
	a.on(func() {})
	a.attach(7, true)
	if resp := c.Response(); resp.StatusCode != 101 {
		t.Fatalf("got %d, want 101", resp.StatusCode)
	}
	if got := c.Next(); !strings.Contains(got, `"count":7`) {
		t.Fatalf("got %q, want the welcome", got)
	}
	wait(t, "it is detached", a.detached)
	a.on(func() { a.leaving.Acknowledged(8, 10); a.leaving.Detached(10, nil) })
	for n := 8; n <= 10; n++ {
		c.Expect(fmt.Sprintf(`text {"count":%d}`, n))
	}
	c.Expect(`text {"bye":true,"total":10}`, "close", "EOF")
	gatewaytest.Await(t, "it is gone", func() bool { return s.Connections() == 0 })
}
