package topics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/gateway"
)

// untilGap reads until the marker of a gap in topic comes, and returns it.
func (c *client) untilGap(topic string) string {
	c.t.Helper()
	for {
		if _, m := c.frame(); strings.HasPrefix(m, `{"type":"gap","topic":"`+topic+`"`) {
			return m
		}
	}
}

// Subscribers are told of what was missed while the feed was away; with a history they just get it.
func TestRedisFeedIsCutOff(t *testing.T) {
	redis := startRedis(t)
	cfg := func() Config { return Config{Redis: quick(redis.url()), History: keep(1000, time.Hour)} }
	a, as := start(t, cfg(), gateway.Config{})
	b, _ := start(t, cfg(), gateway.Config{})
	kept, plain := dial(t, as).live("kept"), dial(t, as).live("plain")
	publish(t, b, "kept", "0")
	publish(t, b, "plain", "0")
	kept.want("0")
	plain.want("0")
	next := 1
	for range 3 {
		redis.cli("client", "kill", "type", "pubsub")
		for range 20 {
			if _, err := b.PublishWait(context.Background(), "kept",
				Message{Payload: fmt.Append(nil, next)}); err != nil {
				t.Fatal(err)
			}
			next++
		}
		eventually(t, "the broker is back", func() bool { return a.Ready() == nil && b.Ready() == nil })
		if m := plain.untilGap("plain"); !strings.HasSuffix(m, `"missed":0}`) {
			t.Errorf("got %s, want an unknown number", m)
		}
	}
	for i := 1; i < next; i++ {
		kept.want(fmt.Sprint(i))
	}
	publish(t, b, "plain", "after")
	plain.want("after")
}

func TestRedisGoesAwayAndComesBack(t *testing.T) {
	redis := startRedis(t)
	cfg := Config{Redis: quick(redis.url()), History: keep(1000, time.Hour)}
	a, as := start(t, cfg, gateway.Config{})
	c := dial(t, as).live("kept", "plain")
	redis.kill()
	eventually(t, "not ready", func() bool { return a.Ready() != nil })
	if _, err := a.PublishWait(context.Background(), "plain",
		Message{Payload: []byte("lost")}); err == nil {
		t.Error("a publication without a broker succeeded")
	}
	late := dial(t, as)
	late.do("from late 1:1") // is answered when there is nothing to be had
	late.want("from 0:0 false 0")
	redis.start()
	eventually(t, "ready", func() bool { return a.Ready() == nil })
	// The history is gone with the server, so what was missed is not known.
	told := make(map[string]bool)
	for len(told) < 2 {
		_, m := c.frame()
		told[m] = true
	}
	if !told[`{"type":"gap","topic":"kept","missed":0}`] ||
		!told[`{"type":"gap","topic":"plain","missed":0}`] {
		t.Errorf("got %v", told)
	}
	for _, topic := range []string{"plain", "kept", "late"} {
		eventually(t, "a publication gets through", func() bool {
			_, err := a.PublishWait(context.Background(), topic, Message{Payload: []byte(topic)})
			return err == nil
		})
	}
	c.want("plain", "kept")
	late.want("late")
}

// A gateway that is started before its Redis waits for it; one that Redis does not let in does not.
func TestRedisIsNotThereYet(t *testing.T) {
	redis := startRedis(t)
	redis.kill()
	made := make(chan error, 1)
	go func() {
		h, err := New(Config{Logger: quiet,
			Redis: &RedisConfig{URL: redis.url(), Deadline: 20 * time.Second}})
		if err == nil {
			err = h.Close()
		}
		made <- err
	}()
	select {
	case err := <-made:
		t.Fatalf("got %v while there was no Redis", err)
	case <-time.After(3 * reachAgain):
	}
	redis.start()
	if err := <-made; err != nil {
		t.Error(err)
	}
	redis.cli("config", "set", "requirepass", "secret")
	h, err := New(Config{Logger: quiet, Redis: &RedisConfig{URL: redis.url(), Deadline: time.Hour}})
	if err == nil {
		h.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("got %v, want NOAUTH", err)
	}
}

// feedProxy stands between a process and Redis. While it is deaf, what is published does not get
// through, and all else does.
type feedProxy struct {
	ln   net.Listener
	to   string
	deaf atomic.Bool
	wg   sync.WaitGroup
}

func startFeedProxy(t *testing.T, to string) *feedProxy {
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	p := &feedProxy{ln: ln, to: to}
	p.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		p.wg.Wait()
	})
	return p
}

func (p *feedProxy) serve(c net.Conn) {
	defer c.Close()
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, c)
		server.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if p.deaf.Load() && bytes.Contains(buf[:n], []byte("message\r\n")) {
			continue
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// The connection lives and answers, and brings nothing.
func TestRedisFeedIsDeadWhileItsConnectionLives(t *testing.T) {
	redis := startRedis(t)
	proxy := startFeedProxy(t, redis.addr())
	cfg := Config{Redis: quick("redis://" + proxy.ln.Addr().String()), History: keep(1000, time.Hour)}
	cfg.Redis.Deadline = 200 * time.Millisecond
	a, as := start(t, cfg, gateway.Config{})
	b, _ := start(t, Config{Redis: quick(redis.url()), History: cfg.History}, gateway.Config{})
	c := dial(t, as).live("kept", "plain")
	proxy.deaf.Store(true)
	for i := range 5 {
		if _, err := b.PublishWait(context.Background(), "kept",
			Message{Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	before := probesLost.Get()
	eventually(t, "it is noticed", func() bool {
		return probesLost.Get() > before && a.Ready() != nil
	})
	proxy.deaf.Store(false)
	eventually(t, "ready", func() bool { return a.Ready() == nil })
	c.do("say end")
	got := map[string]int{}
	var numbers []string
	for len(numbers) < 5 || got["gap"] == 0 {
		_, m := c.frame()
		switch {
		case strings.Contains(m, `"topic":"plain"`):
			got["gap"]++
		case m != "end":
			numbers = append(numbers, m)
		}
	}
	if s := strings.Join(numbers, ""); s != "01234" {
		t.Errorf("got %s, want what was missed", s)
	}
}

// A Redis that does not answer holds nobody up: publications fail, or are refused when too many
// wait.
func TestRedisStalls(t *testing.T) {
	redis := startRedis(t)
	cfg := Config{Redis: quick(redis.url())}
	cfg.Redis.MaxQueue = 10
	a, as := start(t, cfg, gateway.Config{})
	c := dial(t, as).live("plain")
	redis.signal(syscall.SIGSTOP)
	refused := 0
	for range 2000 {
		if err := a.Publish("plain", Message{Payload: []byte("x")}); errors.Is(err, ErrBusy) {
			refused++
		}
	}
	if refused < 1000 {
		t.Errorf("%d of 2000 were refused", refused)
	}
	c.do("say alive")
	c.want("alive")
	eventually(t, "not ready", func() bool { return a.Ready() != nil })
	redis.signal(syscall.SIGCONT)
	eventually(t, "ready", func() bool { return a.Ready() == nil })
	c.untilGap("plain")
	eventually(t, "a publication gets through", func() bool {
		_, err := a.PublishWait(context.Background(), "plain", Message{Payload: []byte("again")})
		return err == nil
	})
	for {
		if _, m := c.frame(); m == "again" {
			break
		}
	}
}
