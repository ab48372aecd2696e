package sessions

import (
	"errors"
	"testing"
)

func TestRedisCountsAndResumes(t *testing.T) {
	r := startRedis(t)
	for _, cache := range []bool{true, false} {
		cfg := steady(r.url())
		cfg.ClientCache = cache
		s := newTestRedis(t, cfg)
		if err := s.Ready(); err != nil {
			t.Fatalf("not ready: %v", err)
		}
		l, id := newTestLoop(t, s), NewID()
		m := l.join(t, id, false)
		if m.resumed || m.total != 0 || m.err != nil {
			t.Fatalf("new session: %+v", m)
		}
		if got := r.cli("exists", s.key(id)); got != "0" {
			t.Errorf("a session without a message is in Redis")
		}
		m.add(3)
		m.acked(3)
		m.add(2)
		if total, err := m.leave(); total != 5 || err != nil {
			t.Fatalf("Detached with %d, %v, want 5", total, err)
		}
		m.acked(5)
		for want := uint64(5); want < 8; want++ {
			m := newTestLoop(t, s).join(t, id, true)
			if !m.resumed || m.total != want {
				t.Fatalf("resumed = %v at %d, want true, %d", m.resumed, m.total, want)
			}
			m.add(1)
			if total, err := m.leave(); total != want+1 || err != nil {
				t.Fatalf("Detached with %d, %v, want %d", total, err, want+1)
			}
		}
		if n, err := s.Lookup(t.Context(), id); n != 8 || err != nil {
			t.Errorf("Lookup = %d, %v, want 8", n, err)
		}
		if _, err := s.Lookup(t.Context(), NewID()); !errors.Is(err, ErrNotFound) {
			t.Errorf("Lookup of an unknown id: %v, want ErrNotFound", err)
		}
	}
}

// The total that a connection ends with is the session's, whoever counted: in this process or in
// another one.
func TestRedisEndsWithTheSessionsTotal(t *testing.T) {
	r := startRedis(t)
	here, there := newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))
	for _, s := range []*Redis{here, there} {
		id := NewID()
		spoke, silent := newTestLoop(t, here).join(t, id, false), newTestLoop(t, here).join(t, id, true)
		spoke.add(1)
		spoke.acked(1)
		other := newTestLoop(t, s).join(t, id, true)
		other.add(9)
		other.acked(9)
		for _, m := range []*member{spoke, silent} {
			if total, err := m.leave(); total != 10 || err != nil {
				t.Errorf("Detached with %d, %v, after another connection was told 10", total, err)
			}
		}
	}
}
