package backend

import (
	"encoding/binary"
	"strconv"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// session is one connection as its backend sees it. It belongs to the connection's loop, and outlives the
// connection while a request is in flight. Its life reads down this file: message → ready → begin → (target.go)
// → finish → settle → apply.
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
	replay   int    // bytes of content at the start of pending that were offered before, and not accepted
	offered  int    // bytes of pending that hold them: without more than these there is nothing new to say

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
	opening  sessionState = iota // OPEN has not been answered
	open                         // messages flow
	leaving                      // the client has said Close; the backend is being asked for the last messages
	detached                     // the backend has let go of the client, which stays
	closing                      // Close has been sent to the client first
	gone                         // the transport is gone
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

// full is what happens to a connection that has said as much as may wait: it is not read from until the next
// request. When there is none in sight, it is told to come back later.
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

// settle decides what an answer means.
func (s *session) settle(r *request, a *answer) {
	events := a.isEvents()
	result := a.outcome.String()
	switch {
	case events && !validAnswer(r, a):
		events, result = false, "malformed"
	case a.outcome == answered && !events:
		result = "status"
	}
	requests[result].Inc()
	if r.number == 1 {
		s.opened(a, events, result == "malformed")
		return
	}
	switch {
	case events:
		s.accepted(r, a)
		s.apply(a.body)
	case a.outcome == notHandled:
		s.again(r)
	default:
		s.release(r)
		if r.ends {
			// An answer, whatever it says, shows that the backend has heard of it; of one that failed it hears again.
			s.told = a.outcome == answered && a.status < 500
			s.said = false
		}
		if a.outcome != answered || isUnavailable(a.status) {
			s.abort(closeTryAgain, "unavailable")
		} else {
			s.abort(ws.StatusInternalServerError, "error")
		}
	}
}

// validAnswer reports whether the events of an answer, and what it says about them, can be carried out.
func validAnswer(r *request, a *answer) bool {
	first, ok := true, true
	err := eachEvent(a.body, func(e event) bool {
		switch e.kind {
		case eventOpen:
			ok = first && r.number == 1
		case eventText:
			ok = utf8.Valid(e.content)
		case eventPing, eventPong:
			ok = len(e.content) <= ws.MaxControlFramePayloadSize
		}
		ok = ok && !(first && r.number == 1 && e.kind != eventOpen)
		first = false
		return ok
	})
	return err == nil && ok && !(first && r.number == 1) && bytesAccepted(r, a) >= 0
}

// bytesAccepted is how many bytes of a request's content an answer accepts: all, unless it says otherwise. It is
// -1 when it says more than there were.
func bytesAccepted(r *request, a *answer) int {
	offered := contentSize(r.body)
	text := a.header.Get(headerAccepted)
	if text == "" {
		return offered
	}
	n, err := strconv.Atoi(text)
	switch {
	case err != nil || n < 0:
		return offered
	case n > offered:
		return -1
	}
	return n
}

// release gives back what a request has held.
func (s *session) release(r *request) {
	buffered.Add(-int64(s.held))
	s.held = 0
	if s.state != gone { // or the loop may have ended
		s.lane.loop.recycle(r.body)
	}
}

// again has a request that was surely not handled wait for another turn, with what came meanwhile behind it.
func (s *session) again(r *request) {
	requestRetries.Inc()
	s.requests-- // to the backend, should it have arrived after all, it is the same request
	s.pending, s.replay, s.held = append(r.body, s.pending...), r.replay, 0
	if s.state == gone || s.told {
		return
	}
	s.lane.pushFront(s)
	if len(s.pending) >= s.lane.loop.app.cfg.MaxPending {
		s.full()
	}
}

// accepted takes in an answer's headers, and keeps what of the request the backend has not accepted yet: it
// comes again with the next one, which waits until there is more.
func (s *session) accepted(r *request, a *answer) {
	s.takeHeaders(a)
	n, offered := bytesAccepted(r, a), contentSize(r.body)
	if n == offered {
		s.told = s.told || r.ends
		s.release(r)
		return
	}
	rest, _ := unaccepted(nil, r.body, n)
	s.release(r)
	s.replay, s.offered = offered-n, len(rest)
	buffered.Add(int64(len(rest)))
	s.pending = append(rest, s.pending...)
	switch {
	case n > 0:
		s.refresh = s.refresh || r.ends // nothing more will come
	case r.ends || len(s.pending) >= s.lane.loop.app.cfg.MaxPending:
		s.abort(ws.StatusInternalServerError, "error")
	}
}

// opened is settle for the answer to OPEN.
func (s *session) opened(a *answer, events, malformed bool) {
	switch {
	case events:
		s.takeHeaders(a)
		s.prefix, s.grip = gripExtension(a.header)
		if s.state == opening { // or the client has not waited
			s.state = open
			s.conn.Accept(responseLines(a.header, true))
			s.apply(a.body)
		}
	case a.outcome == answered && !malformed:
		s.told = true
		s.refuse(answerRefusal(a))
	case a.outcome == notHandled:
		s.told = true
		s.refuse(refuseUnreachable)
	case a.outcome == timedOut:
		s.refuse(refuseTimeout)
	default:
		s.refuse(refuseBroken)
	}
}

// takeHeaders carries out what an answer's headers say.
func (s *session) takeHeaders(a *answer) {
	var ok bool
	if s.metas, ok = applyMeta(s.metas, a.header); !ok {
		metasIgnored.Inc()
	}
	if d, said := pollInterval(a.header); said && s.state != gone {
		s.pollEvery(d)
	}
}

// apply carries out the events of an answer.
func (s *session) apply(body []byte) {
	_ = eachEvent(body, func(e event) bool {
		switch e.kind {
		case eventText, eventBinary:
			s.deliver(e)
		case eventPing:
			s.send(ws.OpPing, e.content)
		case eventPong:
			s.send(ws.OpPong, e.content)
		case eventClose:
			if s.state != detached {
				s.closeClient(closeContent(e.content))
			}
			return false
		case eventDisconnect:
			s.told = true
			s.abort(ws.StatusInternalServerError, "error")
			return false
		}
		return true
	})
	if s.state == leaving && s.told { // the last messages are sent
		s.closeClient(s.code, "")
	}
}

// closeContent reads the content of CLOSE. A code that no Close frame can have is none.
func closeContent(content []byte) (code ws.StatusCode, reason string) {
	if len(content) < 2 {
		return ws.StatusNoStatusRcvd, ""
	}
	code = ws.StatusCode(binary.BigEndian.Uint16(content))
	if !sendable(code) || !utf8.Valid(content[2:]) {
		return ws.StatusNoStatusRcvd, ""
	}
	return code, string(content[2:])
}

// deliver gives a message to the client, or carries it out.
func (s *session) deliver(e event) {
	content := e.content
	if s.grip {
		if e.kind == eventText && len(content) >= len(controlPrefix) && string(content[:len(controlPrefix)]) == controlPrefix {
			s.control(content[len(controlPrefix):])
			return
		}
		if len(content) < len(s.prefix) || string(content[:len(s.prefix)]) != s.prefix {
			messagesIgnored.Inc()
			return
		}
		content = content[len(s.prefix):]
	}
	op := ws.OpText
	if e.kind == eventBinary {
		op = ws.OpBinary
	}
	s.send(op, content)
}

func (s *session) send(op ws.OpCode, content []byte) {
	if s.state == open || s.state == leaving {
		_ = s.conn.Send(op, content) // it fails when the connection is closing, which Closed tells
		s.sent()
	}
}

// closeClient closes the connection in order. The rest of its life is the gateway's.
func (s *session) closeClient(code ws.StatusCode, reason string) {
	if s.state == open || s.state == leaving || s.state == detached {
		s.state = closing
		s.conn.Close(code, reason)
	}
}

// abort closes the connection on account of the backend; why is a label of sluice_backend_closes_total.
func (s *session) abort(code ws.StatusCode, why string) {
	switch s.state {
	case opening:
		closed[why].Inc()
		s.refuse(refuseUnreachable)
	case open, leaving:
		closed[why].Inc()
		s.closeClient(code, "")
	}
}

func (s *session) refuse(r *gateway.Refusal) {
	if s.state == opening {
		s.state = closing
		s.conn.Refuse(r)
	}
}

// leave is the client's Close, or the gateway's turn to go away.
func (s *session) leave(code ws.StatusCode, reason []byte) {
	s.code = code
	if s.state != open {
		s.conn.Close(code, "")
		return
	}
	s.state = leaving
	s.said = true
	s.add(eventClose, closeBody(code, reason))
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

// ended is the end of the transport. echo is the code of the client's Close frame, or 0 when it has sent none.
// When it has, and leave was not called for it, it was the answer to ours.
func (s *session) ended(echo ws.StatusCode) {
	if s.queued {
		s.lane.remove(s)
	}
	if (s.state == opening || s.state == closing) && s.requests == 0 {
		s.told = true // the backend has never heard of it
	}
	if echo != 0 && !s.said && !s.told { // the end was in order
		s.said = true
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
