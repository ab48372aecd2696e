package sessions

import "time"

// attach adds a connection to session id, making the session if need be. held says that it was there. It
// returns nil when as many sessions are attached as may be.
func (sh *shard) attach(id ID) (s *session, held bool) {
	m := sh.store
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.expire()
	s, held = sh.byID[id]
	if held && s.refs > 0 {
		s.refs++
		return s, true
	}
	if m.attached.Add(1) > m.max {
		m.attached.Add(-1)
		return nil, false
	}
	if held {
		sh.unlink(s)
	} else {
		s = &session{id: id, shard: sh}
		sh.byID[id] = s
		attachedOrKept.Add(1)
	}
	s.refs = 1
	return s, held
}

// detach removes a connection. With the last one a session that counted goes idle; one that never did is
// dropped, so that connections which say nothing cannot push out sessions.
func (sh *shard) detach(s *session) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.expire()
	if s.refs--; s.refs > 0 {
		return
	}
	sh.store.attached.Add(-1)
	if sh.byID[s.id] != s {
		return // the store was closed meanwhile
	}
	if s.n.Load() == 0 {
		delete(sh.byID, s.id)
		attachedOrKept.Add(-1)
		return
	}
	s.idleSince = sh.store.now()
	if s.prev = sh.tail; s.prev != nil {
		s.prev.next = s
	} else {
		sh.head = s
		sh.oldest.Store(int64(s.idleSince))
	}
	sh.tail = s
}

// unlink takes s off the idle list. Under sh.mu.
func (sh *shard) unlink(s *session) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		sh.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		sh.tail = s.prev
	}
	s.prev, s.next = nil, nil
	if sh.head != nil {
		sh.oldest.Store(int64(sh.head.idleSince))
	} else {
		sh.oldest.Store(never)
	}
}

// forget removes the longest idle session. Under sh.mu, with the idle list not empty.
func (sh *shard) forget() {
	s := sh.head
	sh.unlink(s)
	delete(sh.byID, s.id)
	sh.store.counted.Add(-1)
	attachedOrKept.Add(-1)
}

// expire forgets what has been idle for the TTL. Each session is removed once, so the cost per call is O(1)
// over time. Under sh.mu.
func (sh *shard) expire() {
	if sh.head == nil {
		return
	}
	now := sh.store.now()
	for sh.head != nil && now-sh.head.idleSince >= sh.store.ttl {
		sh.forget()
		sessionsExpired.Inc()
	}
}

// trim evicts the longest idle session of all while more sessions have counted than may. It holds one
// shard's lock at a time; finding the shard reads 64 words.
func (m *Memory) trim() {
	for m.counted.Load() > m.max {
		oldest, at := (*shard)(nil), int64(never)
		for i := range m.shards {
			if t := m.shards[i].oldest.Load(); t < at {
				oldest, at = &m.shards[i], t
			}
		}
		if oldest == nil {
			return // all are attached; the next one to leave makes room
		}
		oldest.mu.Lock()
		// Another loop may have been here first, so look again at both.
		if oldest.head != nil && m.counted.Load() > m.max {
			oldest.forget()
			sessionsEvicted.Inc()
		}
		oldest.mu.Unlock()
	}
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
		sh.mu.Lock()
		sh.expire()
		sh.mu.Unlock()
	}
}
