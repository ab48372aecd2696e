package topics

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// numbered is message i, of 4,900 bytes.
func numbered(i int) string { return fmt.Sprintf("%d %s", i, strings.Repeat("x", 4880)) }

// flood publishes messages first to last-1, no faster than fast reads them.
func flood(t *testing.T, h *Hub, name string, first, last int, fast *client) {
	t.Helper()
	for i := first; i < last; i++ {
		publish(t, h, name, numbered(i))
		fast.want(numbered(i))
	}
}

func policy(p SlowPolicy, cfg Config) Config {
	cfg.Slow = []SlowRule{{"room", p}}
	return cfg
}

// Who falls behind by no more than is kept gets all, and does not delay others.
func TestSlowSubscriberCatchesUp(t *testing.T) {
	hub, s := start(t, Config{RetainMessages: 2000, RetainBytes: 8 << 20}, narrow)
	slow, fast := dialNarrow(t, s).sub("room", "also"), dial(t, s).sub("room")
	fast2 := dial(t, s).sub("also")
	flood(t, hub, "room", 0, 300, fast)
	flood(t, hub, "also", 1000, 1300, fast2)
	flood(t, hub, "room", 300, 600, fast)
	if hub.retained.Load() == 0 {
		t.Fatal("nothing is kept: the subscriber is not slow")
	}
	room, also := 0, 1000
	for room < 600 || also < 1300 {
		switch _, m := slow.frame(); m {
		case numbered(room):
			room++
		case numbered(also):
			also++
		default:
			t.Fatalf("got %.20q, want number %d or %d", m, room, also)
		}
	}
	eventually(t, "nothing is kept", func() bool {
		return hub.retained.Load() == 0 && hub.pending.Load() == 0
	})
	publish(t, hub, "room", "live")
	slow.want("live")
}

func TestSlowClose(t *testing.T) {
	hub, s := start(t, policy(SlowClose, Config{RetainMessages: 10}), narrow)
	c, fast := dialNarrow(t, s).sub("room"), dial(t, s).sub("room")
	flood(t, hub, "room", 0, 300, fast)
	for i := 0; ; i++ {
		op, m := c.frame()
		if op == ws.OpClose {
			if m != "\x03\xf5slow consumer: reconnect and recover" {
				t.Errorf("got the Close %q, want 1013", m)
			}
			break
		}
		if m != numbered(i) {
			t.Fatalf("got %.20q, want number %d", m, i)
		}
	}
	c.conn.Close()
	eventually(t, "nothing is kept", func() bool {
		return hub.Subscribers("room") == 1 && hub.retained.Load() == 0
	})
}

func TestSlowLatest(t *testing.T) {
	hub, s := start(t, policy(SlowLatest, Config{RetainMessages: 10}), narrow)
	c, fast := dialNarrow(t, s).sub("room"), dial(t, s).sub("room")
	flood(t, hub, "room", 0, 300, fast)
	i := 0
	for {
		_, m := c.frame()
		if m == numbered(299) {
			break
		}
		if m != numbered(i) {
			t.Fatalf("got %.20q, want number %d or the latest", m, i)
		}
		i++
	}
	if i > 200 {
		t.Errorf("got %d messages: the subscriber is not slow", i)
	}
	flood(t, hub, "room", 300, 305, fast)
	for i := 300; i < 305; i++ {
		c.want(numbered(i))
	}
}

func TestSlowDrop(t *testing.T) {
	for name, bounds := range map[string]Config{
		"messages": {RetainMessages: 10},
		"bytes":    {RetainBytes: 60_000},
		"in all":   {MaxRetained: 60_000},
	} {
		t.Run(name, func(t *testing.T) {
			hub, s := start(t, policy(SlowDrop, bounds), narrow)
			c, fast := dialNarrow(t, s).sub("room"), dial(t, s).sub("room")
			flood(t, hub, "room", 0, 300, fast)
			if n := hub.retained.Load(); n > 60_000 {
				t.Errorf("%d bytes are kept", n)
			}
			next, gaps := 0, 0
			for next < 300 {
				_, m := c.frame()
				if m == numbered(next) {
					next++
					continue
				}
				var gap struct {
					Type, Topic string
					Missed      int
				}
				if json.Unmarshal([]byte(m), &gap) != nil || gap.Type != "gap" || gap.Topic != "room" ||
					gap.Missed < 1 {
					t.Fatalf("got %.50q, want number %d or a gap", m, next)
				}
				next += gap.Missed
				gaps++
			}
			if gaps != 1 {
				t.Errorf("got %d gaps, want one", gaps)
			}
			flood(t, hub, "room", 300, 302, fast)
			c.want(numbered(300), numbered(301))
		})
	}
}

// A client that recovers a long history and reads slowly gets all of it, and then what is new.
func TestSlowRecovery(t *testing.T) {
	hub, s := start(t, Config{History: keep(500, 1e12), RetainMessages: 1000, RetainBytes: 8 << 20},
		narrow)
	fast := dial(t, s)
	begin := fast.position("kept")
	flood(t, hub, "kept", 0, 400, fast)
	c := dialNarrow(t, s)
	c.do("from kept %s", begin)
	flood(t, hub, "kept", 400, 700, fast)
	p, _ := ParsePosition(begin)
	if _, m := c.frame(); !strings.HasPrefix(m, fmt.Sprintf("from %x:", p.Epoch)) ||
		!strings.Contains(m, "true") {
		t.Fatalf("got %q", m)
	}
	for i := range 700 {
		c.want(numbered(i))
	}
	eventually(t, "nothing is kept", func() bool { return hub.retained.Load() == 0 })
}

// Clients that leave while they are behind, or recovering, leave nothing.
func TestSlowSubscriberLeaves(t *testing.T) {
	hub, s := start(t, Config{History: keep(500, 1e12), RetainMessages: 1000, RetainBytes: 8 << 20},
		narrow)
	fast := dial(t, s)
	begin := fast.position("kept")
	flood(t, hub, "kept", 0, 200, fast)
	var slow []*client
	for i := range 6 {
		c := dialNarrow(t, s)
		if i%2 == 0 {
			c.sub("kept")
		} else {
			c.do("from kept %s", begin)
			c.frame()
		}
		slow = append(slow, c)
	}
	flood(t, hub, "kept", 200, 400, fast)
	eventually(t, "something is kept", func() bool { return hub.retained.Load() > 0 })
	for i, c := range slow {
		if i < 3 {
			c.do("unsub kept")
		}
		c.conn.Close()
	}
	eventually(t, "nothing is kept", func() bool {
		return hub.Subscribers("kept") == 1 && hub.retained.Load() == 0
	})
	onLoop(hub, func(l *Loop) {
		lo := l.locals["kept"]
		if lo.behind != 0 || len(l.recoveries) != 0 || len(l.conns) != 1 {
			t.Errorf("got %d behind, %d recoveries, %d connections", lo.behind, len(l.recoveries),
				len(l.conns))
		}
	})
}

func TestPublishersAreHeldBack(t *testing.T) {
	const size = 1000
	for name, c := range map[string]struct {
		cfg  Config
		room int
	}{
		"messages of a topic": {Config{MaxBacklog: 7}, 7},
		"bytes of all":        {Config{MaxPending: 5 * size}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			hub, s := start(t, c.cfg, gateway.Config{Loops: 1})
			in := dial(t, s).sub("room")
			text := strings.Repeat("x", size-overhead-4)
			onLoop(hub, func(*Loop) { // which is kept from its turns
				for i := range c.room + 2 {
					err := hub.Publish("room", Message{Payload: []byte(text)})
					if full := i >= c.room; full != errors.Is(err, ErrBusy) {
						t.Errorf("message %d: got %v", i+1, err)
					}
				}
			})
			for range c.room {
				in.want(text)
			}
			eventually(t, "there is room", func() bool { return hub.Publish("room", Message{}) == nil })
			in.want("")
		})
	}
}

// One turn of a loop sends no more than it may, and others have their turn before the rest.
func TestTurnsAreBounded(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{Loops: 1})
	const crowd = 600
	var in []*client
	for range crowd {
		in = append(in, dial(t, s).sub("crowd"))
	}
	few := dial(t, s).sub("few")
	onLoop(hub, func(l *Loop) {
		_ = l.Publish(nil, "crowd", Message{Payload: []byte("x")})
		_ = l.Publish(nil, "few", Message{Payload: []byte("y")})
		l.turn()
		if left := l.locals["crowd"].cursor; left < crowd-turnRecipients || left == 0 {
			t.Errorf("%d of %d wait after a turn, want at least %d", left, crowd, crowd-turnRecipients)
		}
		if l.locals["few"].log.n != 0 { // a machine was so slow that the time of the turn was up
			l.turn()
		}
		if n, left := l.locals["few"].log.n, l.locals["crowd"].cursor; n != 0 || left == 0 {
			t.Errorf("the small topic waits for the large one: %d messages, with %d to go", n, left)
		}
	})
	few.want("y")
	for _, c := range in {
		c.want("x")
	}
	// Subscribers that leave in the middle of a pass keep nobody from getting the message, once.
	onLoop(hub, func(l *Loop) {
		_ = l.Publish(nil, "crowd", Message{Payload: []byte("z")})
		lo := l.locals["crowd"]
		lo.pass(100, time.Now().Add(patience))
		for _, i := range []int{0, 599, 250, 500, 10, 498} {
			i = min(i, len(lo.entries)-1)
			l.Unsubscribe(lo.entries[i].conn, "crowd")
		}
	})
	eventually(t, "the end of the pass", func() bool { return hub.pending.Load() == 0 })
	got := 0
	for _, c := range in {
		c.do("say end")
		for _, m := c.frame(); m != "end"; _, m = c.frame() {
			got++
		}
	}
	left := 0
	onLoop(hub, func(l *Loop) { left = len(l.locals["crowd"].entries) })
	if left != crowd-6 || got < left || got > crowd {
		t.Errorf("%d messages came for %d subscribers", got, left)
	}
}

// A subscriber that is overtaken has room again while a pass is under way, and more was published
// since the pass began: what its policy skips to lies beyond the end of the pass.
func TestOvertakenBeyondThePass(t *testing.T) {
	for policy := range slowPolicies {
		hub, err := New(Config{Logger: quiet, Slow: []SlowRule{{"*", policy}}})
		if err != nil {
			t.Fatal(err)
		}
		l := hub.ForLoop(func(func()) bool { return true })
		if err := l.Subscribe(new(gateway.Conn), "room"); err != nil {
			t.Fatal(err)
		}
		lo := l.locals["room"]
		for range 3 {
			publish(t, hub, "room", "old")
			l.take()
			l.turn() // a pass, which lets go of it
		}
		lo.entries[0].next = 1
		for range 3 {
			publish(t, hub, "room", "new")
		}
		l.take()
		l.bring(lo, 0, 4)
		if got := lo.entries[0].next; got < 4 || got > lo.log.head() {
			t.Errorf("%v: goes on with message %d of %d", policy, got, lo.log.head())
		}
	}
}
