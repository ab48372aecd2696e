package backend

import "time"

// timers are what a backend can ask for with a delay. They share the connection's one timer.
type timers struct {
	poll   time.Duration // Keep-Alive-Interval: an empty request after so much silence
	pollAt time.Time

	keepAlive   control // a message for the client
	keepAliveAt time.Time

	delayed   control // send-delayed
	delayedAt time.Time
}

func (s *session) timed() *timers {
	if s.timers == nil {
		s.timers = new(timers)
	}
	return s.timers
}

// pollEvery sets Keep-Alive-Interval; 0 ends it.
func (s *session) pollEvery(d time.Duration) {
	if d != 0 || s.timers != nil {
		s.timed().poll = d
	}
}

// control carries out a control message.
func (s *session) control(text []byte) {
	c, err := parseControl(text)
	if err != nil || c.kind == controlIgnored || s.state != open && s.state != leaving {
		controlsIgnored.Inc()
		return
	}
	switch c.kind {
	case controlSubscribe:
		s.subscribe(c)
	case controlUnsubscribe:
		s.unsubscribe(c.channel)
	case controlDetach:
		s.detach()
	case controlKeepAlive:
		t := s.timed()
		t.keepAlive, t.keepAliveAt = c, time.Time{}
		if c.content != nil {
			t.keepAliveAt = time.Now().Add(c.timeout)
		}
	case controlSendDelayed:
		s.flushDelayed()
		t := s.timed()
		t.delayed, t.delayedAt = c, time.Now().Add(c.timeout)
	case controlFlushDelayed:
		s.flushDelayed()
	}
}

// detach ends the backend's part in the connection. The client stays, with its subscriptions.
func (s *session) detach() {
	if s.state != open {
		return
	}
	s.state = detached
	s.said = true
	s.add(eventClose, nil)
}

func (s *session) flushDelayed() {
	if t := s.timers; t != nil && !t.delayedAt.IsZero() {
		t.delayedAt = time.Time{}
		_ = s.conn.Send(t.delayed.op, t.delayed.content)
	}
}

// sent puts off a keep-alive that is for silence only.
func (s *session) sent() {
	if t := s.timers; t != nil && !t.keepAliveAt.IsZero() && !t.keepAlive.interval {
		t.keepAliveAt = time.Now().Add(t.keepAlive.timeout)
	}
}

// wake does what is due.
func (s *session) wake(now time.Time) {
	t := s.timers
	if t == nil || s.state == gone {
		return
	}
	if due(t.delayedAt, now) {
		s.flushDelayed()
	}
	if due(t.keepAliveAt, now) {
		_ = s.conn.Send(t.keepAlive.op, t.keepAlive.content)
		t.keepAliveAt = now.Add(t.keepAlive.timeout)
	}
	if due(t.pollAt, now) {
		t.pollAt = time.Time{}
		if s.state == open {
			s.refresh = true
			s.ready()
		}
	}
	s.schedule(now)
}

func due(at, now time.Time) bool { return !at.IsZero() && !at.After(now) }

// schedule sets the connection's timer to the first thing that is due. A poll is due so long after
// the last answer, and not while a request is in flight or waits.
func (s *session) schedule(now time.Time) {
	t := s.timers
	if t == nil || s.state == gone {
		return
	}
	switch {
	case t.poll == 0 || s.state != open || s.inFlight || s.queued:
		t.pollAt = time.Time{}
	case t.pollAt.IsZero():
		t.pollAt = now.Add(t.poll)
	}
	var first time.Time
	for _, at := range [...]time.Time{t.pollAt, t.keepAliveAt, t.delayedAt} {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if first.IsZero() {
		s.conn.WakeAfter(0)
		return
	}
	s.conn.WakeAfter(max(first.Sub(now), time.Millisecond))
}
