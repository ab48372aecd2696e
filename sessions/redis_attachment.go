package sessions

import "time"

// redisAttachment is one connection's membership of a session, and one writer in its hash.
type redisAttachment struct {
	loop   *redisLoop
	id     ID
	writer writerID

	// The loop's:
	owner    Owner // nil once nobody waits
	added    uint64
	acked    uint64 // acknowledged to the owner
	detached bool
	dirty    bool        // in loop.dirtied
	deadline *time.Timer // of Detach

	// Under loop.mu:
	count  uint64   // messages to store: what added was at the last handOver
	told   uint64   // messages that Redis said are stored
	known  uint64   // the session's total, as Redis said last
	others []string // the hash's other fields, as Redis said last
	asked  uint64   // contribution of the commit that is in flight or unanswered: repeated as it is, see doc.go
	fields int32    // of the hash when this writer came to it
	queued bool     // in the loop's queue, parked or in flight
	again  bool     // touched while queued
	final  bool     // the writer has gone
	heal   bool     // Redis said that state is lost

	repeated bool // a command was not answered: it may arrive at any time, and has been sent again
	refused  bool // Redis will not have this session: given up
}

var _ Attachment = (*redisAttachment)(nil)

// Add counts one message. The committer hears of it at the end of the round.
func (a *redisAttachment) Add() (uint64, bool) {
	a.added++
	a.loop.unacked++
	if !a.dirty {
		a.dirty = true
		a.loop.changed(a)
	}
	return 0, false
}

func (a *redisAttachment) Pending() int { return int(a.added - a.acked) }

func (a *redisAttachment) Full() bool {
	return a.Pending() >= a.loop.store.cfg.PendingPerConn || a.loop.unacked >= a.loop.store.cfg.PendingPerLoop
}

// Touch commits again what is stored: that sets the TTL, and restores the session if Redis lost it.
func (a *redisAttachment) Touch() {
	l := a.loop
	l.mu.Lock()
	if a.known > 0 || a.count > 0 {
		a.again = a.queued
		l.enqueue(a)
	}
	l.mu.Unlock()
}

// says is the commit to send. A writer says that it is done only once it has been told that everything is stored: until then
// it repeats, for as long as Redis is out of reach, and what has been folded by then would be counted again. Under l.mu.
func (a *redisAttachment) says() commit {
	return commit{
		writer: a.writer, count: a.asked, told: a.told, known: a.known,
		others: a.others, heal: a.heal, final: a.final && a.told == a.count, clean: !a.repeated,
	}
}

// Detach ends at once when everything is acknowledged. Otherwise the committer carries on, for the owner
// until the deadline and for the session until Close gives up.
func (a *redisAttachment) Detach(o Owner) {
	l := a.loop
	a.owner, a.detached = o, true
	attachedOrKept.Add(-1)
	l.mu.Lock()
	l.tell(a)
	a.final = true
	if a.count > 0 && (a.Pending() > 0 || a.fields > retireAbove) {
		a.again = a.queued
		l.enqueue(a)
	}
	total := a.known
	l.mu.Unlock()
	if a.Pending() == 0 {
		a.finish(total, nil)
		return
	}
	if o != nil {
		a.deadline = time.AfterFunc(l.store.cfg.DetachDeadline, func() {
			l.post(func() { a.finish(0, ErrUnavailable) })
		})
	}
}

// finish tells the owner of a detached attachment how it ended, once.
func (a *redisAttachment) finish(total uint64, err error) {
	if a.deadline != nil {
		a.deadline.Stop()
	}
	if o := a.owner; o != nil {
		a.owner = nil
		o.Detached(total, err)
	}
}

// acknowledge takes what Redis confirmed to the owner. The loop's goroutine.
func (a *redisAttachment) acknowledge(m, last, total uint64) {
	a.acked += m
	a.loop.unacked -= int(m)
	if a.owner == nil {
		return
	}
	if m > 0 {
		a.owner.Acknowledged(last-m+1, last)
	}
	if a.detached && a.Pending() == 0 {
		a.finish(total, nil)
	}
}
