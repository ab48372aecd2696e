package sessions

import "slices"

// writer is this process' part in one session: all its connections there, on whatever loop,
// commit as one. It does no I/O: its committer sends what commit returns and hands what Redis
// answered to answered. The committer's mutex guards all of it.
type writer struct {
	id        ID
	committer *committer
	instance  *instance
	subject   subject // whose session it is

	acked    contribution // what Redis confirmed of this process; after is not used
	added    uint64       // messages of this incarnation, confirmed or not
	inFlight uint64       // delta of the commit that was sent and not answered
	read     uint64       // delta as a resume read it: it may be inFlight already
	others   *fields      // what Redis said of other processes
	runs     []run        // unacknowledged messages, oldest first
	covered  int32        // runs that the commit in flight covers
	attached int32        // connections

	sent     bool // a commit is in flight or was not answered
	queued   bool // in the committer's queue, waiting for a retry, or in its hands
	touch    bool // set the TTL with the next commit
	touching bool // the commit in flight does
	restore  bool // Redis lost state: send all that is known
	refused  bool // Redis does not take this session
}

// run is what one connection did between messages of others: it counted n messages or, with n 0,
// it left and waits for the session's total.
type run struct {
	a *redisAttachment
	n uint32
}

// maxIdleRuns is the room for runs that a writer keeps while it has none.
const maxIdleRuns = 4

func (w *writer) key() writerKey { return writerKey{w.id, w.instance} }

// known is the highest total that this process was told, by an answer or by what a resume read.
func (w *writer) known() uint64 {
	return w.acked.base + max(w.acked.delta, w.read) + w.others.total()
}

// unconfirmed is the number of messages that Redis has not confirmed.
func (w *writer) unconfirmed() uint64 { return w.added - w.acked.delta }

// idle says that nobody needs the writer any more, so the process may forget it. If it takes the
// session up again, that is another incarnation.
func (w *writer) idle() bool { return w.attached == 0 && len(w.runs) == 0 && !w.queued }

// add takes n messages that a counted, or with n 0 its question for the final total.
func (w *writer) add(a *redisAttachment, n uint32) {
	w.added += uint64(n)
	w.runs = append(w.runs, run{a, n})
}

// commit returns what to send now. What was not answered is repeated as it was: what came
// meanwhile waits.
func (w *writer) commit() commit {
	if !w.sent {
		w.sent = true
		w.inFlight, w.covered = w.added, int32(len(w.runs))
	}
	w.touching, w.touch = w.touching || w.touch, false
	c := commit{own: w.acked, told: w.others.total(), subject: w.subject, touch: w.touching}
	c.own.delta = w.inFlight
	if w.restore && w.others != nil {
		c.others = slices.Clone(w.others.list)
	}
	return c
}

// answered takes Redis' answer to the commit in flight. give is called for each connection that
// has waited for it, in the order in which their messages came: together they own the numbers up
// to s.after. more says that another commit is needed.
func (w *writer) answered(s stored, give func(acknowledgement)) (more bool) {
	next := s.after + 1 - (w.inFlight - w.acked.delta)
	w.acked.delta, w.acked.base = w.inFlight, max(w.acked.base, s.base)
	w.others = w.others.merge(s.others)
	w.sent, w.touching, w.restore = false, false, false
	short := s.total < w.known() // the next commit finds out what was lost
	kept := w.runs[:0]
	for i, r := range w.runs {
		switch {
		case i >= int(w.covered), r.n == 0 && short: // a final total must be one that Redis holds
			kept = append(kept, r)
		case r.n == 0:
			give(acknowledgement{a: r.a, last: s.total, final: true})
		default:
			give(acknowledgement{a: r.a, first: next, last: next + uint64(r.n) - 1})
			next += uint64(r.n)
		}
	}
	clear(w.runs[len(kept):])
	if w.runs = kept; len(kept) == 0 && cap(kept) > maxIdleRuns {
		w.runs = nil
	}
	return len(w.runs) > 0 || w.touch || short
}

// unanswered notes that the commit may or may not have been stored, and reports whether to repeat
// it: also when nobody waits any more, as Redis may come back without what this process was told.
// Connections that only asked for the final total get that.
func (w *writer) unanswered(give func(acknowledgement)) (repeat bool) {
	if w.unconfirmed() == 0 {
		for _, r := range w.runs {
			give(acknowledgement{a: r.a, last: w.known(), final: true})
		}
		w.runs, w.sent = nil, false // there is nothing in it whose numbers matter
	}
	return len(w.runs) > 0 || w.known() > 0
}

// found takes a session as a resume read it.
func (w *writer) found(s snapshot) {
	own, others := s.without(w.instance.name)
	if own.incarnation == w.acked.incarnation {
		w.acked.base, w.read = max(w.acked.base, own.base), max(w.read, own.delta)
	} else {
		w.acked.base = max(w.acked.base, own.worth())
	}
	w.others = w.others.merge(others)
}
