package sessions

import (
	"errors"
	"testing"
	"time"
)

// joinAs attaches and waits for the answer.
func (l *testLoop) joinAs(t testing.TB, id ID, who string, resume bool) *member {
	t.Helper()
	m := &member{t: t, loop: l, name: who}
	l.on(func() { l.Attach(id, who, resume, m) })
	eventually(t, "Attached is called", func() bool { return get(m, &m.attached) == 1 })
	return m
}

// A session that was made with a subject is resumed by that one only: while it is attached, when
// it is idle, and, with Redis, at another process. What nobody made anybody may resume.
func TestSubjects(t *testing.T) {
	memory := NewMemory(MemoryConfig{})
	defer memory.Close(t.Context())
	r := startRedis(t)
	one, two := newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))
	for name, stores := range map[string][2]Store{"memory": {memory, memory}, "redis": {one, two}} {
		t.Run(name, func(t *testing.T) {
			l, other := newTestLoop(t, stores[0]), newTestLoop(t, stores[1])
			for maker, may := range map[string]map[string]bool{
				"ann": {"ann": true, "bob": false, "": false},
				"":    {"ann": true, "bob": true, "": true},
			} {
				id := NewID()
				check := func(l *testLoop, when string) {
					t.Helper()
					for who, ok := range may {
						m := l.joinAs(t, id, who, true)
						if (m.err == nil) != ok || !ok && (!errors.Is(m.err, ErrForbidden) || m.a != nil) {
							t.Errorf("made by %q, resumed by %q, %s: %v, want ok %v", maker, who, when, m.err, ok)
						}
						if m.a != nil {
							m.leave()
						}
					}
				}
				m := l.joinAs(t, id, maker, false)
				check(l, "before it counted")
				m.add(1)
				count(t, m)
				check(l, "attached")
				check(other, "attached elsewhere")
				m.leave()
				check(l, "idle")
				check(other, "idle elsewhere")
			}
		})
	}
}

// count waits until what m has added is stored.
func count(t *testing.T, m *member) {
	t.Helper()
	eventually(t, "all is stored", func() bool {
		n := 0
		m.loop.on(func() { n = m.a.Pending() })
		return n == 0
	})
}

// Two processes make one session with two subjects; the one that is stored first has it, and the
// other's connection ends. After a loss it is still the same one's.
func TestSubjectsMeet(t *testing.T) {
	r := startRedis(t)
	one, two := newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))
	l, other := newTestLoop(t, one), newTestLoop(t, two)
	id := NewID()
	ann, bob := l.joinAs(t, id, "ann", true), other.joinAs(t, id, "bob", true)
	ann.add(1)
	ann.acked(1)
	bob.add(1)
	eventually(t, "bob's attachment ends", func() bool { return get(bob, &bob.detached) == 1 })
	if err := get(bob, &bob.finalErr); !errors.Is(err, ErrForbidden) || len(get(bob, &bob.numbers)) > 0 {
		t.Errorf("bob: %v and numbers %v, want ErrForbidden and none", err, bob.numbers)
	}
	r.cli("flushall")
	ann.add(1)
	ann.acked(2)
	if m := other.joinAs(t, id, "bob", true); !errors.Is(m.err, ErrForbidden) {
		t.Errorf("after a loss bob is welcomed: %v", m.err)
	}
	if got := r.cli("hget", one.key(id), "s"); got != subjectOf("ann").String() {
		t.Errorf("the stored subject is %q", got)
	}
}

// What a session held of its subject goes with it.
func TestMemorySubjectsGo(t *testing.T) {
	m, clk := newTestMemory(t, MemoryConfig{TTL: time.Minute, MaxSessions: 10})
	for i := range 50 {
		w := new(answer)
		m.Attach(testID(i), "ann", false, w)
		if i%2 == 0 {
			w.a.Add()
		}
		w.a.Detach(nil)
		clk.advance(1)
	}
	held := 0
	subjects := func() (n int) {
		for i := range m.shards {
			n += len(m.shards[i].subjects)
			held += m.shards[i].byID.len()
		}
		return n
	}
	if n := subjects(); n != 10 || held != 10 {
		t.Errorf("%d subjects of %d sessions, want 10", n, held)
	}
	clk.advance(time.Minute)
	m.sweep()
	if n := subjects(); n != 0 {
		t.Errorf("%d subjects are left of sessions that expired", n)
	}
}

func TestParseSubject(t *testing.T) {
	s := subjectOf("ann")
	text := s.String()
	if got, ok := parseSubject(text); !ok || got != s {
		t.Errorf("%q is read as %v, %v", text, got, ok)
	}
	for _, bad := range []string{"", text[1:], text + "A", "!" + text[1:], subject{}.String(), "AAAAAAAAAAAAAAAAAAAAAA"} {
		if _, ok := parseSubject(bad); ok {
			t.Errorf("%q is read", bad)
		}
	}
}
