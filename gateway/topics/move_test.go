package topics

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// moveOne packs the subscriptions of the one subscriber of from, and has the one connection of to,
// which subscribed to "here" to be found, take them over.
func moveOne(t *testing.T, from, to *Hub) {
	t.Helper()
	var state []byte
	eventually(t, "the subscriber can move", func() (can bool) {
		onLoop(from, func(l *Loop) {
			for c := range l.conns {
				if can = l.CanMove(c); can {
					state = l.Pack(c, nil)
					l.DropAll(c)
				}
			}
		})
		return can
	})
	onLoop(to, func(l *Loop) {
		for c := range l.conns {
			if rest, err := l.Unpack(c, append(state, "rest"...)); err != nil || string(rest) != "rest" {
				t.Errorf("Unpack leaves %q, %v", rest, err)
			}
		}
	})
}

func export(t *testing.T, from, to *Hub) {
	t.Helper()
	if err := from.Export(to.Import); err != nil {
		t.Fatal(err)
	}
	from.Forget()
	to.Thaw()
}

// TestMove: what is published while subscribers move waits, and comes once and in order, also to
// those who publish on both sides; a client that comes back to the new process recovers what the
// old one kept.
func TestMove(t *testing.T) {
	cfg := Config{History: keep(10, time.Hour)}
	before, s1 := start(t, cfg, narrow)
	after, s2 := start(t, cfg, narrow)
	old := dial(t, s1).sub("room")
	at := old.position("kept")
	for _, m := range []string{"1", "2"} {
		publish(t, before, "kept", m)
		publish(t, before, "room", m)
		old.want(m, m)
	}
	before.Freeze()
	after.Freeze()
	moved := dial(t, s2).sub("here")
	publish(t, before, "kept", "3")
	publish(t, before, "room", "room")
	old.do("say nothing") // and nothing else comes
	old.want("nothing")
	moveOne(t, before, after)
	publish(t, before, "kept", "4")
	publish(t, after, "kept", "5")
	export(t, before, after)
	kept, room := "", ""
	for range 4 {
		if _, m := moved.frame(); m == "room" {
			room += m
		} else {
			kept += m
		}
	}
	if kept != "345" || room != "room" {
		t.Errorf("came %q and %q, want 345 in this order, and room", kept, room)
	}
	publish(t, after, "room", "6")
	moved.want("6")

	since, err := ParsePosition(at)
	if err != nil {
		t.Fatal(err)
	}
	back := dial(t, s2)
	back.do("from kept %s", at)
	back.want("from "+Position{since.Epoch, 5}.String()+" true 5", "1", "2", "3", "4", "5")
	for _, h := range []*Hub{before, after} {
		eventually(t, "nothing waits", func() bool {
			return h.pending.Load() == 0 && h.retained.Load() == 0
		})
	}
}

// TestMoveSlow: a subscriber that is behind takes with it what it was not sent.
func TestMoveSlow(t *testing.T) {
	cfg := Config{RetainMessages: 2000, RetainBytes: 8 << 20}
	before, s1 := start(t, cfg, narrow)
	after, s2 := start(t, cfg, narrow)
	fast := dial(t, s1).sub("room")
	slow := dialNarrow(t, s1).sub("room")
	flood(t, before, "room", 0, 400, fast)
	fast.do("unsub room")
	fast.want("unsubscribed room")
	before.Freeze()
	after.Freeze()
	moved := dial(t, s2).sub("here")
	moveOne(t, before, after)
	export(t, before, after)
	publish(t, after, "room", "live")
	n := 0
	for ; ; n++ {
		_, m := slow.frame()
		slow.do("say end")
		if m == "end" {
			break
		}
		if m != numbered(n) {
			t.Fatalf("got %.20q, want number %d", m, n)
		}
	}
	for ; n < 400; n++ {
		moved.want(numbered(n))
	}
	moved.want("live")
	eventually(t, "nothing is kept", func() bool {
		return before.retained.Load() == 0 && after.retained.Load() == 0 && after.pending.Load() == 0
	})
}

func TestFreezeIsBounded(t *testing.T) {
	const size = 1000
	hub, s := start(t, Config{MaxPending: 3 * (size + 4 + overhead)}, narrow)
	c := dial(t, s).sub("room")
	hub.Freeze()
	text := strings.Repeat("x", size)
	for range 3 {
		publish(t, hub, "room", text)
	}
	if err := hub.Publish("room", Message{Payload: []byte(text)}); err != ErrBusy {
		t.Errorf("beyond MaxPending: got %v, want ErrBusy", err)
	}
	hub.Thaw()
	c.want(text, text, text)
	eventually(t, "nothing waits", func() bool { return hub.pending.Load() == 0 })
	publish(t, hub, "room", "live")
	c.want("live")
}

// What publishers were answered for while the Hub was frozen comes, however little may wait for
// loops and in histories otherwise.
func TestThawKeepsPromises(t *testing.T) {
	const times = 50
	text := strings.Repeat("x", 1000)
	hub, s := start(t, Config{
		MaxBacklog: 2, MaxPending: (times + 1) * (len(text) + 4 + overhead), History: keep(1, time.Hour),
	}, gateway.Config{})
	list := []*client{dial(t, s).sub("room"), dial(t, s).sub("room"), dial(t, s).sub("room")}
	hub.Freeze()
	for i := range times {
		publish(t, hub, "room", text+strconv.Itoa(i))
	}
	hub.Thaw()
	for _, c := range list {
		for i := range times {
			c.want(text + strconv.Itoa(i))
		}
	}
	eventually(t, "nothing waits", func() bool { return hub.pending.Load() == 0 })
}

// FuzzMove: no bytes crash what reads another process' state.
func FuzzMove(f *testing.F) {
	m := encode(Message{Payload: []byte("hello")})
	f.Add(m.append(nil))
	f.Add(append([]byte{0x91, 0x92, 0xa1, 'a', 0x91}, m.append(nil)...))
	f.Add((&topic{name: "kept", epoch: 1, offset: 2}).appendHistory(nil))
	f.Add(append([]byte{0x93, 2, 0xa1, 'a'}, m.append(nil)...))
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Add(append([]byte{0x94, 3, 0xa1, 'a', 5}, m.append(nil)...))
	f.Add(append([]byte{0x91, 0x93, 4, 0xa1, 'a', 0x91}, m.append(nil)...))
	f.Add([]byte{0x91, 4})
	f.Add([]byte{0x92, 5, 0xa1, 'a', 0x92, 6, 0xa1, 't', 0x91, 7, 0x92, 7, 0xa1, 'c'})
	hub, err := New(Config{History: keep(3, time.Hour), Logger: quiet, MaxTopics: 100})
	if err != nil {
		f.Fatal(err)
	}
	l := hub.ForLoop(func(func()) bool { return true })
	f.Fuzz(func(t *testing.T, b []byte) {
		hub.Take(true)
		_ = hub.Import(b)
		hub.Forget()
		_, _ = l.Unpack(new(gateway.Conn), b)
		hub.Thaw()
	})
}
