package sessions

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"
)

// pair is two memories, of which the second takes over from the first and asks it.
type pair struct {
	t         *testing.T
	old, next *Memory
	oldClock  *clock
	from, to  *testLoop

	mu     sync.Mutex
	chunks int // answers
	cut    bool
}

func newPair(t *testing.T) *pair {
	p := &pair{t: t}
	p.old, p.oldClock = newTestMemory(t, MemoryConfig{TTL: time.Hour})
	p.next, _ = newTestMemory(t, MemoryConfig{TTL: time.Hour, Ask: func(question []byte) error {
		return p.old.Answer(question, func(chunk []byte) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.cut {
				return errors.New("the other process has ended")
			}
			p.chunks++
			return p.next.Import(bytes.Clone(chunk))
		})
	}})
	p.from, p.to = newTestLoop(t, p.old), newTestLoop(t, p.next)
	return p
}

// move begins the takeover.
func (p *pair) move() {
	p.old.Handover(Giving)
	p.next.Handover(Taking)
}

func (p *pair) export() {
	p.t.Helper()
	p.old.Export(func(chunk []byte) bool {
		if err := p.next.Import(bytes.Clone(chunk)); err != nil {
			p.t.Errorf("Import: %v", err)
		}
		return true
	})
}

// idle is a session of the old process that has counted n messages, and whose client has left.
func (p *pair) idle(subject string, n int) ID {
	p.t.Helper()
	id := NewID()
	m := p.from.joinAs(p.t, id, subject, false)
	m.add(n)
	m.leave()
	return id
}

// resumes checks what a client finds that asks the next process for a session.
func (p *pair) resumes(id ID, subject string, total uint64, resumed bool) *member {
	p.t.Helper()
	m := p.to.joinAs(p.t, id, subject, true)
	if m.total != total || m.resumed != resumed || m.err != nil {
		p.t.Errorf("resumed with %d, %v, %v; want %d, %v", m.total, m.resumed, m.err, total, resumed)
	}
	return m
}

// While the old process still gives its connections away, sessions resume: those that are idle
// there, and those that are nowhere.
func TestResumeWhileOthersMove(t *testing.T) {
	p := newPair(t)
	plain, owned, expired := p.idle("", 3), p.idle("ann", 4), p.idle("", 5)
	p.move()
	p.resumes(plain, "", 3, true).add(2)
	if m := p.to.joinAs(t, owned, "bob", true); !errors.Is(m.err, ErrForbidden) {
		t.Errorf("somebody else's session: %v", m.err)
	}
	p.resumes(owned, "ann", 4, true)
	p.resumes(NewID(), "", 0, false)
	p.resumes(plain, "", 5, true) // it is here
	p.oldClock.advance(time.Hour)
	p.resumes(expired, "", 0, false)
	p.export()
	p.next.Handover(Taken)
	p.resumes(plain, "", 5, true)
	if n := p.old.attached.Load() + p.old.counted.Load(); n != 0 {
		t.Errorf("%d sessions are left in the old process", n)
	}
}

// A session with a connection is resumed when that has moved, or has left.
func TestResumeWaitsForTheConnection(t *testing.T) {
	p := newPair(t)
	moves, leaves := NewID(), NewID()
	a, b := p.from.join(t, moves, false), p.from.join(t, leaves, false)
	a.add(3)
	b.add(4)
	p.move()
	back := map[ID]*member{}
	for _, id := range []ID{moves, leaves} {
		m := &member{t: t, loop: p.to, name: "back"}
		p.to.on(func() { p.to.Attach(id, "", true, m) })
		back[id] = m
	}
	p.resumes(NewID(), "", 0, false) // what came before has been looked at
	time.Sleep(2 * lookEvery)
	for _, m := range back {
		if n := get(m, &m.attached); n != 0 {
			t.Error("a session is resumed while the old process counts in it")
		}
	}
	moved := a.move(t, p.to)
	b.leave()
	for id, want := range map[ID]uint64{moves: 3, leaves: 4} {
		m := back[id]
		eventually(t, "the resume is answered", func() bool { return get(m, &m.attached) == 1 })
		if total := get(m, &m.total); total != want {
			t.Errorf("resumed with %d, want %d", total, want)
		}
	}
	moved.add(1)
	back[moves].add(1)
	p.resumes(moves, "", 5, true)
}

// Clients that could not travel leave the old process last. Their sessions are found too, whether
// they come back before it has ended or afterwards.
func TestResumeOfThoseThatCouldNotMove(t *testing.T) {
	p := newPair(t)
	before := p.idle("", 2)
	first, second := NewID(), NewID()
	a, b := p.from.join(t, first, false), p.from.join(t, second, false)
	a.add(3)
	b.add(4)
	p.move()
	p.export() // and the new process accepts
	a.leave()
	p.resumes(first, "", 3, true)
	b.leave()
	p.mu.Lock()
	p.chunks = 0
	p.mu.Unlock()
	p.export() // what is left; the old process ends
	p.next.Handover(Taken)
	p.resumes(second, "", 4, true)
	p.resumes(before, "", 2, true)
	p.resumes(NewID(), "", 0, false)
	if p.chunks != 0 {
		t.Errorf("%d answers after the old process has ended", p.chunks)
	}
}

// What the other process has had is not given a second time: there it may have been forgotten, or
// have counted on.
func TestExportedIsNotGivenAgain(t *testing.T) {
	p := newPair(t)
	id := p.idle("", 2)
	p.move()
	p.export()
	sh := p.next.shard(id)
	sh.mu.Lock()
	sh.forget(sh.byID.get(id))
	sh.mu.Unlock()
	p.resumes(id, "", 0, false)

	// The takeover comes to nothing, and there is another.
	kept := p.idle("", 3)
	p.old.Handover(Giving)
	p.export()
	p.old.Handover(Serving)
	p.next, _ = newTestMemory(t, MemoryConfig{Ask: p.next.ask})
	p.to = newTestLoop(t, p.next)
	p.move()
	p.resumes(kept, "", 3, true)
}

// The old process is killed: whoever waits goes on without what it had.
func TestTheProcessThatIsAskedEnds(t *testing.T) {
	p := newPair(t)
	id := p.idle("", 3)
	p.move()
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	m := &member{t: t, loop: p.to, name: "back"}
	p.to.on(func() { p.to.Attach(id, "", true, m) })
	eventually(t, "the answer has failed", func() bool {
		p.old.waitMu.Lock()
		defer p.old.waitMu.Unlock()
		return p.old.answerer == nil
	})
	if get(m, &m.attached) != 0 {
		t.Error("a resume is answered though nobody knows of the session")
	}
	p.next.Handover(Taken)
	eventually(t, "the resume is answered", func() bool { return get(m, &m.attached) == 1 })
	if m.total != 0 || m.resumed || m.err != nil {
		t.Errorf("resumed with %d, %v, %v", m.total, m.resumed, m.err)
	}
}

// Many come back at one time, of every kind, while the rest moves.
func TestManyResumeWhileOthersMove(t *testing.T) {
	p := newPair(t)
	const n = 3000 // some questions
	var ids []ID
	var there []*member
	for i := range n {
		if i%2 == 0 {
			ids = append(ids, p.idle("", 1+i%7))
		} else {
			id := NewID()
			m := p.from.join(t, id, false)
			m.add(1 + i%7)
			ids, there = append(ids, id), append(there, m)
		}
	}
	p.move()
	var back []*member
	p.to.on(func() {
		for _, id := range ids {
			m := &member{t: t, loop: p.to, name: "back"}
			p.to.Attach(id, "", true, m)
			back = append(back, m)
		}
	})
	for _, m := range there {
		m.move(t, p.to)
	}
	for i, m := range back {
		eventually(t, "the resume is answered", func() bool { return get(m, &m.attached) == 1 })
		if m.total != uint64(1+i%7) || m.err != nil {
			t.Errorf("session %d is resumed with %d, %v; want %d", i, m.total, m.err, 1+i%7)
		}
	}
}

func TestQuestionsOfAnotherVersion(t *testing.T) {
	p := newPair(t)
	if err := p.old.Answer(appendIDs([]byte{packedVersion}, nil), nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a question while nothing is given away: %v", err)
	}
	p.move()
	id := NewID()
	for _, question := range [][]byte{nil, {9}, {packedVersion}, append([]byte{packedVersion, 2}, id[:]...),
		append([]byte{packedVersion, 0}, 7)} {
		if err := p.old.Answer(question, nil); err == nil {
			t.Errorf("%v is taken for a question", question)
		}
	}
	for _, chunk := range [][]byte{{packedGone}, {packedGone, 1, 2}} {
		if err := p.next.Import(chunk); err == nil {
			t.Errorf("%v is taken for an answer", chunk)
		}
	}
}
