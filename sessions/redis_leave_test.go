package sessions

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Of sixteen connections on two processes some leave, Redis forgets, the others go on, one leaves,
// and at rest the total is what was sent: what those who left had counted was not counted twice
// when the rest restored it, nor lost.
func TestRedisFlushedAfterSomeHaveLeft(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	loops := [2]*testLoop{newTestLoop(t, s), newTestLoop(t, newTestRedis(t, steady(r.url())))}
	for range 20 {
		id, sent := NewID(), 0
		var here []*member
		speak := func(m *member, n int) {
			before := len(get(m, &m.numbers))
			m.add(n)
			sent += n
			m.acked(before + n)
		}
		leave := func() {
			i := rand.IntN(len(here))
			if _, err := here[i].leave(); err != nil {
				t.Fatal(err)
			}
			here = slices.Delete(here, i, i+1)
		}
		for i := range 16 {
			here = append(here, loops[i%2].join(t, id, true))
			speak(here[i], 1+rand.IntN(3))
		}
		for range 6 {
			leave()
		}
		r.cli("flushall")
		for _, m := range here {
			m.loop.on(m.a.Touch)
		}
		eventually(t, "all is restored", func() bool {
			return r.cli("hget", s.key(id), "n") == fmt.Sprint(sent)
		})
		leave()
		for _, m := range here {
			speak(m, 1)
		}
		if n := r.cli("hget", s.key(id), "n"); n != fmt.Sprint(sent) {
			t.Fatalf("R = %s, S = %d", n, sent)
		}
	}
}

// A connection that never counted keeps what another one was told: that one has left, and its
// process too perhaps.
func TestRedisSilentConnectionKeepsWhatOthersCounted(t *testing.T) {
	r := startRedis(t)
	cfg := steady(r.url())
	cfg.TTL = time.Hour
	silent, here, there := newTestRedis(t, cfg), NewID(), NewID()
	l := newTestLoop(t, silent)
	for id, s := range map[ID]*Redis{here: silent, there: newTestRedis(t, cfg)} {
		a := l.join(t, id, true)
		b := newTestLoop(t, s).join(t, id, true)
		b.add(5)
		b.acked(5)
		if _, err := b.leave(); err != nil {
			t.Fatal(err)
		}
		r.cli("pexpire", s.key(id), "7200000")
		l.on(a.a.Touch)
		eventually(t, "the touch of who never counted sets the TTL", func() bool {
			var ms int
			_, _ = fmt.Sscan(r.cli("pttl", s.key(id)), &ms)
			return 0 < ms && ms <= 3_600_000
		})
		a.add(1)
		a.acked(1)
		if n := get(a, &a.numbers); n[0] != 6 {
			t.Errorf("number %d after 5 were given out", n[0])
		}
	}
}

// Connections that are cut off in an outage with messages on their way leave nothing that fills the
// session, and all of it is stored in the end.
func TestRedisOutagesDoNotFillASession(t *testing.T) {
	r := startRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	s := newTestRedis(t, quick(r.url()))
	l, id, sent := newTestLoop(t, s), NewID(), 0
	for range 3 {
		var all []*member
		for range 45 {
			all = append(all, l.joinUntil(t, id))
			all[len(all)-1].add(1)
		}
		for _, m := range all {
			m.acked(1)
		}
		r.kill()
		for _, m := range all {
			m.add(1)
			m.loop.on(func() { m.a.Detach(nil) })
		}
		sent += 2 * len(all)
		r.start()
	}
	eventually(t, "all is stored", func() bool { return r.cli("hget", s.key(id), "n") == fmt.Sprint(sent) })
	if n := r.cli("hlen", s.key(id)); n != "2" {
		t.Errorf("%s fields after three outages, want n and the process' own", n)
	}
	if m := l.joinUntil(t, id); m.total != uint64(sent) {
		t.Errorf("resumed at %d, want %d", m.total, sent)
	}
}

// joinUntil resumes, again and again while the store cannot answer.
func (l *testLoop) joinUntil(t *testing.T, id ID) (m *member) {
	eventually(t, "it is resumed", func() bool {
		m = l.join(t, id, true)
		err := get(m, &m.err)
		if err != nil && !errors.Is(err, ErrUnavailable) {
			t.Fatalf("Attached: %v", err)
		}
		return err == nil
	})
	return m
}
