package topics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

func keep(size int, ttl time.Duration) []HistoryRule { return []HistoryRule{{"kept*", size, ttl}} }

// position subscribes from the present and returns where that is.
func (c *client) position(name string) string {
	c.t.Helper()
	c.do("from %s", name)
	_, m := c.frame()
	words := strings.Fields(m)
	if len(words) != 4 || words[0] != "from" {
		c.t.Fatalf("got %q", m)
	}
	return words[1]
}

func TestRecovery(t *testing.T) {
	hub, s := start(t, Config{History: keep(5, time.Hour)}, gateway.Config{})
	first := dial(t, s)
	at := first.position("kept")
	for i := range 3 {
		publish(t, hub, "kept", fmt.Sprint(i))
	}
	first.want("0", "1", "2")
	parsed, err := ParsePosition(at)
	if err != nil || parsed.Epoch == 0 || parsed.Offset != 0 {
		t.Fatalf("got the position %q, want offset 0", at)
	}
	on := func(p Position, offset uint64) string { return Position{p.Epoch, offset}.String() }

	back := dial(t, s)
	back.do("from kept %s", on(parsed, 1))
	back.want(fmt.Sprintf("from %s true 2", on(parsed, 3)), "1", "2")
	publish(t, hub, "kept", "3")
	first.want("3")
	back.want("3")

	at4 := dial(t, s)
	at4.do("from kept %s", on(parsed, 4))
	at4.want(fmt.Sprintf("from %s true 0", on(parsed, 4)))
	ahead := dial(t, s)
	ahead.do("from kept %s", on(parsed, 5))
	ahead.want(fmt.Sprintf("from %s false 0", on(parsed, 4)))
	foreign := dial(t, s)
	foreign.do("from kept %s", on(Position{Epoch: parsed.Epoch + 2}, 4))
	foreign.want(fmt.Sprintf("from %s false 0", on(parsed, 4)))

	publish(t, hub, "kept", "4")
	publish(t, hub, "kept", "5") // the first of six goes
	whole := dial(t, s)
	whole.do("from kept %s", on(parsed, 1))
	whole.want(fmt.Sprintf("from %s true 5", on(parsed, 6)), "1", "2", "3", "4", "5")
	lost := dial(t, s)
	lost.do("from kept %s", on(parsed, 0))
	lost.want(fmt.Sprintf("from %s false 0", on(parsed, 6)))
	publish(t, hub, "kept", "6")
	for _, c := range []*client{whole, lost} {
		c.want("6")
	}
	ahead.want("4", "5", "6")

	whole.do("from kept %s", on(parsed, 6))
	whole.want("error " + errSubscribed.Error())
	none := dial(t, s)
	none.do("from other %s", on(parsed, 6))
	none.want("from 0:0 false 0")
}

// A subscriber that comes back while messages are published gets each of them once, in order.
func TestRecoveryWhilePublishing(t *testing.T) {
	hub, s := start(t, Config{History: keep(10_000, time.Hour)}, gateway.Config{})
	begin := dial(t, s).position("kept")
	const total = 3000
	go func() {
		for i := 0; i < total; {
			if hub.Publish("kept", Message{Payload: fmt.Appendf(nil, "%d", i)}) == nil {
				i++
			} else {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for range 10 {
		c := dial(t, s)
		c.do("from kept %s", begin)
		_, answer := c.frame()
		if !strings.Contains(answer, " true ") {
			t.Fatalf("got %q, want all", answer)
		}
		for i := range total {
			c.want(fmt.Sprint(i))
		}
		c.conn.Close()
	}
}

func TestHistoryExpires(t *testing.T) {
	hub, s := start(t, Config{History: keep(5, time.Second)}, gateway.Config{})
	c := dial(t, s)
	begin := c.position("kept")
	publish(t, hub, "kept", "0")
	publish(t, hub, "kept2", "0")
	c.want("0")
	eventually(t, "the end of the histories", func() bool {
		return hub.topics.Load() == 1 && hub.histories.size() == 0
	})
	late := dial(t, s)
	late.do("from kept %s", begin)
	_, got := late.frame()
	if !strings.HasSuffix(got, "false 0") {
		t.Errorf("got %q, want that it cannot be recovered", got)
	}
	// Who has missed nothing is told so, whatever has expired.
	now := dial(t, s)
	now.do("from kept %s", strings.Fields(got)[1])
	now.want("from " + strings.Fields(got)[1] + " true 0")
}

func TestHistoriesAreBounded(t *testing.T) {
	const each = 1000
	hub, _ := start(t, Config{History: keep(100, time.Hour), MaxHistory: 20 * each}, gateway.Config{})
	text := strings.Repeat("x", each-overhead-4)
	for i := range 200 {
		for hub.Publish(fmt.Sprint("kept", i), Message{Payload: []byte(text)}) != nil {
			time.Sleep(time.Millisecond)
		}
	}
	eventually(t, "20 histories", func() bool { return hub.histories.size() <= 20*each })
	list := hub.Topics("kept*", 1000)
	if len(list) < 15 || len(list) > 20 {
		t.Fatalf("got %d histories, want about 20", len(list))
	}
	for _, in := range list {
		var n int
		if _, err := fmt.Sscanf(in.Name, "kept%d", &n); err != nil || n < 180 {
			t.Errorf("%s is kept, want the last ones", in.Name)
		}
	}
}

func TestHistorySince(t *testing.T) {
	k, now := new(history), time.Now()
	for offset := uint64(1); offset <= 7; offset++ {
		k.add(&message{offset: offset}, now.Add(time.Duration(offset)*time.Second), 4)
	}
	for _, c := range []struct {
		offset uint64
		n      int
		ok     bool
	}{{7, 0, true}, {6, 1, true}, {3, 4, true}, {2, 0, false}, {0, 0, false}, {8, 0, false}} {
		list, ok := k.since(c.offset, 7)
		if ok != c.ok || len(list) != c.n || c.n > 0 && list[0].offset != c.offset+1 {
			t.Errorf("since %d: got %d messages, %v; want %d, %v", c.offset, len(list), ok, c.n, c.ok)
		}
	}
	k.expire(now.Add(6*time.Second), time.Second)
	if _, ok := k.since(5, 7); k.n != 2 && ok {
		t.Errorf("got %d messages after some have expired, want 2", k.n)
	}
	if list, ok := (*history)(nil).since(7, 7); !ok || list != nil {
		t.Error("nothing is missed, so nothing needs to be kept")
	}
}
