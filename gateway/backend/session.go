package backend

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// session is one connection as its backend sees it. It belongs to the connection's loop, and
// outlives the connection while a request is in flight. Its life reads down this file: message →
// ready → begin → (target.go) → finish → (settle.go) → ended.
type session struct {
	lane *lane
	conn *gateway.Conn // nil when the transport is gone
	id   connID
	head head

	state  sessionState
	grip   bool // the backend's messages have a prefix, and control messages are carried out
	prefix string

	metas    []meta // replaced, never changed: a request in flight may read them
	requests uint32
	pending  []byte // events that wait for the next request
	held     int    // bytes of the request in flight
	// bytes of content at the start of pending that were offered before, and not accepted
	replay int
	// bytes of pending that hold them: without more than these there is nothing new to say
	offered int

	said     bool // CLOSE or DISCONNECT is in pending or in flight; nothing comes behind it
	told     bool // the backend has heard of the end, or never of the connection
	paused   bool
	inFlight bool
	queued   bool          // in lane
	refresh  bool          // a request is due, even with nothing to say
	code     ws.StatusCode // leaving: the client's

	readySince time.Time // when it began to wait
	prev, next *session  // in lane

	timers *timers // nil unless the backend has asked for one

	result atomic.Pointer[finished] // the answer, on its way to the loop
}

type sessionState uint8

const (
	opening sessionState = iota // OPEN has not been answered
	open                        // messages flow
	// the client has said Close; the backend is being asked for the last messages
	leaving
	detached // the backend has let go of the client, which stays
	closing  // Close has been sent to the client first
	gone     // the transport is gone
)

type finished struct {
	request *request
	answer  answer
}

const closeTryAgain ws.StatusCode = 1013 // "try again later"; registered after RFC 6455

// message takes over a message of the client.
func (s *session) message(op ws.OpCode, payload []byte) {
	if s.state != open {
		return
	}
	cfg := &s.lane.loop.app.cfg
	total := int(buffered.Load()) + len(payload) + eventOverhead
	if total > cfg.MaxBuffered {
		s.abort(closeTryAgain, "overflow")
		return
	}
	kind := eventText
	if op == ws.OpBinary {
		kind = eventBinary
	}
	s.add(kind, payload)
	if len(s.pending) >= cfg.MaxPending || total > cfg.MaxBuffered/4*3 {
		s.full()
	}
	s.ready()
}

// full is what happens to a connection that has said as much as may wait: it is not read from until
// the next request. When there is none in sight, it is told to come back later.
func (s *session) full() {
	switch {
	case s.state != open:
	case s.lane.target.breaker.open():
		s.abort(closeTryAgain, "overflow")
	case !s.paused:
		s.paused = true
		readingPaused.Inc()
		s.conn.PauseReading()
	}
}

// add puts an event at the end of what waits. content is copied.
func (s *session) add(kind eventKind, content []byte) {
	if s.pending == nil {
		s.pending = s.lane.loop.buffer()
	}
	before := len(s.pending)
	s.pending = appendEvent(s.pending, kind, content)
	buffered.Add(int64(len(s.pending) - before))
}

// ready has the next request start as soon as there may be one, if there is anything to say.
func (s *session) ready() {
	if s.inFlight || s.queued || s.told || s.state == gone {
		return
	}
	if s.state == opening || s.refresh || len(s.pending) > s.offered {
		s.readySince = time.Now()
		s.lane.pushBack(s)
		s.lane.pump()
	}
}

var openBody = appendEvent(nil, eventOpen, nil)

// begin sends all that waits.
func (s *session) begin(probe int64) {
	cfg := &s.lane.loop.app.cfg
	s.requests++
	r := s.request()
	r.probe, r.timeout = probe, cfg.Timeout
	if s.state == opening {
		r.body, r.timeout = openBody, cfg.OpenTimeout
	}
	s.held, s.pending, s.replay, s.offered, s.refresh = len(s.pending), nil, 0, 0, false
	s.inFlight = true
	if s.timers != nil {
		s.timers.pollAt = time.Time{}
	}
	s.lane.inFlight++
	s.lane.loop.app.running.Add(1)
	go s.run(r)
	if s.paused {
		s.paused = false
		s.conn.ResumeReading()
	}
}

// request is the next request, as it stands.
func (s *session) request() *request {
	return &request{target: s.lane.target, id: s.id, number: s.requests, head: s.head, metas: s.metas,
		body: s.pending, replay: s.replay, ends: s.said}
}

// run is the goroutine of a request in flight.
func (s *session) run(r *request) {
	l := s.lane.loop
	s.result.Store(&finished{r, r.target.do(r, l.app.cfg.MaxAnswer)})
	if !l.post(s.finish) {
		s.orphaned()
	}
	l.app.running.Add(-1)
}

// finish takes the answer in.
func (s *session) finish() {
	f := s.result.Swap(nil)
	if f == nil {
		return
	}
	s.inFlight = false
	s.lane.inFlight--
	if s.state == gone {
		s.settle(f.request, &f.answer)
		s.lane.loop.forget(s)
		s.part()
	} else {
		s.conn.Cork(func() { s.settle(f.request, &f.answer) })
		s.ready()
		s.schedule(time.Now())
	}
	s.lane.pump()
}

// orphaned is finish when the loop has ended.
func (s *session) orphaned() {
	if f := s.result.Swap(nil); f != nil {
		s.settle(f.request, &f.answer)
		s.part()
	}
}

// leave is the client's Close, its end of the stream without one (1006), or the gateway's turn to
// go away.
func (s *session) leave(code ws.StatusCode, reason []byte) {
	s.code = code
	if s.state != open {
		s.conn.Close(code, "")
		return
	}
	s.state = leaving
	s.said = true
	if code == ws.StatusAbnormalClosure {
		s.add(eventDisconnect, nil)
	} else {
		s.add(eventClose, closeBody(code, reason))
	}
	if s.lane.target.breaker.open() {
		s.closeClient(code, "") // and the backend hears of it when it is back
	}
	s.ready()
}

// closeBody is the content of CLOSE.
func closeBody(code ws.StatusCode, reason []byte) []byte {
	if code == ws.StatusNoStatusRcvd || code == 0 {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
}

// ended is the end of the transport. echo is the code of the client's Close frame, or 0 when it has
// sent none. When it has, and leave was not called for it, it was the answer to ours.
func (s *session) ended(echo ws.StatusCode) {
	if s.queued {
		s.lane.remove(s)
	}
	if (s.state == opening || s.state == closing) && s.requests == 0 {
		s.told = true // the backend has never heard of it
	}
	if echo != 0 && !s.said && !s.told { // the end was in order
		s.said = true
		if s.state == open { // it was not the backend's answer that closed it
			echo = ws.StatusNoStatusRcvd
		}
		s.add(eventClose, closeBody(echo, nil))
	}
	s.state, s.conn, s.timers = gone, nil, nil
	if !s.inFlight {
		s.lane.loop.forget(s)
		s.part()
	}
}

// part hands over what the backend is still to be told. The loop may have ended.
func (s *session) part() {
	before := len(s.pending)
	if s.told {
		buffered.Add(-int64(before))
		return
	}
	if !s.said {
		s.said = true
		s.pending = appendEvent(s.pending, eventDisconnect, nil)
		buffered.Add(int64(len(s.pending) - before))
	}
	s.requests++
	s.lane.target.goodbyes.add(s.request())
}
