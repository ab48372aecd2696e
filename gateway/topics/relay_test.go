package topics

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// take begins a takeover of from by to.
func take(from, to *Hub) {
	to.Take(true)
	from.Give(to.Import, true)
}

// movers are clients of two gateways: what the first of a pair was is moved to the second.
type movers struct {
	t        *testing.T
	old, new *Hub
	to       *gateway.Server
	before   []*client
	after    []*client
}

func newMovers(t *testing.T, cfg Config, n int) *movers {
	m := &movers{t: t}
	var s1 *gateway.Server
	m.old, s1 = start(t, cfg, narrow)
	m.new, m.to = start(t, cfg, narrow)
	for i := range n {
		m.before = append(m.before, dial(t, s1).sub("room", fmt.Sprint("me-", i)))
		m.after = append(m.after, dial(t, m.to).sub(fmt.Sprint("me-", i)))
	}
	return m
}

// find is the connection of client i. On its loop.
func find(l *Loop, i int) *gateway.Conn {
	for c := range l.conns {
		if l.IsSubscribed(c, fmt.Sprint("me-", i)) {
			return c
		}
	}
	return nil
}

// pack takes client i off the old gateway.
func (m *movers) pack(i int) (state []byte) {
	m.t.Helper()
	eventually(m.t, "the subscriber can move", func() (can bool) {
		onLoop(m.old, func(l *Loop) {
			c := find(l, i)
			if can = l.CanMove(c); can {
				state = l.Pack(c, nil)
				l.DropAll(c)
			}
		})
		return can
	})
	return state
}

// unpack gives the client to the new gateway.
func (m *movers) unpack(i int, state []byte) {
	m.t.Helper()
	if err := m.old.Relayed(); err != nil {
		m.t.Fatal(err)
	}
	onLoop(m.new, func(l *Loop) {
		c := find(l, i)
		l.DropAll(c)
		if rest, err := l.Unpack(c, state); err != nil || len(rest) > 0 {
			m.t.Errorf("Unpack leaves %q, %v", rest, err)
		}
	})
}

// wantAll checks that client i got the numbers from 1 to n once and in order, first at the old
// gateway and then at the new one.
func (m *movers) wantAll(i, n int) {
	m.t.Helper()
	m.before[i].do("say end")
	next := 1
	for _, c := range []*client{m.before[i], m.after[i]} {
		for next <= n {
			_, text := c.frame()
			if text == "end" {
				break
			}
			if text != strconv.Itoa(next) {
				m.t.Fatalf("client %d got %.20q, want %d", i, text, next)
			}
			next++
		}
	}
}

// TestGive: publications go on while subscribers move, and each gets all of them once and in order,
// wherever it is.
func TestGive(t *testing.T) {
	const clients = 8
	m := newMovers(t, Config{}, clients)
	published := make(chan int)
	stop := make(chan struct{})
	go func() {
		n := 0
		defer func() { published <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			for m.old.Publish("room", Message{Payload: []byte(strconv.Itoa(n + 1))}) == ErrBusy {
				time.Sleep(time.Millisecond)
			}
			if n%8 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	take(m.old, m.new)
	var states [clients][]byte
	for i := range clients {
		time.Sleep(2 * time.Millisecond)
		states[i] = m.pack(i)
		if i > 0 { // as many are on their way at a time
			m.unpack(i-1, states[i-1])
		}
	}
	m.unpack(clients-1, states[clients-1])
	time.Sleep(2 * time.Millisecond)
	close(stop)
	n := <-published
	export(t, m.old, m.new)
	if n < 20 {
		t.Fatalf("only %d messages were published meanwhile", n)
	}
	publish(t, m.new, "room", strconv.Itoa(n+1))
	for i := range clients {
		m.wantAll(i, n+1)
	}
	for _, h := range []*Hub{m.old, m.new} {
		eventually(t, "nothing waits", func() bool {
			return h.pending.Load() == 0 && h.retained.Load() == 0
		})
	}
}

// TestArriveAmidPublications: what the loop has not looked at yet when a subscriber arrives is sent
// to it once, like what was passed on before.
func TestArriveAmidPublications(t *testing.T) {
	m := newMovers(t, Config{}, 2)
	take(m.old, m.new)
	m.unpack(0, m.pack(0))
	publish(t, m.old, "room", "1")
	m.before[1].want("1")
	state := m.pack(1)
	onLoop(m.new, func(l *Loop) {
		for _, text := range []string{"2", "3"} {
			publish(t, m.old, "room", text)
		}
		if err := m.old.Relayed(); err != nil {
			t.Error(err)
		}
		c := find(l, 1)
		l.DropAll(c)
		if _, err := l.Unpack(c, state); err != nil {
			t.Error(err)
		}
	})
	publish(t, m.old, "room", "4")
	m.after[0].want("1", "2", "3", "4")
	m.after[1].want("2", "3", "4")
	export(t, m.old, m.new)
	publish(t, m.new, "room", "5")
	m.after[1].want("5")
}

// TestGiveIsBounded: what the new process would have to keep is no more than MaxPending; the rest
// waits for the end, and comes in order.
func TestGiveIsBounded(t *testing.T) {
	const size, times = 1000, 12
	hub := Config{MaxPending: 4 * (size + 4 + overhead)}
	m := newMovers(t, hub, 1)
	take(m.old, m.new)
	state := m.pack(0)
	filler := strings.Repeat("x", size-2)
	taken := 0
	for i := range times {
		err := m.old.Publish("room", Message{Payload: fmt.Appendf(nil, "%02d%s", i, filler)})
		if err == nil {
			taken++
		} else if err != ErrBusy {
			t.Fatal(err)
		}
	}
	if taken != 8 { // as many were passed on as wait
		t.Errorf("%d of %d were taken, want 8", taken, times)
	}
	if err := m.old.deliver("room", encode(Message{Payload: []byte("of a broker")}), nil); err != ErrBusy {
		t.Errorf("what a broker brings then: %v, want ErrBusy", err)
	}
	m.unpack(0, state)
	export(t, m.old, m.new)
	for i := range taken {
		m.after[0].want(fmt.Sprintf("%02d%s", i, filler))
	}
	eventually(t, "nothing waits", func() bool { return m.new.pending.Load() == 0 })
}

// TestGiveComesToNothing: the old process goes on as if nothing had been.
func TestGiveComesToNothing(t *testing.T) {
	m := newMovers(t, Config{}, 1)
	m.old.Give(func([]byte) error { return fmt.Errorf("nobody is there") }, true)
	publish(t, m.old, "room", "1")
	m.before[0].want("1")
	if m.old.Relayed() == nil {
		t.Error("no error, want that of send")
	}
	publish(t, m.old, "room", "2")
	m.old.Thaw()
	publish(t, m.old, "room", "3")
	m.before[0].want("2", "3")
	eventually(t, "nothing waits", func() bool { return m.old.pending.Load() == 0 })
}

// TestTakeDropsWhatIsPassedOn: a broker brings each publication to both processes.
func TestTakeDropsWhatIsPassedOn(t *testing.T) {
	m := newMovers(t, Config{}, 1)
	m.new.Take(false)
	m.old.Give(m.new.Import, false)
	m.unpack(0, m.pack(0))
	both := func(text string) {
		for _, h := range []*Hub{m.old, m.new} {
			if err := h.deliver("room", encode(Message{Payload: []byte(text)}), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	both("1")
	publish(t, m.old, "room", "2")
	m.after[0].want("1", "2")
	if err := m.old.Export(m.new.Import); err != nil {
		t.Fatal(err)
	}
	both("3")
	m.new.Thaw()
	both("4")
	m.after[0].want("3", "4")
}

// TestGiveWithRedis: what Redis brings for those who have moved comes until the end by way of the
// old process, which stays subscribed though nobody is left there; what it never was subscribed to
// comes to the new one by its own subscription.
func TestGiveWithRedis(t *testing.T) {
	redis := startRedis(t)
	cfg := func() Config { return Config{Redis: quick(redis.url())} }
	m := newMovers(t, cfg(), 2)
	other, _ := start(t, cfg(), narrow)
	processes := func(topic string) string {
		return strings.TrimSpace(strings.TrimPrefix(redis.cli("pubsub", "numsub", "sluice:topic:"+topic),
			"sluice:topic:"+topic))
	}
	say := func(topic, text string) {
		t.Helper()
		if _, err := other.PublishWait(t.Context(), topic, Message{Payload: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the old process is subscribed", func() bool { return processes("room") == "1" })
	take(m.old, m.new)
	for i := range m.after {
		m.unpack(i, m.pack(i))
		say("room", fmt.Sprint("moved ", i))
		m.after[0].want(fmt.Sprint("moved ", i))
	}
	m.after[1].want("moved 1")
	fresh := dial(t, m.to).live("fresh", "room")
	say("fresh", "of nobody else")
	fresh.want("of nobody else")
	// The last subscriber has left the old process for longer than it keeps subscriptions.
	time.Sleep(1500 * time.Millisecond)
	if n := processes("room"); n != "2" {
		t.Errorf("%s processes are subscribed, want both", n)
	}
	say("room", "late")
	for _, c := range append(m.after, fresh) {
		c.want("late")
	}
	export(t, m.old, m.new)
	eventually(t, "the old process unsubscribes", func() bool { return processes("room") == "1" })
	say("room", "end")
	for _, c := range append(m.after, fresh) {
		c.want("end")
	}
}

// TestCut: of what others publish in Redis without a pause, each subscriber gets everything once
// and in order, whichever process Redis serves first.
func TestCut(t *testing.T) {
	redis := startRedis(t)
	cfg := func() Config { return Config{Redis: quick(redis.url())} }
	other, _ := start(t, cfg(), narrow)
	for round := range 5 {
		t.Run(strconv.Itoa(round), func(t *testing.T) {
			m := newMovers(t, cfg(), 3)
			eventually(t, "the old process is subscribed",
				func() bool { return strings.HasSuffix(redis.cli("pubsub", "numsub", "sluice:topic:room"), "1") })
			stop, published := make(chan struct{}), make(chan int)
			go func() {
				for n := 0; ; n++ {
					select {
					case <-stop:
						published <- n
						return
					default:
					}
					if n%20 == 0 { // they are sent in batches
						time.Sleep(time.Millisecond)
					}
					if err := other.Publish("room", Message{Payload: []byte(strconv.Itoa(n + 1))}); err != nil {
						t.Error(err)
					}
				}
			}()
			take(m.old, m.new)
			for i := range m.after {
				m.unpack(i, m.pack(i))
			}
			if err := m.old.Cut(); err != nil {
				t.Fatal(err)
			}
			m.old.eachFeed(func(f *feed) {
				f.mu.Lock()
				defer f.mu.Unlock()
				if f.cut.phase != cutPast {
					t.Errorf("the old process is in phase %d, want that it has seen the marker", f.cut.phase)
				}
			})
			export(t, m.old, m.new)
			time.Sleep(5 * time.Millisecond)
			close(stop)
			n := <-published
			for i := range m.after {
				m.wantAll(i, n)
			}
			m.new.eachFeed(func(f *feed) {
				eventually(t, "the takeover is over for the new process", func() bool {
					f.mu.Lock()
					defer f.mu.Unlock()
					return f.cut.phase == cutNone
				})
			})
		})
	}
}
