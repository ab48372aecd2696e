package sessions

import (
	"encoding/binary"
	"time"
)

// memoryLoop is one loop's side of a Memory. It needs nothing of the loop but while sessions come
// from another process.
type memoryLoop struct {
	*Memory
	post func(fn func()) bool
}

var _ Loop = memoryLoop{}

// Attach calls o.Attached before it returns, unless it is a resume while sessions are being taken.
func (l memoryLoop) Attach(id ID, name string, resume bool, o Owner) {
	m := l.Memory
	if resume {
		switch Role(m.role.Load()) {
		case Giving:
			sessionsRejected.Inc()
			o.Attached(nil, 0, false, ErrUnavailable)
			return
		case Taking:
			attach := func() { l.post(func() { m.Attach(id, name, resume, o) }) }
			if !m.held(id) && m.wait(id, attach) {
				return
			}
		}
	}
	m.Attach(id, name, resume, o)
}

// Handover refuses resumes while the role is Giving, and lets them wait while it is Taking and it
// is not known where their sessions are.
func (m *Memory) Handover(r Role) {
	if r == Taken {
		if !m.role.CompareAndSwap(int32(Taking), int32(Serving)) {
			return
		}
	} else {
		m.role.Store(int32(r))
	}
	m.stopAnswering(nil)
	if r == Giving {
		for i := range m.shards {
			sh := &m.shards[i]
			sh.mu.Lock()
			sh.exported = false
			sh.mu.Unlock()
		}
	}
	if r != Taking {
		m.resume(nil)
	}
}

// CanMove says that no other connection may count in the session once this one has been packed.
func (s *session) CanMove(last bool) bool {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return last || s.refs == 1
}

// Pack appends the whole session.
func (s *session) Pack(b []byte) []byte {
	s.shard.mu.Lock()
	defer s.shard.mu.Unlock()
	return s.shard.pack(append(b, packedVersion), s)
}

// pack appends a session, and for how long it has been idle. Under sh.mu.
func (sh *shard) pack(b []byte, s *session) []byte {
	who, owned := sh.subjects[s.id]
	idle := time.Duration(0)
	if s.refs == 0 {
		idle = max(0, sh.store.now()-s.idleSince)
	}
	flags := byte(0)
	if s.resumed {
		flags |= packedResumed
	}
	if owned {
		flags |= packedOwned
	}
	b = append(append(b, flags), s.id[:]...)
	if owned {
		b = append(b, who[:]...)
	}
	b = binary.AppendUvarint(b, min(s.n.Load(), maxTotal))
	return binary.AppendUvarint(b, uint64(idle/time.Millisecond))
}

const (
	packedResumed = 1 << iota
	packedOwned
)

// packedSession is what pack wrote.
type packedSession struct {
	id      ID
	who     subject
	n       uint64
	idle    time.Duration
	resumed bool
}

func (u *unpacker) session() (p packedSession) {
	flags := byte(0)
	if b := u.bytes(1); b != nil {
		flags = b[0]
	}
	p.resumed = flags&packedResumed != 0
	p.id = u.array()
	if flags&packedOwned != 0 {
		p.who = u.array()
	}
	p.n = u.number()
	const longest = 1 << 53 / uint64(time.Millisecond) // in ms: what a Duration can hold
	p.idle = time.Duration(min(u.number(), longest)) * time.Millisecond
	u.fail = u.fail || flags&^(packedResumed|packedOwned) != 0
	return p
}

// Moved removes the connection. With the last one the session is gone: it did not go idle, the
// other process has it.
func (s *session) Moved() {
	sh := s.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return
	}
	sh.store.attached.Add(-1)
	if sh.byID.get(s.id) == s {
		if s.n.Load() > 0 {
			sh.store.counted.Add(-1)
		}
		sh.drop(s)
	}
}

// Unpack adds the connection, and the session with the first of them.
func (m *Memory) Unpack(state []byte, _ Owner) (Attachment, error) {
	u := unpack(state)
	p := u.session()
	if err := u.end(); err != nil {
		return nil, err
	}
	if m.closed.Load() {
		return nil, ErrUnavailable
	}
	sh := m.shard(p.id)
	sh.mu.Lock()
	s, err := sh.take(p)
	if err == nil && s.refs == 0 {
		if m.attached.Add(1) > m.max {
			m.attached.Add(-1)
			err = ErrFull
		}
	}
	if err == nil {
		s.refs++
	}
	sh.mu.Unlock()
	if err != nil {
		return nil, err
	}
	m.trim()
	return s, nil
}

// take adds a session that comes from another process, or returns the one that is attached here, in
// which it has arrived before. Under sh.mu.
func (sh *shard) take(p packedSession) (*session, error) {
	s := sh.byID.get(p.id)
	switch {
	case s == nil:
		s = &session{id: p.id, shard: sh}
		sh.hold(s, p.who)
	case !sh.subjects[p.id].mayUse(p.who):
		return nil, ErrForbidden
	case s.refs == 0:
		sh.unlink(s)
	}
	if n := s.n.Load(); n < p.n {
		s.n.Store(p.n)
		if n == 0 {
			sh.store.counted.Add(1)
		}
	}
	s.resumed = s.resumed || p.resumed
	return s, nil
}

// chunkSize is how long a chunk of Export becomes, about.
const chunkSize = 64 << 10

// Export yields the idle sessions.
func (m *Memory) Export(yield func(chunk []byte) bool) {
	b := make([]byte, 0, chunkSize+64)
	for i := range m.shards {
		sh := &m.shards[i]
		for seg := range sh.idle {
			var from *session
			for more := true; more; {
				b, from, more = sh.export(append(b[:0], packedVersion), &sh.idle[seg], from)
				if len(b) > 1 && !yield(b) {
					return
				}
			}
		}
		sh.mu.Lock()
		sh.exported = true
		sh.mu.Unlock()
	}
}

// export appends idle sessions of one list, those after from, until the chunk is full. It reports
// the last one, and whether there may be more. When that one has left the list by the next call,
// because it expired or was asked for, the list is gone through from its head: what is sent twice
// does no harm.
func (sh *shard) export(b []byte, list *idleList, from *session) ([]byte, *session, bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := list.head
	if from != nil && sh.byID.get(from.id) == from && from.refs == 0 {
		s = from.next
	}
	for ; s != nil && len(b) < chunkSize; s = s.next {
		from = s
		if !sh.given(s) {
			b = sh.pack(b, s)
			s.exported = true
		}
	}
	return b, from, s != nil
}

// Import adds idle sessions, each with the time for which it has been idle, or lets resumes go on.
func (m *Memory) Import(chunk []byte) error {
	if len(chunk) > 0 && chunk[0] == packedGone {
		u := &unpacker{b: chunk[1:]}
		ids := u.ids()
		if err := u.end(); err != nil {
			return err
		}
		m.resume(ids)
		return nil
	}
	u := unpack(chunk)
	for !u.fail && len(u.b) > 0 {
		p := u.session()
		if u.fail {
			break
		}
		sh := m.shard(p.id)
		sh.mu.Lock()
		if s, err := sh.take(p); err == nil && s.refs == 0 {
			sh.goIdle(s, m.now()-p.idle)
		}
		sh.mu.Unlock()
	}
	m.trim()
	return u.end()
}
