package sessions

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// quick are deadlines short enough for outages in tests. What is asked once, and not again after
// an outage, may fail on a loaded machine.
func quick(url string) RedisConfig {
	return RedisConfig{URL: url, ClientCache: true, Deadline: 500 * time.Millisecond, DetachDeadline: patience}
}

// steady are deadlines for a Redis that is there, however slow the machine.
func steady(url string) RedisConfig {
	return RedisConfig{URL: url, ClientCache: true, Deadline: patience, DetachDeadline: patience}
}

// load counts messages on connections that come and go until stop, and then checks every session:
// what was acknowledged is there (A ≤ R), nothing is there twice (R ≤ S), and R = S, as all of
// them could finish.
type load struct {
	t    *testing.T
	s    *Redis
	ids  []ID
	sent []atomic.Uint64
	done chan struct{}
	wg   sync.WaitGroup
}

func startLoad(t *testing.T, s *Redis, sessions int) *load {
	w := &load{t: t, s: s, ids: make([]ID, sessions), sent: make([]atomic.Uint64, sessions), done: make(chan struct{})}
	loops := []*testLoop{newTestLoop(t, s), newTestLoop(t, s)}
	for i := range w.ids {
		w.ids[i] = NewID()
		w.wg.Go(func() { w.client(i, loops[i%2]) })
	}
	return w
}

func (w *load) client(i int, l *testLoop) {
	highest := uint64(0)
	for life := 0; ; life++ {
		m := w.joinUntil(l, w.ids[i], life > 0)
		if m.total < highest {
			w.t.Errorf("session %d: welcome says %d after %d was acknowledged", i, m.total, highest)
		}
		for range 5 {
			m.add(3)
			w.sent[i].Add(3)
			time.Sleep(time.Millisecond)
		}
		total, err := m.leave()
		if err != nil || total != w.sent[i].Load() {
			w.t.Errorf("session %d: Detached with %d, %v, want %d", i, total, err, w.sent[i].Load())
		}
		if n := get(m, &m.numbers); len(n) != 15 || n[0] != m.total+1 || n[14] != m.total+15 {
			w.t.Errorf("session %d: joined at %d, acknowledged %v, want the next 15", i, m.total, n)
		}
		highest = total
		select {
		case <-w.done:
			return
		default:
		}
	}
}

// joinUntil attaches, again and again while the store cannot answer.
func (w *load) joinUntil(l *testLoop, id ID, resume bool) *member {
	for {
		m := l.join(w.t, id, resume)
		if err := get(m, &m.err); err == nil {
			return m
		} else if !errors.Is(err, ErrUnavailable) {
			w.t.Errorf("Attached: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (w *load) finish(r *redisServer) {
	w.t.Helper()
	close(w.done)
	w.wg.Wait()
	for i, id := range w.ids {
		if got, want := r.cli("hget", w.s.key(id), "n"), fmt.Sprint(w.sent[i].Load()); got != want {
			w.t.Errorf("session %d: Redis holds %s, sent %s", i, got, want)
		}
	}
}

// pause is how long a fault lasts, or load runs, between two events. Nothing is checked by it.
func pause(d time.Duration) { time.Sleep(d) }

func TestRedisFaultsUnderLoad(t *testing.T) {
	for _, fault := range []struct {
		name string
		do   func(r *redisServer)
	}{
		{"none", func(*redisServer) {}},
		{"killed and restarted", func(r *redisServer) { r.kill(); pause(100 * time.Millisecond); r.start() }},
		{"scripts flushed", func(r *redisServer) { r.cli("script", "flush") }},
		{"clients killed", func(r *redisServer) { r.cli("client", "kill", "type", "normal") }},
		{"clients paused", func(r *redisServer) { r.cli("client", "pause", "700") }},
		{"stopped and continued", func(r *redisServer) {
			r.signal(syscall.SIGSTOP)
			pause(1200 * time.Millisecond)
			r.signal(syscall.SIGCONT)
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
			s := newTestRedis(t, quick(r.url()))
			w := startLoad(t, s, 20)
			for range 2 {
				pause(150 * time.Millisecond)
				fault.do(r)
			}
			pause(150 * time.Millisecond)
			w.finish(r)
			eventually(t, "the store is ready again", func() bool { return s.Ready() == nil })
		})
	}
}

func TestRedisFlushedWhileAttached(t *testing.T) {
	r := startRedis(t)
	one, two := newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))
	id := NewID()
	a := newTestLoop(t, one).join(t, id, false)
	a.add(5)
	a.acked(5)
	b := newTestLoop(t, two).join(t, id, true)
	b.add(2)
	b.acked(2)
	silent := newTestLoop(t, one).join(t, id, true)
	heals := redisHeals.Get()
	r.cli("flushall")
	silent.loop.on(silent.a.Touch) // a touch heals too
	eventually(t, "the touch restores the session", func() bool { return r.cli("hget", one.key(id), "n") == "7" })
	r.cli("flushall")
	a.add(3)
	a.acked(8)
	b.add(4)
	b.acked(6)
	if n, err := one.Lookup(t.Context(), id); n != 14 || err != nil {
		t.Errorf("after two flushes: %d, %v, want all 14", n, err)
	}
	if redisHeals.Get()-heals < 2 { // the first of either process restores what both were told
		t.Errorf("%d heals counted, want at least 2", redisHeals.Get()-heals)
	}
}

func TestRedisTwoProcessesReadTheirWrites(t *testing.T) {
	r := startRedis(t)
	stores := []*Redis{newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))}
	loops := []*testLoop{newTestLoop(t, stores[0]), newTestLoop(t, stores[1])}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			id := NewID()
			for i := range uint64(60) { // a client that changes process after every acknowledgement
				m := loops[i%2].join(t, id, true)
				if m.total != i {
					t.Errorf("welcome says %d after %d was acknowledged", m.total, i)
				}
				m.add(1)
				m.acked(1)
				m.loop.on(func() { m.a.Detach(nil) })
			}
		})
	}
	wg.Wait()
}

func TestRedisOutage(t *testing.T) {
	r := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	cfg := quick(r.url())
	cfg.PendingPerConn, cfg.PendingPerLoop, cfg.DetachDeadline = 4, 6, 100*time.Millisecond
	s := newTestRedis(t, cfg)
	l := newTestLoop(t, s)
	old := l.join(t, NewID(), false)
	old.add(1)
	old.acked(1)
	r.kill()
	eventually(t, "the store is not ready", func() bool { return s.Ready() != nil })
	if m := l.join(t, NewID(), true); !errors.Is(m.err, ErrUnavailable) || m.a != nil {
		t.Errorf("resume in an outage: %v, want ErrUnavailable", m.err)
	}
	fresh := l.join(t, NewID(), false)
	if fresh.err != nil {
		t.Fatalf("new session in an outage: %v", fresh.err)
	}
	full := func(m *member) (full bool) {
		l.on(func() { full = m.a.Full() })
		return full
	}
	for i, want := range []bool{false, false, false, true, true} { // 1 to 5 of at most 4
		if fresh.add(1); full(fresh) != want {
			t.Errorf("%d pending of at most 4: Full = %v, want %v", i+1, !want, want)
		}
	}
	if full(old) {
		t.Error("5 pending on a loop of at most 6: Full = true")
	}
	if old.add(1); !full(old) {
		t.Error("6 pending on a loop of at most 6: Full = false")
	}
	if _, err := fresh.leave(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Detach beyond its deadline: %v, want ErrUnavailable", err)
	}
	if len(get(old, &old.numbers)) != 1 || len(get(fresh, &fresh.numbers)) != 0 {
		t.Error("something was acknowledged in an outage")
	}
	r.start()
	old.acked(2)
	eventually(t, "what the gone connection counted is stored", func() bool {
		return r.cli("hget", s.key(fresh.a.(*redisAttachment).w.id), "n") == "5"
	})
	eventually(t, "the store is ready", func() bool { return s.Ready() == nil })
	if full(old) {
		t.Error("Full after all was stored")
	}
}

func TestRedisStartsBeforeRedis(t *testing.T) {
	r := &redisServer{t: t, dir: t.TempDir(), port: freePort(t)}
	t.Cleanup(r.kill)
	s := newTestRedis(t, quick(r.url()))
	if s.Ready() == nil {
		t.Fatal("ready without a server")
	}
	m := newTestLoop(t, s).join(t, NewID(), false)
	m.add(2)
	r.start()
	m.acked(2)
	eventually(t, "the store is ready", func() bool { return s.Ready() == nil })
}

func TestRedisClose(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l := newTestLoop(t, s)
	var ids []ID
	l.on(func() {
		for range 2000 { // several batches
			id := NewID()
			ids = append(ids, id)
			l.Attach(id, "", false, &closer{})
		}
	})
	l.end() // the loop is gone; what it left is not
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.cli("dbsize"); got != "2000" {
		t.Errorf("%s sessions stored, want 2000", got)
	}
	if s.Ready() == nil {
		t.Error("ready after Close")
	}
	if m := newTestLoop(t, s).join(t, ids[0], true); !errors.Is(m.err, ErrUnavailable) {
		t.Errorf("Attach after Close: %v, want ErrUnavailable", m.err)
	}
}

// closer counts one message and leaves at once.
type closer struct{}

func (*closer) Attached(a Attachment, _ uint64, _ bool, _ error) { a.Add(); a.Detach(nil) }
func (*closer) Acknowledged(uint64, uint64)                      {}
func (*closer) Detached(uint64, error)                           {}

func TestRedisCloseGivesUp(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, quick(r.url()))
	m := newTestLoop(t, s).join(t, NewID(), false)
	r.kill()
	m.add(7)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Close(ctx)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close without Redis: %v, want an error that says 7 messages were given up", err)
	}
	if want := "with 7 messages not stored"; !contains(err, want) {
		t.Errorf("Close said %q, want %q in it", err, want)
	}
}

func TestRedisKeepsSilentSessionsAlive(t *testing.T) {
	r := startRedis(t)
	cfg := steady(r.url())
	cfg.TTL = time.Hour
	s := newTestRedis(t, cfg)
	l, id := newTestLoop(t, s), NewID()
	toLive := func() (ms int) {
		_, _ = fmt.Sscan(r.cli("pttl", s.key(id)), &ms)
		return ms
	}
	const hour = 3_600_000
	m := l.join(t, id, false)
	l.on(m.a.Touch) // nothing to keep yet: writes nothing
	m.add(1)
	m.acked(1)
	if got := toLive(); got <= 0 || got > hour {
		t.Errorf("a commit leaves %d ms to live, want up to the hour of the TTL", got)
	}
	r.cli("pexpire", s.key(id), "7200000")
	l.on(m.a.Touch)
	eventually(t, "a touch sets the TTL", func() bool { got := toLive(); return 0 < got && got <= hour })
	if _, err := m.leave(); err != nil {
		t.Fatal(err)
	}
	if got := toLive(); got <= 0 || got > hour {
		t.Errorf("an abandoned session has %d ms to live, want up to the hour of the TTL", got)
	}
	r.cli("pexpire", s.key(id), "1")
	eventually(t, "an abandoned session expires", func() bool { return r.cli("exists", s.key(id)) == "0" })
	if m := l.join(t, id, true); m.resumed || m.total != 0 {
		t.Errorf("an expired session was resumed at %d", m.total)
	}
}

func TestRedisCluster(t *testing.T) {
	nodes := startCluster(t)
	s := newTestRedis(t, quick(nodes[0].url()))
	eventually(t, "the store is ready", func() bool { return s.Ready() == nil })
	w := startLoad(t, s, 20)
	pause(200 * time.Millisecond)
	nodes[1].kill()
	pause(200 * time.Millisecond)
	nodes[1].start()
	pause(200 * time.Millisecond)
	close(w.done)
	w.wg.Wait()
	for i, id := range w.ids {
		out, err := exec.Command("redis-cli", "-c", "-h", host, "-p", nodes[0].port, "hget", s.key(id), "n").Output()
		if got, want := string(out), fmt.Sprintln(w.sent[i].Load()); got != want || err != nil {
			t.Errorf("session %d: the cluster holds %q, %v, sent %s", i, got, err, want)
		}
	}
	used := 0
	for _, n := range nodes {
		if n.cli("dbsize") != "0" {
			used++
		}
	}
	if used != 3 {
		t.Errorf("%d of 3 nodes hold sessions", used)
	}
}
