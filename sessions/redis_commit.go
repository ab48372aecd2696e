package sessions

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxBatch bounds the commits that travel together, and with them the time that one batch takes.
	maxBatch = 512
	// A commit that was not taken is repeated after a backoff between these, drawn at random from its upper half.
	minBackoff, maxBackoff = 20 * time.Millisecond, time.Second
)

// redisLoop is one loop's side of the store. The loop's goroutine puts attachments on the queue; the
// committer takes what has gathered while its last batch was in flight, and posts what became of it.
type redisLoop struct {
	store *Redis
	post  func(fn func()) bool

	// The loop's:
	unacked int                // messages added and not acknowledged
	dirtied []*redisAttachment // with messages that the committer has not heard of

	// Taken by the loop once a round, at detach and for a resume, and by the committer around a batch, never while it
	// encodes or waits: the loop must not wait for it in turn.
	mu      sync.Mutex
	queue   []*redisAttachment // to commit next
	parked  []*redisAttachment // to repeat once retryAt has come
	retryAt time.Time
	hold    bool // nothing was taken last time: the queue waits for retryAt too
	flying  int  // attachments in the committer's hands
	asking  []question
	closed  bool
	ended   bool

	dirty, asked chan struct{} // wake the committer, the resolver
	idle         chan struct{} // closed when, after close, nothing is left to commit

	// The committer's:
	failures int
	failing  bool
	commits  []commit
	answers  [maxBatch]stored // of the last batch, as are those below
	errs     [maxBatch]error
	which    [maxBatch]int
}

var _ Loop = (*redisLoop)(nil)

// changed notes that a has counted. The loop's goroutine.
func (l *redisLoop) changed(a *redisAttachment) {
	l.dirtied = append(l.dirtied, a)
	if len(l.dirtied) == 1 {
		l.post(l.handOver)
	}
}

// handOver tells the committer what the round counted, under one lock for all of it. The loop's goroutine.
func (l *redisLoop) handOver() {
	l.mu.Lock()
	for i, a := range l.dirtied {
		l.dirtied[i] = nil
		a.dirty = false
		if l.tell(a) {
			l.enqueue(a)
		}
	}
	l.mu.Unlock()
	l.dirtied = l.dirtied[:0]
}

// tell brings what the committer knows of a up to date, and reports whether there was anything new. Under l.mu.
func (l *redisLoop) tell(a *redisAttachment) bool {
	if a.refused {
		return false
	}
	more := a.added - a.count
	a.count = a.added
	redisPending.Add(int64(more))
	return more > 0
}

// enqueue puts a on the queue unless it is on its way already. Under l.mu.
func (l *redisLoop) enqueue(a *redisAttachment) {
	if a.queued || a.refused || l.ended {
		return
	}
	a.queued = true
	l.queue = append(l.queue, a)
	wake(l.dirty)
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commitForever is the committer. It ends when the store gives up, or is closed and nothing is left.
func (l *redisLoop) commitForever() {
	var batch []*redisAttachment
	for {
		var wait time.Duration
		batch, wait = l.gather(batch[:0])
		switch {
		case len(batch) > 0:
			l.commit(batch)
			continue
		case wait == 0:
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-l.dirty:
		case <-timer.C:
		case <-l.store.ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// gather takes the next batch. With an empty one it says how long to wait for more; 0 means for ever.
func (l *redisLoop) gather(batch []*redisAttachment) ([]*redisAttachment, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait := time.Hour
	if len(l.parked) > 0 || l.hold {
		if wait = time.Until(l.retryAt); wait <= 0 {
			l.queue = append(l.parked, l.queue...)
			l.parked, l.hold = nil, false
		} else if l.hold {
			return batch, wait
		}
	}
	n := min(len(l.queue), maxBatch)
	if n == 0 {
		if l.closed && len(l.parked) == 0 {
			l.end()
			return batch, 0
		}
		return batch, wait
	}
	batch = append(batch, l.queue[:n]...)
	clear(l.queue[:n]) // an outage makes it long: those that left since must not stay in memory
	if n == len(l.queue) {
		l.queue = l.queue[:0]
	} else {
		l.queue = l.queue[n:]
	}
	l.flying = n
	for _, a := range batch {
		if a.asked == 0 {
			a.asked = a.count
		}
		a.again = false
	}
	return batch, 0
}

// commit sends one batch and takes the answers to the loop, in one post.
func (l *redisLoop) commit(batch []*redisAttachment) {
	began := time.Now()
	answers, errs := l.send(batch)
	redisCommitSeconds.update(time.Since(began).Seconds())
	redisBatchSize.update(float64(len(batch)))
	acks := make([]acknowledgement, 0, len(batch))
	var firstErr error
	failed, refused := 0, 0
	l.mu.Lock()
	for i, a := range batch {
		if errs[i] != nil {
			if err := l.store.ofSession("commit", errs[i]); err != nil {
				acks = append(acks, l.refuse(a, err))
				refused++
				continue
			}
			firstErr = errs[i]
			failed++
			l.repeat(a)
			continue
		}
		if ack := l.settle(a, answers[i]); ack.m > 0 || a.final {
			acks = append(acks, ack)
		}
	}
	l.flying = 0
	if failed > 0 {
		l.backoff(failed == len(batch))
	}
	failing := len(l.parked) > 0
	l.mu.Unlock()
	l.report(failing, firstErr)
	redisCommits.Add(len(batch) - failed - refused)
	redisRetries.Add(failed)
	if len(acks) > 0 {
		l.post(func() {
			for _, k := range acks {
				if k.err != nil {
					k.a.giveUp(k.err)
				} else {
					k.a.acknowledge(k.m, k.last, k.total)
				}
			}
		})
	}
	for _, k := range acks {
		if k.err != nil {
			l.store.complain(k.a.id, k.err)
		}
	}
}

// acknowledgement is what the loop is told of one commit: m more messages, the last of them numbered last; or
// with err that the attachment has been given up.
type acknowledgement struct {
	a              *redisAttachment
	m, last, total uint64
	err            error
}

// settle notes what Redis confirmed, and queues a again if there is more. Under l.mu.
func (l *redisLoop) settle(a *redisAttachment, s stored) acknowledgement {
	k := acknowledgement{a: a, last: s.at, total: s.total}
	if s.count >= a.asked && a.asked > a.told {
		k.m = a.asked - a.told
		a.told = a.asked
		redisPending.Add(-int64(k.m))
	}
	a.known, a.asked, a.heal = s.total, 0, false
	a.fields = max(a.fields, int32(s.fields))
	if s.others != nil {
		a.others = s.others
	}
	a.queued = false
	retire := k.m > 0 && a.final && a.fields > retireAbove
	if a.count > a.told || a.again || retire {
		l.enqueue(a)
	}
	return k
}

// repeat keeps a for the next attempt, unless all it had to say was that it is gone. Under l.mu.
func (l *redisLoop) repeat(a *redisAttachment) {
	a.repeated = true
	if a.final && a.count == a.told {
		a.queued = false
		return
	}
	l.parked = append(l.parked, a)
}

// backoff sets the time of the next attempt; all says that nothing was taken, so nothing else need be tried
// before. Under l.mu.
func (l *redisLoop) backoff(all bool) {
	d := min(maxBackoff, minBackoff<<min(l.failures, 10))
	l.failures++
	l.retryAt = time.Now().Add(d/2 + rand.N(d/2))
	l.hold = all
}

// report tells Ready how the last batch went.
func (l *redisLoop) report(failing bool, err error) {
	s := l.store
	if err != nil {
		s.failed.Store(&failure{s.explain("commit", err)})
	} else if !failing { // while some wait, as in a cluster with a server that is away, each attempt holds the others up
		l.failures = 0
	}
	if failing != l.failing {
		l.failing = failing
		if failing {
			s.failing.Add(1)
		} else {
			s.failing.Add(-1)
		}
	}
}

// lost marks a for healing. State that is lost means a Redis that forgot what it had confirmed, so it is
// said, though not once a session.
func (l *redisLoop) lost(a *redisAttachment) {
	l.mu.Lock()
	a.heal = true
	known := a.known
	l.mu.Unlock()
	if seldom(&l.store.lostSaidAt) {
		l.store.log.Warn("redis lost a session's state: restoring it from what this process was told (more may follow unlogged, see sluice_redis_heals_total)",
			"session", a.id.String(), "total", known)
	}
}

// close lets the committer end once nothing is left.
func (l *redisLoop) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	wake(l.dirty)
	wake(l.asked)
}

// end says that nothing is left. Under l.mu.
func (l *redisLoop) end() {
	if !l.ended {
		l.ended = true
		close(l.idle)
	}
}

// abandon forgets what could not be stored and says how many messages that is. Only after the committer ended.
func (l *redisLoop) abandon() (messages int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	for _, list := range [][]*redisAttachment{l.queue, l.parked} {
		for _, a := range list {
			messages += int(a.count - a.told)
		}
	}
	l.queue, l.parked = nil, nil
	redisPending.Add(-int64(messages))
	return messages
}
