package topics

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/gateway"
)

// live waits until topics are subscribed to in Redis.
func (c *client) live(names ...string) *client {
	c.t.Helper()
	for _, n := range names {
		c.position(n)
	}
	return c
}

func TestRedisCarriesPublicationsToAllProcesses(t *testing.T) {
	redis := startRedis(t)
	a, as := start(t, Config{Redis: quick(redis.url())}, gateway.Config{})
	b, bs := start(t, Config{Redis: quick(redis.url())}, gateway.Config{})
	onA, onB := dial(t, as).live("room"), dial(t, bs).live("room", "other")

	var publishers sync.WaitGroup
	for _, h := range []*Hub{a, b} {
		publishers.Go(func() {
			for i := range 200 {
				if err := h.Publish("room", Message{Payload: fmt.Appendf(nil, "%p/%d", h, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	next := map[string]int{}
	for range 400 {
		_, m := onA.frame()
		onB.want(m)
		from, number, _ := strings.Cut(m, "/")
		if number != fmt.Sprint(next[from]) {
			t.Fatalf("got %s, want number %d", m, next[from])
		}
		next[from]++
	}
	r, err := a.PublishWait(context.Background(), "other", Message{Payload: []byte("x")})
	if err != nil || r != (Receipt{}) {
		t.Fatalf("got %+v %v, want no subscriber on this process", r, err)
	}
	onB.want("x")

	// redis-cli can publish too, and what it says wrongly reaches nobody.
	for _, wrong := range []string{"", "\n", "t", "x\nhello", "t1:2:3\nhello", "t\n\xff", "c\n\x03",
		strings.Repeat("t", 100) + "\n"} {
		redis.cli("publish", "sluice:topic:room", wrong)
	}
	if n := redis.cli("publish", "sluice:topic:room", "t\nhello"); n != "2" {
		t.Errorf("got %s processes, want 2", n)
	}
	onA.want("hello")
	onB.want("hello")

	// The last subscriber on a process takes the subscription with it.
	onB.conn.Close()
	eventually(t, "one process",
		func() bool { return strings.HasSuffix(redis.cli("pubsub", "numsub", "sluice:topic:room"), "1") })
	publish(t, a, "room", "end")
	onA.want("end")
}

func TestRedisHistory(t *testing.T) {
	redis := startRedis(t)
	cfg := func() Config { return Config{Redis: quick(redis.url()), History: keep(5, time.Hour)} }
	a, as := start(t, cfg(), gateway.Config{})
	b, bs := start(t, cfg(), gateway.Config{})
	first := dial(t, as)
	begin, err := ParsePosition(first.position("kept"))
	if err != nil || begin.Epoch == 0 || begin.Offset != 0 {
		t.Fatalf("got %v %v, want offset 0", begin, err)
	}
	for i := range 5 {
		r, err := []*Hub{a, b}[i%2].PublishWait(context.Background(), "kept",
			Message{Payload: fmt.Append(nil, i)})
		if err != nil || r.Position != (Position{begin.Epoch, uint64(i + 1)}) {
			t.Fatalf("got %+v %v, want offset %d", r, err, i+1)
		}
		first.want(fmt.Sprint(i))
	}
	on := func(offset uint64) string { return Position{begin.Epoch, offset}.String() }
	back := dial(t, bs)
	back.do("from kept %s", on(2))
	back.want("from "+on(5)+" true 3", "2", "3", "4")
	whole := dial(t, bs)
	whole.do("from kept %s", on(0))
	whole.want("from "+on(5)+" true 5", "0", "1", "2", "3", "4")
	redis.cli("script", "flush")
	publish(t, b, "kept", "5")
	for _, c := range []*client{first, back, whole} {
		c.want("5")
	}
	lost := dial(t, as)
	lost.do("from kept %s", on(0))
	lost.want("from " + on(6) + " false 0")
	redis.cli("flushall")
	gone := dial(t, as)
	gone.do("from kept %s", on(6))
	if _, m := gone.frame(); !strings.HasSuffix(m, " false 0") || strings.Contains(m, on(6)) {
		t.Errorf("got %q, want another epoch", m)
	}
	if ttl := redis.cli("pttl", "sluice:topic:meta:kept"); len(ttl) < 7 {
		t.Errorf("got %s ms to live, want an hour and more", ttl)
	}
}

// Subscribers that come back in the middle of a flood get each message once, in order.
func TestRedisRecoveryWhilePublishing(t *testing.T) {
	redis := startRedis(t)
	cfg := func() Config { return Config{Redis: quick(redis.url()), History: keep(10_000, time.Hour)} }
	_, as := start(t, cfg(), gateway.Config{})
	b, bs := start(t, cfg(), gateway.Config{})
	begin := dial(t, as).position("kept")
	const total = 1500
	go func() {
		for i := 0; i < total; i++ {
			if _, err := b.PublishWait(context.Background(), "kept",
				Message{Payload: fmt.Append(nil, i)}); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
		}
	}()
	for i := range 8 {
		c := dial(t, []*gateway.Server{as, bs}[i%2])
		c.do("from kept %s", begin)
		if _, m := c.frame(); !strings.Contains(m, " true ") {
			t.Fatalf("got %q, want all", m)
		}
		for k := range total {
			c.want(fmt.Sprint(k))
		}
		c.conn.Close()
	}
}

func TestRedisCluster(t *testing.T) {
	nodes := startCluster(t)
	cfg := func() Config {
		r := quick(nodes[0].url())
		r.Partitions = 6
		return Config{Redis: r, History: keep(10, time.Hour)}
	}
	a, as := start(t, cfg(), gateway.Config{})
	_, bs := start(t, cfg(), gateway.Config{})
	onA, onB := dial(t, as), dial(t, bs)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("room{%d}", i), fmt.Sprint("kept", i))
	}
	onA.live(names...)
	onB.live(names...)
	for i, n := range names {
		if _, err := a.PublishWait(context.Background(), n,
			Message{Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
		onA.want(fmt.Sprint(i))
		onB.want(fmt.Sprint(i))
	}
	carried := 0
	for _, n := range nodes {
		if n.cli("pubsub", "shardchannels") != "" {
			carried++
		}
		if strings.Contains(n.cli("pubsub", "channels"), "room") {
			t.Error("a channel is not sharded")
		}
	}
	if carried < 2 {
		t.Errorf("%d of 3 servers carry channels", carried)
	}
}
