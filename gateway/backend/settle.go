package backend

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

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
			// An answer, whatever it says, shows that the backend has heard of it.
			s.told = a.outcome == answered && !isUnavailable(a.status)
			s.said = false
		}
		if a.outcome != answered || isUnavailable(a.status) {
			s.dropPending()
			s.abort(closeTryAgain, "unavailable")
		} else {
			s.abort(ws.StatusInternalServerError, "error")
		}
	}
}

// validAnswer reports whether the events of an answer, and what it says about them, can be carried
// out.
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

// bytesAccepted is how many bytes of a request's content an answer accepts: all, unless it says
// otherwise. It is -1 when it says more than there were.
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

// dropPending gives up the messages behind a request that the backend may still handle: they could
// overtake it. The client is told by the Close that follows.
func (s *session) dropPending() {
	buffered.Add(-int64(len(s.pending)))
	if !s.told {
		s.said = false // a CLOSE among them is a DISCONNECT now
	}
	s.pending, s.replay, s.offered = nil, 0, 0
}

// release gives back what a request has held.
func (s *session) release(r *request) {
	buffered.Add(-int64(s.held))
	s.held = 0
	if s.state != gone { // or the loop may have ended
		s.lane.loop.recycle(r.body)
	}
}

// again has a request that was surely not handled wait for another turn, with what came meanwhile
// behind it.
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

// accepted takes in an answer's headers, and keeps what of the request the backend has not accepted
// yet: it comes again with the next one, which waits until there is more.
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

// closeContent reads the content of CLOSE. Without a code, or with one that no Close frame can
// have, the client is told 1000, as by Pushpin.
func closeContent(content []byte) (code ws.StatusCode, reason string) {
	if len(content) < 2 {
		return ws.StatusNormalClosure, ""
	}
	code = ws.StatusCode(binary.BigEndian.Uint16(content))
	if !sendable(code) || !utf8.Valid(content[2:]) {
		return ws.StatusNormalClosure, ""
	}
	return code, string(content[2:])
}

// deliver gives a message to the client, or carries it out.
func (s *session) deliver(e event) {
	content := e.content
	if s.grip {
		if e.kind == eventText && len(content) >= len(controlPrefix) &&
			string(content[:len(controlPrefix)]) == controlPrefix {
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

// abort closes the connection on account of the backend; why is a label of
// sluice_backend_closes_total.
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
