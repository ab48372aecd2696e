package sessions

import (
	"sync"
	"time"
)

// redisLoop is one loop's side of the store. Its goroutine hands what a round counted to the
// committers; they put what became of it into inbox.
type redisLoop struct {
	store *Redis
	post  func(fn func()) bool

	// The loop's:
	unacked int   // messages added and not acknowledged
	lookups int   // resumes that wait for their total
	round   []run // what connections counted since the last handOver

	// Any goroutine:
	mu    sync.Mutex
	inbox inbox
	spare inbox // the loop's: the buffers of the inbox before
	ended bool  // the loop takes nothing any more
}

// inbox is what committers have for a loop.
type inbox struct {
	acks     []acknowledgement
	refused  []refusedWriter
	attached []attached
}

func (b *inbox) empty() bool { return len(b.acks)+len(b.refused)+len(b.attached) == 0 }

// acknowledgement says that first..last are the numbers of a's oldest unacknowledged messages or,
// when final, that a's question is answered: last is the session's total.
type acknowledgement struct {
	a           *redisAttachment
	first, last uint64
	final       bool
}

// refusedWriter says that Redis does not take a's session.
type refusedWriter struct {
	a   *redisAttachment
	err error
}

// attached answers a lookup: with an attachment, or with an error.
type attached struct {
	lookup
	a     *redisAttachment
	total uint64
	err   error
}

// maxKept bounds the buffers that a loop keeps after a burst.
const maxKept = 1024

var _ Loop = (*redisLoop)(nil)

// wake has the loop take its inbox, which was empty before. Any goroutine.
func (l *redisLoop) wake() {
	if !l.post(l.receive) {
		l.mu.Lock()
		l.ended, l.inbox = true, inbox{}
		l.mu.Unlock()
	}
}

// receive takes the inbox. The loop's goroutine.
func (l *redisLoop) receive() {
	l.mu.Lock()
	l.inbox, l.spare = l.spare, l.inbox
	l.mu.Unlock()
	in := &l.spare
	for i := range in.acks {
		in.acks[i].a.acknowledged(&in.acks[i])
	}
	for _, r := range in.refused {
		r.a.giveUp(r.err)
	}
	l.lookups -= len(in.attached)
	for i := range in.attached {
		l.attached(&in.attached[i])
	}
	in.acks, in.refused, in.attached = emptied(in.acks), emptied(in.refused), emptied(in.attached)
}

// emptied returns s without elements, to be used again unless a burst made it large.
func emptied[T any](s []T) []T {
	if cap(s) > maxKept {
		return nil
	}
	clear(s)
	return s[:0]
}

// counted notes a message of a's. The loop's goroutine.
func (l *redisLoop) counted(a *redisAttachment) {
	if n := len(l.round); n > 0 && l.round[n-1].a == a {
		l.round[n-1].n++
		return
	}
	l.round = append(l.round, run{a, 1})
	if len(l.round) == 1 {
		l.post(l.handOver)
	}
}

// handOver gives the committers what the round counted. The loop's goroutine.
func (l *redisLoop) handOver() {
	round := l.round
	var c *committer
	var refused []refusedWriter
	for _, r := range round {
		w := r.a.w
		if w.committer != c {
			if c != nil {
				c.mu.Unlock()
			}
			c = w.committer
			c.mu.Lock()
		}
		if w.refused {
			refused = append(refused, refusedWriter{r.a, errRefused})
			continue
		}
		w.add(r.a, r.n)
		redisPending.Add(int64(r.n))
		c.enqueue(w)
	}
	if c != nil {
		c.mu.Unlock()
	}
	l.round = emptied(round)
	if len(refused) > 0 {
		l.refuse(refused)
	}
}

// refuse ends attachments, though not before who called has returned. The loop's goroutine.
func (l *redisLoop) refuse(refused []refusedWriter) {
	l.mu.Lock()
	first := l.inbox.empty()
	l.inbox.refused = append(l.inbox.refused, refused...)
	l.mu.Unlock()
	if first {
		l.wake()
	}
}

// redisAttachment is one connection's membership of a session. All of it is its loop's.
type redisAttachment struct {
	loop     *redisLoop
	w        *writer
	owner    Owner       // nil once nobody waits
	deadline *time.Timer // of Detach
	pending  int32       // messages added and not acknowledged
	detached bool
}

var _ Attachment = (*redisAttachment)(nil)

// Add counts one message. The committer has it at the end of the round.
func (a *redisAttachment) Add() (uint64, bool) {
	a.pending++
	a.loop.unacked++
	a.loop.counted(a)
	return 0, false
}

func (a *redisAttachment) Pending() int { return int(a.pending) }

func (a *redisAttachment) Full() bool {
	cfg := &a.loop.store.cfg
	return int(a.pending) >= cfg.PendingPerConn || a.loop.unacked >= cfg.PendingPerLoop
}

// Touch commits again what is stored, if anything is: that sets the TTL, and restores what Redis
// lost.
func (a *redisAttachment) Touch() {
	c := a.w.committer
	c.mu.Lock()
	refused := a.w.refused
	if !refused {
		a.w.touch = true
		c.enqueue(a.w)
	}
	c.mu.Unlock()
	if refused {
		a.loop.refuse([]refusedWriter{{a, errRefused}})
	}
}

// Detach with an owner asks Redis for the session's total, after what is pending has been stored.
// While Redis is known not to answer and nothing is pending, what this process was told must do;
// and the process remembers it until Redis has answered, which may come back without it.
func (a *redisAttachment) Detach(o Owner) {
	a.loop.handOver() // so that all of a's messages come before its question
	a.owner, a.detached = o, true
	attachedOrKept.Add(-1)
	ready := a.loop.store.Ready() == nil
	ask := o != nil && (a.pending > 0 || ready)
	w, c := a.w, a.w.committer
	c.mu.Lock()
	w.attached--
	refused, known := w.refused, w.known()
	if ask && !refused {
		w.add(a, 0)
	}
	if ask || !ready && known > 0 {
		c.enqueue(w)
	}
	c.release(w)
	c.mu.Unlock()
	switch {
	case o == nil:
	case refused:
		a.giveUp(errRefused)
	case !ask:
		a.finish(known, nil)
	default:
		a.deadline = time.AfterFunc(a.loop.store.cfg.DetachDeadline, func() { a.loop.post(a.expire) })
	}
}

// expire ends the wait of Detach. The loop's goroutine.
func (a *redisAttachment) expire() {
	if a.pending > 0 {
		a.finish(0, ErrUnavailable)
		return
	}
	c := a.w.committer
	c.mu.Lock()
	known := a.w.known()
	c.mu.Unlock()
	a.finish(known, nil)
}

// finish tells the owner how it ended, once. The loop's goroutine, as below.
func (a *redisAttachment) finish(total uint64, err error) {
	if a.deadline != nil {
		a.deadline.Stop()
	}
	if o := a.owner; o != nil {
		a.owner = nil
		o.Detached(total, err)
	}
}

// acknowledged takes what Redis confirmed to the owner.
func (a *redisAttachment) acknowledged(k *acknowledgement) {
	if k.final {
		a.finish(k.last, nil)
		return
	}
	n := int(k.last - k.first + 1)
	a.pending -= int32(n)
	a.loop.unacked -= n
	if a.owner != nil {
		a.owner.Acknowledged(k.first, k.last)
	}
}

// giveUp tells the owner that there is no attachment any more: Redis does not take the session.
// What is pending was never acknowledged; kept it would fill the loop's bound.
func (a *redisAttachment) giveUp(err error) {
	a.loop.unacked -= int(a.pending)
	a.pending = 0
	if !a.detached {
		a.detached = true
		attachedOrKept.Add(-1)
		c := a.w.committer
		c.mu.Lock()
		a.w.attached--
		c.mu.Unlock()
	}
	a.finish(0, err)
}
