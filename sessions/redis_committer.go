package sessions

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// maxBatch bounds the commits that travel together, and with them the time that one batch
	// takes.
	maxBatch = 512
	// A commit that was not taken is repeated after a backoff between these, drawn at random from
	// its upper half.
	minBackoff, maxBackoff = 20 * time.Millisecond, time.Second
)

// committer commits the sessions whose ids fall on it, for all loops, and reads those that are
// resumed. While a batch is in flight the next one gathers.
type committer struct {
	store *Redis

	// Taken by the loops once a round, at detach and for a resume, and by the committer around a
	// batch, never while it encodes or waits: the loops must not wait for it in turn.
	mu         sync.Mutex
	writers    map[writerKey]*writer
	queue      []*writer // to commit next
	parked     []*writer // to repeat once retryAt has come
	retryAt    time.Time
	backingOff bool // nothing was taken last time: the queue waits for retryAt too
	lookups    []lookup
	closed     bool
	ended      bool

	dirty, asked chan struct{} // wake the committer, the resolver
	full         chan struct{} // wakes the committer that lets a batch gather
	idle         chan struct{} // closed when, after close, nothing is left to commit

	// The committer's:
	failures int
	failing  bool
	refused  []rejected
	began    time.Time // of the last batch
	size     int       // of the last batch
	out      outgoing
	sending  sending
	owners   map[uint16]string // of a cluster's slots, as far as known; with WaitReplicas
}

// writerKey names a writer. A session has one but for the time after a takeover, when connections
// that came with the earlier process' field have another.
type writerKey struct {
	id       ID
	instance *instance
}

// rejected is a session that Redis did not take, and why.
type rejected struct {
	id  ID
	err error
}

func newCommitter(s *Redis) *committer {
	return &committer{
		store: s, writers: map[writerKey]*writer{},
		dirty: make(chan struct{}, 1), asked: make(chan struct{}, 1), full: make(chan struct{}, 1),
		idle: make(chan struct{}),
	}
}

// newWriter has this process take a session up. Under c.mu.
func (c *committer) newWriter(id ID, in *instance, made subject) *writer {
	w := &writer{id: id, committer: c, instance: in, subject: made}
	w.acked.incarnation = in.incarnations.Add(1)
	c.writers[w.key()] = w
	return w
}

// release forgets a writer that nobody needs. Under c.mu.
func (c *committer) release(w *writer) {
	if w.idle() && c.writers[w.key()] == w {
		delete(c.writers, w.key())
	}
}

// enqueue puts w on the queue unless it is on its way already. Under c.mu.
func (c *committer) enqueue(w *writer) {
	if w.queued || w.refused || c.ended {
		return
	}
	w.queued = true
	c.queue = append(c.queue, w)
	switch len(c.queue) { // the committer looks at the queue again while there is something in it
	case 1:
		wake(c.dirty)
	case maxBatch:
		wake(c.full)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commitForever is the committer. It ends when the store gives up, or is closed and nothing is
// left.
func (c *committer) commitForever() {
	var batch []*writer
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var wait time.Duration
		batch, wait = c.gather(batch[:0])
		switch {
		case len(batch) > 0:
			c.commit(batch)
			clear(batch)
			continue
		case wait == 0:
			return
		}
		timer.Reset(wait)
		dirty := c.dirty
		if c.gathers() > 0 {
			dirty = c.full
		}
		select {
		case <-dirty:
		case <-timer.C:
		case <-c.store.ctx.Done():
			return
		}
	}
}

// gathers is how long the next batch is still to gather, if it is not full before. One that
// follows a single commit goes at once: a client that waits for each answer is not slowed down.
// The committer's.
func (c *committer) gathers() time.Duration {
	if c.size < 2 || c.store.cfg.CommitInterval <= 0 {
		return 0
	}
	return c.store.cfg.CommitInterval - time.Since(c.began)
}

// gather takes the next batch. With an empty one it says how long to wait for more; 0 means for
// ever.
func (c *committer) gather(batch []*writer) ([]*writer, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := time.Hour
	if len(c.parked) > 0 || c.backingOff {
		if wait = time.Until(c.retryAt); wait <= 0 {
			c.queue = append(c.parked, c.queue...)
			c.parked, c.backingOff = nil, false
		} else if c.backingOff {
			return batch, wait
		}
	}
	n, gathers := min(len(c.queue), maxBatch), c.gathers()
	if n == 0 {
		if gathers > 0 {
			wait = min(wait, gathers)
		}
		if c.closed && !slices.ContainsFunc(c.parked, func(w *writer) bool { return w.unconfirmed() > 0 }) {
			c.end()
			return batch, 0
		}
		return batch, wait
	}
	if gathers > 0 && n < maxBatch && !c.closed {
		return batch, gathers
	}
	batch = append(batch, c.queue[:n]...)
	clear(c.queue[:n]) // an outage makes it long: those that left since must not stay in memory
	if n == len(c.queue) {
		c.queue = emptied(c.queue)
	} else {
		c.queue = c.queue[n:]
	}
	return batch, 0
}

// commit sends one batch and hands the answers to the loops.
func (c *committer) commit(batch []*writer) {
	c.began, c.size = time.Now(), len(batch)
	answers, errs := c.send(batch)
	redisCommitSeconds.Update(time.Since(c.began).Seconds())
	redisBatchSize.Update(float64(len(batch)))
	var firstErr error
	out := &c.out
	failed := 0
	c.mu.Lock()
	for i, w := range batch {
		w.queued = false
		again := false
		switch err := errs[i]; {
		case err == nil:
			again = c.answered(w, answers[i], out)
		default:
			if refused := c.store.ofSession("commit", err); refused != nil {
				c.refuse(w, refused, out)
				continue
			}
			firstErr = err
			failed++
			if w.unanswered(out.acknowledge) {
				w.queued = true
				c.parked = append(c.parked, w)
			}
		}
		if again {
			c.enqueue(w)
		}
		c.release(w)
	}
	if failed > 0 {
		c.backoff(failed == len(batch))
	}
	failing := len(c.parked) > 0
	c.mu.Unlock()
	c.report(failing, firstErr)
	redisCommits.Add(len(batch) - failed - len(c.refused))
	redisRetries.Add(failed)
	out.flush()
	for _, r := range c.refused {
		c.store.logRejected(r.id, r.err)
	}
	c.refused = emptied(c.refused)
}

// answered takes one answer. Under c.mu.
func (c *committer) answered(w *writer, s stored, out *outgoing) (again bool) {
	if w.restore || s.before < w.acked.worth() {
		redisHeals.Inc()
		c.store.logLost(w.id, w.known())
	}
	confirmed := w.inFlight - w.acked.delta
	again = w.answered(s, out.acknowledge)
	redisPending.Add(-int64(confirmed))
	return again
}

// refuse gives up a writer whose commit Redis will not take. Its connections that wait for an
// answer end; the others when they next have something to say. Under c.mu.
func (c *committer) refuse(w *writer, err error, out *outgoing) {
	redisPending.Add(-int64(w.unconfirmed()))
	redisRefused.Inc()
	for _, r := range w.runs {
		out.refused = append(out.refused, refusedWriter{r.a, err})
	}
	w.runs, w.refused = nil, true
	if c.writers[w.key()] == w {
		delete(c.writers, w.key())
	}
	c.refused = append(c.refused, rejected{w.id, err})
}

// backoff sets the time of the next attempt; all says that nothing was taken, so nothing else
// need be tried before. Under c.mu.
func (c *committer) backoff(all bool) {
	d := min(maxBackoff, minBackoff<<min(c.failures, 10))
	c.failures++
	c.retryAt = time.Now().Add(d/2 + rand.N(d/2))
	c.backingOff = all
}

// report tells Ready how the last batch went.
func (c *committer) report(failing bool, err error) {
	s := c.store
	if err != nil {
		s.failed.Store(&failure{s.explain("commit", err)})
	} else if !failing { // while some wait, as in a cluster with a server that is away, each attempt holds the others up
		c.failures = 0
	}
	if failing != c.failing {
		c.failing = failing
		if failing {
			s.failing.Add(1)
		} else {
			s.failing.Add(-1)
		}
	}
}

// close lets the committer end once nothing is left.
func (c *committer) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	wake(c.dirty)
	wake(c.full)
	wake(c.asked)
}

// end says that nothing is left. Under c.mu.
func (c *committer) end() {
	if !c.ended {
		c.ended = true
		close(c.idle)
	}
}

// abandon forgets what could not be stored and returns how many messages that is. Only after the
// committer ended.
func (c *committer) abandon() (messages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
	for _, w := range c.writers {
		messages += int(w.unconfirmed())
	}
	c.queue, c.parked = nil, nil
	clear(c.writers)
	redisPending.Add(-int64(messages))
	return messages
}

// outgoing collects what a batch means to connections, for their loops.
type outgoing struct {
	acks     []acknowledgement
	refused  []refusedWriter
	attached []attached
	loops    []*redisLoop // to wake
}

func (o *outgoing) acknowledge(k acknowledgement) { o.acks = append(o.acks, k) }

// flush puts all of it into the loops' inboxes and then wakes each loop once. Without a lock held.
func (o *outgoing) flush() {
	var l *redisLoop
	next := func(to *redisLoop) *inbox {
		if l != to {
			o.leave(l)
			l = to
			l.mu.Lock()
			if l.inbox.empty() {
				o.loops = append(o.loops, l)
			}
		}
		return &l.inbox
	}
	for i := range o.acks {
		in := next(o.acks[i].a.loop)
		in.acks = append(in.acks, o.acks[i])
	}
	for _, r := range o.refused {
		in := next(r.a.loop)
		in.refused = append(in.refused, r)
	}
	for _, q := range o.attached {
		in := next(q.loop)
		in.attached = append(in.attached, q)
	}
	o.leave(l)
	for _, l := range o.loops {
		l.wake()
	}
	o.acks, o.refused = emptied(o.acks), emptied(o.refused)
	o.attached, o.loops = emptied(o.attached), emptied(o.loops)
}

// leave unlocks a loop's inbox. What a loop that has ended got is dropped.
func (o *outgoing) leave(l *redisLoop) {
	if l == nil {
		return
	}
	if l.ended {
		l.inbox = inbox{}
	}
	l.mu.Unlock()
}
