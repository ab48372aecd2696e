package sessions

import (
	"encoding/binary"
	"time"
)

// A client comes back for its session while this process takes over from another. The session may
// be here already, or still there: idle, or with a connection that has yet to move. So that the
// client need not wait until all have moved, this process asks (MemoryConfig.Ask), and the one
// before answers (Answer). It gives an idle session away at once; and of every id it says, perhaps
// later, that it has nothing of it any more: it never had, or what it had has moved. The questions
// go on until that process has ended, for clients that could not move leave it last.

// asker has the resumes of a Memory whose role is Taking. Under Memory.waitMu.
type asker struct {
	waiting map[ID][]func() // by the session that they ask for
	next    []ID            // to be asked for
	asking  bool            // a goroutine asks
}

// wait keeps a resume until it is known that the process before has nothing of the session, or the
// role is no longer Taking. It reports whether it still was.
func (m *Memory) wait(id ID, resume func()) bool {
	m.waitMu.Lock()
	defer m.waitMu.Unlock()
	if Role(m.role.Load()) != Taking {
		return false
	}
	a := &m.asker
	list := a.waiting[id]
	if a.waiting == nil {
		a.waiting = make(map[ID][]func())
	}
	a.waiting[id] = append(list, resume)
	if list == nil && m.ask != nil {
		a.next = append(a.next, id)
		if !a.asking {
			a.asking = true
			go m.askAll()
		}
	}
	return true
}

// questionSize is how many sessions one question is about, at most.
const questionSize = 1024

// askAll asks until there is nothing to ask for. When asking fails, the process before is gone, and
// whoever called Handover will notice.
func (m *Memory) askAll() {
	for {
		m.waitMu.Lock()
		ids := m.asker.next
		if len(ids) == 0 {
			m.asker.asking = false
			m.waitMu.Unlock()
			return
		}
		ids = ids[:min(len(ids), questionSize)]
		m.asker.next = m.asker.next[len(ids):]
		m.waitMu.Unlock()
		if m.ask(appendIDs([]byte{packedVersion}, ids)) != nil {
			return
		}
	}
}

// resume lets the resumes of these sessions go on, or those of all sessions with nil.
func (m *Memory) resume(ids []ID) {
	var ready []func()
	m.waitMu.Lock()
	if ids == nil {
		for _, list := range m.asker.waiting {
			ready = append(ready, list...)
		}
		m.asker = asker{}
	}
	for _, id := range ids {
		ready = append(ready, m.asker.waiting[id]...)
		delete(m.asker.waiting, id)
	}
	m.waitMu.Unlock()
	for _, resume := range ready {
		resume()
	}
}

// held reports whether the session is here.
func (m *Memory) held(id ID) bool {
	sh := m.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.byID.get(id) != nil
}

// answerer answers questions, while the role is Giving.
type answerer struct {
	questions chan []ID
	stop      chan struct{}
}

// Answer takes a question of the process to which this one gives its connections. The answers are
// chunks for its Import; send is called by one goroutine at a time, until it fails or the role is
// no longer Giving. One goroutine at a time, but a loop's.
func (m *Memory) Answer(question []byte, send func(chunk []byte) error) error {
	u := unpack(question)
	ids := u.ids()
	if err := u.end(); err != nil {
		return err
	}
	m.waitMu.Lock()
	a := m.answerer
	if a == nil && Role(m.role.Load()) == Giving {
		a = &answerer{questions: make(chan []ID), stop: make(chan struct{})}
		m.answerer = a
		go m.answer(a, send)
	}
	m.waitMu.Unlock()
	if a == nil {
		return ErrUnavailable
	}
	select {
	case a.questions <- ids:
	case <-a.stop:
	}
	return nil
}

// stopAnswering ends what Answer began: the answerer a, if it has not ended yet, or with nil
// whichever there is.
func (m *Memory) stopAnswering(a *answerer) {
	m.waitMu.Lock()
	defer m.waitMu.Unlock()
	if m.answerer != nil && (a == nil || a == m.answerer) {
		close(m.answerer.stop)
		m.answerer = nil
	}
}

// lookEvery is how often a session that has connections here is looked at again.
const lookEvery = 20 * time.Millisecond

func (m *Memory) answer(a *answerer, send func(chunk []byte) error) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var attached []ID
	for {
		var ids []ID
		select {
		case <-a.stop:
			return
		case ids = <-a.questions:
		case <-look.C:
			ids, attached = attached, nil
		}
		b := []byte{packedVersion}
		gone := []ID{}
		for _, id := range ids {
			var here bool
			if b, here = m.shard(id).give(b, id); here {
				attached = append(attached, id)
			} else {
				gone = append(gone, id)
			}
		}
		if len(b) > 1 && send(b) != nil ||
			len(gone) > 0 && send(appendIDs([]byte{packedGone}, gone)) != nil {
			m.stopAnswering(a)
			return
		}
	}
}

// given reports whether the other process has been sent an idle session. Under sh.mu.
func (sh *shard) given(s *session) bool { return sh.exported && s.exported }

// give appends the session and forgets it, if it is idle and the other process does not have it.
// It reports whether the session is attached here.
func (sh *shard) give(b []byte, id ID) (chunk []byte, attached bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.byID.get(id)
	switch {
	case s == nil:
		return b, false
	case s.refs > 0:
		return b, true
	}
	if sh.expired(s) {
		sessionsExpired.Inc()
	} else if !sh.given(s) {
		b = sh.pack(b, s)
	}
	sh.forget(s)
	return b, false
}

func appendIDs(b []byte, ids []ID) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// ids reads what appendIDs appended.
func (u *unpacker) ids() (ids []ID) {
	ids = []ID{}
	for n := u.number(); n > 0 && !u.fail; n-- {
		ids = append(ids, u.array())
	}
	return ids
}
