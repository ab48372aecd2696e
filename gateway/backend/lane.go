package backend

import "time"

// lane is one loop's way to one backend: its share of the requests that may be in flight, and the
// sessions that wait for one, in the order in which they became ready. Loop only, so it needs no
// lock.
type lane struct {
	loop     *loop
	target   *target
	inFlight int
	openings int // of those that wait, the ones that wait with a handshake
	armed    bool

	first, last *session // linked by next and prev
}

func (n *lane) pushBack(s *session) {
	s.prev, s.next = n.last, nil
	if n.last == nil {
		n.first = s
	} else {
		n.last.next = s
	}
	n.last = s
	n.joined(s)
}

func (n *lane) pushFront(s *session) {
	s.prev, s.next = nil, n.first
	if n.first == nil {
		n.last = s
	} else {
		n.first.prev = s
	}
	n.first = s
	n.joined(s)
}

func (n *lane) joined(s *session) {
	s.queued = true
	waiting.Add(1)
	if s.state == opening {
		n.openings++
	}
}

func (n *lane) remove(s *session) {
	if s.prev == nil {
		n.first = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		n.last = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.queued = nil, nil, false
	waiting.Add(-1)
	if s.state == opening {
		n.openings--
	}
}

// share is how many of a backend's requests are this loop's. A counter that all loops share would
// use them better when one loop is busier than the others, but a loop whose requests all wait would
// have nobody to wake it.
func (n *lane) share() int { return max(n.loop.app.cfg.MaxRequests/len(n.loop.app.loops), 1) }

// pump starts requests for those that wait, as many as may be in flight.
func (n *lane) pump() {
	for n.first != nil && n.inFlight < n.share() {
		ok, probe, wait := n.target.breaker.allow(time.Now())
		if !ok {
			n.blocked(wait)
			return
		}
		s := n.first
		n.remove(s)
		s.begin(probe)
	}
}

// blocked is pump while the breaker is open: handshakes are refused, messages wait.
func (n *lane) blocked(wait time.Duration) {
	for s := n.first; s != nil && n.openings > 0; {
		next := s.next
		if s.state == opening {
			n.remove(s)
			s.refuse(refuseUnreachable)
		}
		s = next
	}
	if !n.armed && n.first != nil {
		n.armed = true
		time.AfterFunc(wait, func() { n.loop.post(n.again) })
	}
}

// again tries once more, after those that have waited for too long have left.
func (n *lane) again() {
	n.armed = false
	limit := time.Now().Add(-n.loop.app.cfg.Hold)
	for s := n.first; s != nil && s.readySince.Before(limit) && n.target.breaker.open(); s = n.first {
		n.remove(s)
		s.abort(closeTryAgain, "unavailable")
	}
	n.pump()
}
