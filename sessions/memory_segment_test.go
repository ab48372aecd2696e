package sessions

import (
	"context"
	"testing"
	"time"
)

// A flood of sessions that are used once pushes out its own kind, and not who counted more or came
// back.
func TestFloodDoesNotEvictOthers(t *testing.T) {
	const most = 2000
	m := NewMemory(MemoryConfig{MaxSessions: most})
	defer m.Close(context.Background())
	use := func(id ID, messages int) {
		s, _, _ := m.shard(id).attach(id, subject{})
		for range messages {
			s.Add()
		}
		s.Detach(nil)
	}
	counted, resumed, once := NewID(), NewID(), NewID()
	use(once, 1)
	use(counted, usedOnce+1)
	use(resumed, 1)
	use(resumed, 1)
	for range most + 1 {
		use(NewID(), 1)
	}
	for _, tc := range []struct {
		name string
		id   ID
		want uint64
	}{{"counted four", counted, 4}, {"came back", resumed, 2}, {"used once", once, 0}} {
		if total, _ := m.Lookup(context.Background(), tc.id); total != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, total, tc.want)
		}
	}
	if n := m.counted.Load(); n > most {
		t.Errorf("%d sessions are held, want at most %d", n, most)
	}
}

// The kept ones leave a fifth of the room for those that are new.
func TestKeptSessionsLeaveRoom(t *testing.T) {
	const most = 1000
	m := NewMemory(MemoryConfig{MaxSessions: most})
	defer m.Close(context.Background())
	for range 2 * most {
		id := NewID()
		s, _, _ := m.shard(id).attach(id, subject{})
		for range usedOnce + 1 {
			s.Add()
		}
		s.Detach(nil)
	}
	id := NewID()
	s, _, _ := m.shard(id).attach(id, subject{})
	s.Add()
	s.Detach(nil)
	if total, err := m.Lookup(context.Background(), id); total != 1 {
		t.Errorf("a new session: got %d, %v, want 1", total, err)
	}
}

// Expiry does a bounded amount of work at a time, and a session that it has not come to is gone all
// the same.
func TestExpiryIsBounded(t *testing.T) {
	var now time.Duration
	m := NewMemory(MemoryConfig{TTL: time.Hour, now: func() time.Duration { return now }})
	defer m.Close(context.Background())
	var last ID
	const crowd = 10 * expireBudget
	for range crowd {
		id := NewID()
		id[15] = 0
		s, _, _ := m.shard(id).attach(id, subject{})
		s.Add()
		s.Detach(nil)
		last = id
	}
	now = time.Hour
	sh := m.shard(last)
	before := sh.byID.len()
	if total, err := m.Lookup(context.Background(), last); err == nil {
		t.Errorf("an expired session: got %d, want none", total)
	}
	if gone := before - sh.byID.len(); gone != expireBudget {
		t.Errorf("one call forgot %d sessions, want %d", gone, expireBudget)
	}
	s, held, _ := sh.attach(last, subject{})
	if held || s.n.Load() != 0 {
		t.Errorf("an expired session was resumed with %d", s.n.Load())
	}
	m.sweep()
	if sh.byID.len() != 1 {
		t.Errorf("%d sessions are left after a sweep, want the attached one", sh.byID.len())
	}
}
