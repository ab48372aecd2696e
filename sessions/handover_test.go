package sessions

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// move takes m's connection to another process' loop.
func (m *member) move(t testing.TB, to *testLoop) *member {
	t.Helper()
	var state []byte
	m.loop.on(func() {
		if !m.a.CanMove(false) {
			t.Errorf("%s cannot move", m.name)
		}
		state = m.a.Pack(nil)
	})
	moved := &member{t: t, loop: to, name: m.name + " moved", total: m.total}
	to.on(func() {
		a, err := to.Unpack(state, moved)
		if err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		moved.a = a
	})
	m.loop.on(func() { m.a.Moved() })
	return moved
}

// A connection goes on counting where it was, in the other process, and its session resumes there;
// with Redis no field is added to a session that one connection was in.
func TestSessionsMove(t *testing.T) {
	r := startRedis(t)
	for _, kind := range []string{"memory", "redis"} {
		t.Run(kind, func(t *testing.T) {
			open := func() Store {
				if kind == "redis" {
					return newTestRedis(t, steady(r.url()))
				}
				m, _ := newTestMemory(t, MemoryConfig{})
				return m
			}
			old, next := open(), open()
			from, to := newTestLoop(t, old), newTestLoop(t, next)
			idle, id, silent := NewID(), NewID(), NewID()
			for range 3 {
				m := from.joinAs(t, idle, "ann", true)
				m.add(1)
				count(t, m)
				m.leave()
			}
			alone := from.joinAs(t, id, "ann", false)
			alone.add(5)
			count(t, alone)
			never := from.joinAs(t, silent, "", false)
			old.Handover(Giving)
			next.Handover(Taking)
			waiting := &member{t: t, loop: to, name: "waiting"}
			to.on(func() { to.Attach(id, "ann", true, waiting) })
			moved, quiet := alone.move(t, to), never.move(t, to)
			old.Export(func(chunk []byte) bool {
				if err := next.Import(chunk); err != nil {
					t.Errorf("Import: %v", err)
				}
				return true
			})
			next.Handover(Serving)
			eventually(t, "the resume is answered", func() bool { return get(waiting, &waiting.attached) == 1 })
			if total := get(waiting, &waiting.total); total != 5 || waiting.err != nil {
				t.Errorf("a resume while sessions move: %d, %v, want 5", total, waiting.err)
			}
			for _, m := range []*member{moved, waiting, quiet} {
				m.add(2)
				count(t, m)
			}
			for id, want := range map[ID]uint64{id: 9, idle: 3, silent: 2} {
				if m := to.joinAs(t, id, "ann", true); m.total != want || m.err != nil {
					t.Errorf("resumed in the other process: %d, %v, want %d", m.total, m.err, want)
				}
			}
			if m := to.joinAs(t, id, "bob", true); !errors.Is(m.err, ErrForbidden) {
				t.Errorf("somebody else resumes it: %v", m.err)
			}
			if total, err := moved.leave(); total != 9 || err != nil {
				t.Errorf("the final total is %d, %v, want 9", total, err)
			}
			if kind == "redis" {
				late := to.joinAs(t, idle, "ann", true)
				late.add(1)
				count(t, late)
				key := old.(*Redis).key(idle)
				if got := r.cli("hlen", key); got != "3" {
					t.Errorf("a session has %s fields, want n, s and one process': %s", got, r.cli("hgetall", key))
				}
			}
		})
	}
}

// Connections that share a session: in memory they move when nobody counts any more; with Redis
// one by one. In both each number is given out once.
func TestSharedSessionsMove(t *testing.T) {
	r := startRedis(t)
	m, _ := newTestMemory(t, MemoryConfig{})
	n, _ := newTestMemory(t, MemoryConfig{})
	for name, stores := range map[string][2]Store{
		"memory": {m, n}, "redis": {newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newTestLoop(t, stores[0]), newTestLoop(t, stores[1])
			id := NewID()
			var all []*member
			for range 3 {
				c := from.join(t, id, true)
				c.add(2)
				count(t, c)
				all = append(all, c)
			}
			stores[0].Handover(Giving)
			for i, c := range all {
				var can, last bool
				c.loop.on(func() { can, last = c.a.CanMove(false), c.a.CanMove(true) })
				if !last || can != (name == "redis" || i == 2) {
					t.Errorf("connection %d: CanMove %v, and %v as the last", i, can, last)
				}
				var state []byte
				c.loop.on(func() { state = c.a.Pack(nil) })
				moved := &member{t: t, loop: to, name: fmt.Sprint("moved ", i)}
				to.on(func() { moved.a, moved.err = to.Unpack(state, moved) })
				if moved.err != nil {
					t.Fatal(moved.err)
				}
				c.loop.on(func() { c.a.Moved() })
				moved.add(1)
				count(t, moved)
				all[i] = moved
			}
			if total, err := all[2].leave(); total != 9 || err != nil {
				t.Errorf("the final total is %d, %v, want 9", total, err)
			}
		})
	}
}

// A connection that does not come after all goes on where it was.
func TestSessionsStay(t *testing.T) {
	r := startRedis(t)
	m, _ := newTestMemory(t, MemoryConfig{})
	n, _ := newTestMemory(t, MemoryConfig{})
	for name, stores := range map[string][2]Store{
		"memory": {m, n}, "redis": {newTestRedis(t, steady(r.url())), newTestRedis(t, steady(r.url()))},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newTestLoop(t, stores[0]), newTestLoop(t, stores[1])
			id := NewID()
			c := from.join(t, id, false)
			c.add(4)
			count(t, c)
			stores[0].Handover(Giving)
			to.on(func() {
				a, err := to.Unpack(c.a.Pack(nil), &member{t: t})
				if err != nil {
					t.Fatal(err)
				}
				a.Moved()
			})
			stores[0].Handover(Serving)
			c.add(1)
			count(t, c)
			if total, err := c.leave(); total != 5 || err != nil {
				t.Errorf("the final total is %d, %v, want 5", total, err)
			}
			if got := from.join(t, id, true); got.total != 5 {
				t.Errorf("resumed at %d, want 5", got.total)
			}
			if name == "memory" {
				if held := n.counted.Load() + n.attached.Load(); held != 0 {
					t.Errorf("the other store holds %d", held)
				}
			}
		})
	}
}

// While something is on its way to Redis it cannot travel.
func TestPendingSessionsCannotMove(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l := newTestLoop(t, s)
	c := l.join(t, NewID(), false)
	r.kill()
	c.add(1)
	l.on(func() {
		if c.a.CanMove(false) || c.a.CanMove(true) {
			t.Error("it can move with a message pending")
		}
	})
	r.start()
	count(t, c)
	l.on(func() {
		if !c.a.CanMove(false) {
			t.Error("it cannot move when nothing is pending")
		}
	})
}

// Idle sessions arrive with their time and their order: they expire, and are evicted, as they would
// have been.
func TestMemoryImportKeepsOrderAndTime(t *testing.T) {
	const sessions = 5000
	old, then := newTestMemory(t, MemoryConfig{TTL: time.Hour})
	next, now := newTestMemory(t, MemoryConfig{TTL: time.Hour, MaxSessions: sessions})
	for i := range sessions {
		w := attach(old, testID(i), false)
		for range 1 + i%5 {
			w.a.Add()
		}
		w.a.Detach(nil)
		then.advance(time.Millisecond)
	}
	now.advance(3 * time.Hour)
	own := attach(next, NewID(), false) // went idle here before the others came
	own.a.Add()
	own.a.Detach(nil)
	chunks := 0
	old.Export(func(chunk []byte) bool {
		chunks++
		if len(chunk) > chunkSize+64 {
			t.Errorf("a chunk has %d bytes", len(chunk))
		}
		for range 2 { // once more changes nothing
			if err := next.Import(chunk); err != nil {
				t.Error(err)
			}
		}
		return true
	})
	if n := next.counted.Load(); n != sessions {
		t.Errorf("%d sessions, want %d, the longest idle of %d evicted", n, sessions, sessions+1)
	}
	for i := range sessions {
		n, err := next.Lookup(t.Context(), testID(i))
		if i > 0 && (err != nil || n != uint64(1+i%5)) {
			t.Fatalf("session %d: %d, %v", i, n, err)
		}
	}
	for i := range next.shards {
		for seg := range next.shards[i].idle {
			list := &next.shards[i].idle[seg]
			last := (*session)(nil)
			for s := list.head; s != nil; last, s = s, s.next {
				if s.prev != last || last != nil && last.idleSince > s.idleSince {
					t.Fatalf("shard %d: the list is out of order", i)
				}
			}
			if list.tail != last {
				t.Fatalf("shard %d: the list has a wrong tail", i)
			}
		}
	}
	now.advance(time.Hour - sessions/2*time.Millisecond)
	next.sweep()
	if n := next.counted.Load(); n < sessions/2-2 || n > sessions/2+2 {
		t.Errorf("%d sessions are left after an hour less half of their span, want about %d", n, sessions/2)
	}
	if err := old.Import([]byte{packedVersion + 1}); !errors.Is(err, errPacked) {
		t.Errorf("another version: %v", err)
	}
}

// FuzzUnpack: no state crashes a store, and what is read is what was written.
func FuzzUnpack(f *testing.F) {
	p := packed{id: NewID(), subject: subjectOf("ann"), inherit: "c:x", incarnations: 7,
		fields: []field{{"c:x", contribution{7, 1, 2, 3}}, {"c:y", contribution{1, 0, 9, 9}}}}
	f.Add(p.append(nil))
	f.Add([]byte{packedVersion})
	f.Add([]byte{packedVersion + 1, 0})
	f.Add([]byte{})
	m := NewMemory(MemoryConfig{MaxSessions: 100})
	f.Cleanup(func() { _ = m.Close(f.Context()) })
	w := attach(m, NewID(), false)
	w.a.Add()
	f.Add(w.a.Pack(nil))
	f.Fuzz(func(t *testing.T, state []byte) {
		if p, err := parsePacked(state); err == nil {
			again, err := parsePacked(p.append(nil))
			if err != nil || !bytes.Equal(again.append(nil), p.append(nil)) {
				t.Errorf("%x is read as %+v, and that as %+v, %v", state, p, again, err)
			}
		}
		if a, err := m.Unpack(state, nil); err == nil {
			a.Moved()
		}
		_ = m.Import(state)
	})
}
