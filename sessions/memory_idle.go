package sessions

import "time"

// attach adds a connection to session id, making the session if need be. held says that it was
// there. It returns ErrFull when as many sessions are attached as may be, and ErrForbidden when it
// was made with another subject.
func (sh *shard) attach(id ID, who subject) (s *session, held bool, err error) {
	m := sh.store
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.expire()
	s = sh.byID.get(id)
	held = s != nil
	if held && sh.expired(s) { // expire did not come to it
		sh.forget(s)
		sessionsExpired.Inc()
		held = false
	}
	if held && !sh.subjects[id].mayUse(who) {
		return nil, true, ErrForbidden
	}
	if held && s.refs > 0 {
		s.refs++
		return s, true, nil
	}
	if m.attached.Add(1) > m.max {
		m.attached.Add(-1)
		return nil, false, ErrFull
	}
	if held {
		sh.unlink(s)
		s.resumed = true
	} else {
		s = &session{id: id, shard: sh}
		sh.hold(s, who)
	}
	s.refs = 1
	return s, held, nil
}

// hold adds a session. Under sh.mu.
func (sh *shard) hold(s *session, who subject) {
	sh.byID.add(s)
	attachedOrKept.Add(1)
	if who != (subject{}) {
		if sh.subjects == nil {
			sh.subjects = map[ID]subject{}
		}
		sh.subjects[s.id] = who
	}
}

// drop removes a session. Under sh.mu.
func (sh *shard) drop(s *session) {
	sh.byID.remove(s.id)
	delete(sh.subjects, s.id)
	attachedOrKept.Add(-1)
}

// detach removes a connection. With the last one a session that counted goes idle; one that never
// did is dropped, so that connections which say nothing cannot push out sessions.
func (sh *shard) detach(s *session) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.expire()
	if s.refs--; s.refs > 0 {
		return
	}
	sh.store.attached.Add(-1)
	if sh.byID.get(s.id) != s {
		return // the store was closed meanwhile
	}
	if s.n.Load() == 0 {
		sh.drop(s)
		return
	}
	sh.goIdle(s, sh.store.now())
}

// goIdle puts s on its idle list, behind those that have been idle for longer. Only a session that
// comes from another process may belong before others. Under sh.mu.
func (sh *shard) goIdle(s *session, since time.Duration) {
	s.idleSince, s.in, s.exported = since, fresh, false
	if s.resumed || s.n.Load() > usedOnce {
		s.in = kept
		sh.store.kept.Add(1)
	}
	sessionsIdle[s.in].Add(1)
	list := &sh.idle[s.in]
	before := list.tail
	for before != nil && before.idleSince > since {
		before = before.prev
	}
	if s.prev = before; before != nil {
		s.next, before.next = before.next, s
	} else {
		s.next, list.head = list.head, s
		list.oldest.Store(int64(since))
	}
	if s.next != nil {
		s.next.prev = s
	} else {
		list.tail = s
	}
}

// unlink takes s off its idle list. Under sh.mu.
func (sh *shard) unlink(s *session) {
	list := &sh.idle[s.in]
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		list.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		list.tail = s.prev
	}
	s.prev, s.next = nil, nil
	if list.head != nil {
		list.oldest.Store(int64(list.head.idleSince))
	} else {
		list.oldest.Store(never)
	}
	sessionsIdle[s.in].Add(-1)
	if s.in == kept {
		sh.store.kept.Add(-1)
	}
}

// forget removes an idle session. Under sh.mu.
func (sh *shard) forget(s *session) {
	sh.unlink(s)
	sh.drop(s)
	sh.store.counted.Add(-1)
}

func (sh *shard) expired(s *session) bool {
	return s.refs == 0 && sh.store.now()-s.idleSince >= sh.store.ttl
}

// expireBudget is how many sessions one call of expire forgets: some 20 µs. Clients can have many
// of one shard expire at one time, and loops wait for its lock.
const expireBudget = 64

// expire forgets what has been idle for the TTL, and reports whether there may be more. Under
// sh.mu.
func (sh *shard) expire() (more bool) {
	budget := expireBudget
	for seg := range sh.idle {
		for s := sh.idle[seg].head; s != nil && sh.expired(s); s = sh.idle[seg].head {
			if budget == 0 {
				return true
			}
			budget--
			sh.forget(s)
			sessionsExpired.Inc()
		}
	}
	return false
}

// trim evicts while more sessions have counted than may. It holds one shard's lock at a time;
// finding the shard reads 64 words.
func (m *Memory) trim() {
	for m.counted.Load() > m.max {
		first, second := fresh, kept
		if 5*m.kept.Load() > 4*m.max {
			first, second = kept, fresh
		}
		if !m.evict(first) && !m.evict(second) {
			return // all are attached; the next one to leave makes room
		}
	}
}

// evict forgets the longest idle session of a segment. It reports whether there was one.
func (m *Memory) evict(seg segment) bool {
	oldest, at := (*shard)(nil), int64(never)
	for i := range m.shards {
		if t := m.shards[i].idle[seg].oldest.Load(); t < at {
			oldest, at = &m.shards[i], t
		}
	}
	if oldest == nil {
		return false
	}
	oldest.mu.Lock()
	defer oldest.mu.Unlock()
	// Another loop may have been here first, so look again at both.
	if s := oldest.idle[seg].head; s != nil && m.counted.Load() > m.max {
		oldest.forget(s)
		sessionsEvicted[seg].Inc()
	}
	return true
}

// sweepForever frees the memory of expired sessions in shards that nobody visits.
func (m *Memory) sweepForever(every time.Duration) {
	defer close(m.swept)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
			m.sweep()
		}
	}
}

func (m *Memory) sweep() {
	for i := range m.shards {
		sh := &m.shards[i]
		for more := true; more; {
			sh.mu.Lock()
			more = sh.expire()
			sh.mu.Unlock()
		}
	}
}
