package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(patiently{m}) }

// patiently is a run of tests after which goroutines that only need time to end have it: goleak
// alone waits for less than half a second, which is too little on a loaded machine, and for a
// client of Redis that sleeps for a second after it has read a cluster's slots.
type patiently struct{ *testing.M }

func (m patiently) Run() (status int) {
	status = m.M.Run()
	for end := time.Now().Add(20 * time.Second); status == 0 && goleak.Find() != nil && time.Now().Before(end); {
	}
	return status
}

// answer is an Owner that keeps what it was told by a store that answers at once.
type answer struct {
	a        Attachment
	total    uint64
	resumed  bool
	err      error
	attached int
	detached int
	last     uint64 // Detached's total
}

func (w *answer) Attached(a Attachment, total uint64, resumed bool, err error) {
	w.a, w.total, w.resumed, w.err = a, total, resumed, err
	w.attached++
}
func (w *answer) Acknowledged(uint64, uint64) { panic("memory acknowledges in Add") }
func (w *answer) Detached(total uint64, err error) {
	w.last, w.err = total, err
	w.detached++
}

// clock is a monotonic clock that moves when told.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Duration      { return time.Duration(c.ns.Load()) }
func (c *clock) advance(d time.Duration) { c.ns.Add(int64(d)) }

func newTestMemory(t testing.TB, cfg MemoryConfig) (*Memory, *clock) {
	c := new(clock)
	cfg.now = c.now
	m := NewMemory(cfg)
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	return m, c
}

func attach(l Loop, id ID, resume bool) *answer {
	w := new(answer)
	l.Attach(id, "", resume, w)
	return w
}

func testID(i int) (id ID) {
	id[0], id[1], id[15] = byte(i>>8), byte(i), byte(i)
	return id
}

func TestMemoryCountsAndResumes(t *testing.T) {
	m, _ := newTestMemory(t, MemoryConfig{})
	l, id := m.Join(nil), NewID()
	one := attach(l, id, false)
	if one.attached != 1 || one.err != nil || one.resumed || one.total != 0 {
		t.Fatalf("new session: got %+v", one)
	}
	two := attach(l, id, true)
	if !two.resumed {
		t.Error("a session that another connection holds: resumed = false, want true")
	}
	for i, w := range []*answer{one, two, one} {
		if n, ok := w.a.Add(); n != uint64(i+1) || !ok {
			t.Errorf("message %d: Add = %d, %v", i+1, n, ok)
		}
	}
	one.a.Detach(one)
	two.a.Detach(nil)
	if one.detached != 1 || one.last != 3 {
		t.Errorf("Detached came %d times with %d, want once with 3", one.detached, one.last)
	}
	if n, err := m.Lookup(t.Context(), id); n != 3 || err != nil {
		t.Errorf("Lookup = %d, %v, want 3", n, err)
	}
	if w := attach(l, id, true); !w.resumed || w.total != 3 {
		t.Errorf("resume: got %d, resumed %v, want 3, true", w.total, w.resumed)
	}
	if _, err := m.Lookup(t.Context(), NewID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("Lookup of an unknown id: %v, want ErrNotFound", err)
	}
}

func TestMemoryDropsSessionsThatNeverCounted(t *testing.T) {
	m, _ := newTestMemory(t, MemoryConfig{MaxSessions: 1})
	kept := attach(m, testID(1), false)
	kept.a.Add()
	kept.a.Detach(nil)
	for i := range 50 {
		attach(m, testID(2+i), true).a.Detach(nil)
	}
	if n, err := m.Lookup(t.Context(), testID(1)); n != 1 || err != nil {
		t.Errorf("silent sessions pushed out one that counted: Lookup = %d, %v", n, err)
	}
	if w := attach(m, testID(2), true); w.resumed {
		t.Error("a session that never counted was kept")
	}
}

func TestMemoryExpiry(t *testing.T) {
	const ttl = time.Hour
	for _, c := range []struct {
		idle time.Duration
		kept bool
	}{{ttl - 1, true}, {ttl, false}, {ttl + 1, false}} {
		m, clk := newTestMemory(t, MemoryConfig{TTL: ttl})
		w := attach(m, testID(1), false)
		w.a.Add()
		clk.advance(10 * ttl) // attached: does not count as idle
		if _, err := m.Lookup(t.Context(), testID(1)); err != nil {
			t.Fatalf("an attached session expired: %v", err)
		}
		w.a.Detach(nil)
		clk.advance(c.idle)
		if got := attach(m, testID(1), true); got.resumed != c.kept {
			t.Errorf("after %v idle: resumed = %v, want %v", c.idle, got.resumed, c.kept)
		}
	}
}

func TestMemorySweepFreesShardsNobodyVisits(t *testing.T) {
	m, clk := newTestMemory(t, MemoryConfig{TTL: time.Minute})
	before := attachedOrKept.Load()
	for i := range 500 {
		w := attach(m, testID(i), false)
		w.a.Add()
		w.a.Detach(nil)
	}
	if got := attachedOrKept.Load() - before; got != 500 {
		t.Fatalf("gauge says %d sessions, want 500", got)
	}
	clk.advance(time.Minute)
	m.sweep()
	if got := attachedOrKept.Load() - before; got != 0 || m.counted.Load() != 0 {
		t.Errorf("after the sweep: gauge %d, counted %d, want 0", got, m.counted.Load())
	}
}

func TestMemoryBounds(t *testing.T) {
	m, clk := newTestMemory(t, MemoryConfig{MaxSessions: 3})
	var held []*answer
	for i := range 3 {
		w := attach(m, testID(i), false)
		if w.err != nil {
			t.Fatalf("attach %d of 3: %v", i+1, w.err)
		}
		w.a.Add()
		held = append(held, w)
	}
	if w := attach(m, testID(9), false); !errors.Is(w.err, ErrFull) || w.a != nil {
		t.Fatalf("one above the bound: got %v, %v, want nil, ErrFull", w.a, w.err)
	}
	if w := attach(m, testID(1), true); w.err != nil {
		t.Fatalf("a second connection on an attached session needs no room: %v", w.err)
	}
	for _, i := range []int{2, 0} {
		held[i].a.Detach(nil)
		clk.advance(1)
	}
	w := attach(m, testID(9), false) // room: two are idle
	w.a.Add()                        // the fourth that counted
	w.a.Detach(nil)
	for i, kept := range map[int]bool{0: true, 1: true, 2: false, 9: true} {
		if _, err := m.Lookup(t.Context(), testID(i)); (err == nil) != kept {
			t.Errorf("session %d: Lookup error %v, want kept = %v", i, err, kept)
		}
	}
}

func TestMemoryClosed(t *testing.T) {
	m, _ := newTestMemory(t, MemoryConfig{})
	w := attach(m, testID(1), false)
	w.a.Add()
	if err := errors.Join(m.Ready(), m.Close(t.Context()), m.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := attach(m, testID(1), true); !errors.Is(got.err, ErrUnavailable) || m.Ready() == nil {
		t.Errorf("closed store: Attached got %v, Ready %v", got.err, m.Ready())
	}
	w.a.Detach(w)
	if w.detached != 1 {
		t.Error("no Detached from a closed store")
	}
}

func TestMemoryAddAllocatesNothing(t *testing.T) {
	m, _ := newTestMemory(t, MemoryConfig{})
	a := attach(m, NewID(), false).a
	if n := testing.AllocsPerRun(1000, func() { a.Add(); a.Full(); a.Pending(); a.Touch() }); n != 0 {
		t.Errorf("a counted message allocated %v times, want 0", n)
	}
}

func TestMemoryFromManyLoops(t *testing.T) {
	m, _ := newTestMemory(t, MemoryConfig{MaxSessions: 40})
	const loops, rounds, ids = 8, 2000, 64
	var seen [ids]sync.Map // every number of a life of a session is given out once
	var wg sync.WaitGroup
	for g := range loops {
		wg.Go(func() {
			l := m.Join(nil)
			for r := range rounds {
				i := (g*31 + r*7) % ids
				w := attach(l, testID(i), r%2 == 0)
				if w.err != nil {
					continue
				}
				s := w.a.(*session)
				n, _ := w.a.Add()
				if _, twice := seen[i].LoadOrStore(fmt.Sprintf("%p %d", s, n), s); twice {
					t.Errorf("session %d: number %d given out twice", i, n)
				}
				w.a.Detach(w)
			}
		})
	}
	wg.Wait()
	if a, c := m.attached.Load(), m.counted.Load(); a != 0 || c > 40 {
		t.Errorf("at rest: %d attached, %d counted, want 0 and at most 40", a, c)
	}
}

// modelSession and model say what MemoryConfig documents, as naively as possible.
type modelSession struct {
	n        uint64
	refs     int
	cameBack bool
	since    time.Duration // went idle
}

// usedOnce is the documented one: nobody ever came back to it, and it counted three messages at
// most.
func (s *modelSession) usedOnce() bool { return !s.cameBack && s.n <= 3 }

type model struct {
	ttl      time.Duration
	limit    int
	sessions map[ID]*modelSession
}

func (m *model) expire(now time.Duration) {
	for id, s := range m.sessions {
		if s.refs == 0 && now-s.since >= m.ttl {
			delete(m.sessions, id)
		}
	}
}

func (m *model) attached() (n int) {
	for _, s := range m.sessions {
		n += min(s.refs, 1)
	}
	return n
}

// trim evicts until no more have counted than may.
func (m *model) trim() {
	for {
		counted, others := 0, 0
		longest := map[bool]ID{} // idle of all, by usedOnce
		for id, s := range m.sessions {
			if s.n > 0 {
				counted++
			}
			if s.refs > 0 {
				continue
			}
			if !s.usedOnce() {
				others++
			}
			if l, ok := longest[s.usedOnce()]; !ok || s.since < m.sessions[l].since {
				longest[s.usedOnce()] = id
			}
		}
		if counted <= m.limit || len(longest) == 0 {
			return
		}
		victim, ok := longest[5*others <= 4*m.limit]
		if !ok {
			for _, victim = range longest { // the only one
			}
		}
		delete(m.sessions, victim)
	}
}

func TestMemoryAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ttl, ids = 200, 14
		limit := rapid.IntRange(1, 10).Draw(t, "MaxSessions")
		clk := new(clock)
		m := NewMemory(MemoryConfig{TTL: ttl, MaxSessions: limit, now: clk.now})
		defer func() { _ = m.Close(context.Background()) }()
		model := model{ttl: ttl, limit: limit, sessions: map[ID]*modelSession{}}
		type conn struct {
			id ID
			a  Attachment
		}
		var conns []conn
		attachOne := func(t *rapid.T, id ID, resume bool) (c conn, ok bool) {
			model.expire(clk.now())
			s, held := model.sessions[id]
			full := (!held || s.refs == 0) && model.attached() == limit
			w := attach(m, id, resume)
			if full {
				if !errors.Is(w.err, ErrFull) {
					t.Fatalf("%d attached: got %v, want ErrFull", limit, w.err)
				}
				return c, false
			}
			if !held {
				s = &modelSession{}
				model.sessions[id] = s
			}
			s.cameBack = s.cameBack || held && s.refs == 0
			s.refs++
			model.trim()
			if w.err != nil || w.resumed != held || w.total != s.n {
				t.Fatalf("attach: got total %d, resumed %v, %v, want %d, %v", w.total, w.resumed, w.err, s.n, held)
			}
			return conn{id, w.a}, true
		}
		add := func(t *rapid.T, c conn, messages int) {
			for range messages {
				s := model.sessions[c.id]
				s.n++
				if n, ok := c.a.Add(); !ok || n != s.n {
					t.Fatalf("Add = %d, %v, want %d", n, ok, s.n)
				}
			}
		}
		detach := func(t *rapid.T, c conn) {
			model.expire(clk.now())
			s := model.sessions[c.id]
			if s.refs--; s.refs == 0 {
				s.since = clk.now()
				if s.n == 0 {
					delete(model.sessions, c.id)
				}
			}
			want := s.n
			model.trim()
			w := new(answer)
			if c.a.Detach(w); w.detached != 1 || w.last != want {
				t.Fatalf("Detached %d times with %d, want once with %d", w.detached, w.last, want)
			}
		}
		drawID := func(t *rapid.T) ID { return testID(rapid.IntRange(0, ids-1).Draw(t, "id")) }
		t.Repeat(map[string]func(*rapid.T){
			"attach": func(t *rapid.T) {
				if c, ok := attachOne(t, drawID(t), rapid.Bool().Draw(t, "resume")); ok {
					conns = append(conns, c)
				}
			},
			"add": func(t *rapid.T) {
				if len(conns) == 0 {
					t.Skip()
				}
				add(t, rapid.SampledFrom(conns).Draw(t, "conn"), rapid.IntRange(1, 4).Draw(t, "messages"))
			},
			"detach": func(t *rapid.T) {
				if len(conns) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(conns)-1).Draw(t, "conn")
				c := conns[i]
				conns = slices.Delete(conns, i, i+1)
				detach(t, c)
			},
			"come, count and go": func(t *rapid.T) {
				if c, ok := attachOne(t, drawID(t), true); ok {
					add(t, c, rapid.IntRange(1, 4).Draw(t, "messages"))
					detach(t, c)
				}
			},
			"advance": func(t *rapid.T) {
				clk.advance(time.Duration(rapid.IntRange(1, ttl).Draw(t, "by")))
			},
			"": func(t *rapid.T) {
				clk.advance(1) // sessions that go idle at the same instant have no order to check
				model.expire(clk.now())
				m.sweep()
				for i := range ids {
					s, held := model.sessions[testID(i)]
					n, err := m.Lookup(context.Background(), testID(i))
					if held && s.n > 0 != (err == nil) || err == nil && (!held || n != s.n) {
						t.Fatalf("session %d: Lookup = %d, %v, model %+v", i, n, err, s)
					}
				}
			},
		})
	})
}
