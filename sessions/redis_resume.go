package sessions

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/rueidis"
)

// maxResumes bounds the resumes that are read together.
const maxResumes = 256

// question is a resume that waits for its total.
type question struct {
	id ID
	o  Owner
}

// found is a session as it was read.
type found struct {
	snapshot
	err error
	own bool // err is about this session, not about Redis
}

// Attach answers at once for a new session: nothing is written before its first message.
func (l *redisLoop) Attach(id ID, resume bool, o Owner) {
	l.mu.Lock()
	full, closed := len(l.asking) >= l.store.cfg.PendingPerLoop, l.closed
	if resume && !full && !closed {
		l.asking = append(l.asking, question{id, o})
		wake(l.asked)
	}
	l.mu.Unlock()
	switch {
	case closed, resume && full:
		sessionsRejected.Inc()
		o.Attached(nil, 0, false, ErrUnavailable)
	case !resume:
		l.attached(question{id, o}, found{})
	}
}

// attached answers a question. The loop's goroutine.
func (l *redisLoop) attached(q question, f found) {
	if f.err != nil {
		sessionsRejected.Inc()
		q.o.Attached(nil, 0, false, f.err)
		return
	}
	a := &redisAttachment{
		loop: l, id: q.id, writer: newWriterID(), owner: q.o,
		known: f.total, others: f.others, fields: int32(len(f.others)/2 + 1),
	}
	attachedOrKept.Add(1)
	q.o.Attached(a, f.total, f.total > 0, nil)
}

// resolveForever is the resolver: it reads what has been asked for while it was reading.
func (l *redisLoop) resolveForever() {
	for {
		l.mu.Lock()
		n := min(len(l.asking), maxResumes)
		batch := append([]question(nil), l.asking[:n]...)
		l.asking = l.asking[:copy(l.asking, l.asking[n:])]
		closed := l.closed
		l.mu.Unlock()
		if n == 0 {
			if closed {
				return
			}
			select {
			case <-l.asked:
			case <-l.store.ctx.Done():
				return
			}
			continue
		}
		ids := make([]ID, n)
		for i, q := range batch {
			ids[i] = q.id
		}
		answers := l.store.read(l.store.ctx, ids)
		for i := range answers {
			answers[i].err = l.store.judge(ids[i], &answers[i])
		}
		l.post(func() {
			for i, q := range batch {
				l.attached(q, answers[i])
			}
		})
	}
}

// judge says why a session that was read cannot be resumed: nil, or an error that wraps ErrUnavailable or ErrFull.
func (s *Redis) judge(id ID, f *found) error {
	err, own := f.err, f.own
	if err == nil && f.full() {
		err, own = fmt.Errorf("resume: %w: %d writers, of connections that count or were cut off", ErrFull, len(f.others)/2), true
	}
	if own {
		s.complain(id, err)
	}
	return err
}

// read reads sessions so that no acknowledgement that anybody received before the call is missing from the
// totals. The client-side cache alone cannot promise that: an invalidation may still be on its way. So a
// barrier goes first.
func (s *Redis) read(ctx context.Context, ids []ID) []found {
	out := make([]found, len(ids))
	both, err := s.do()
	if err != nil {
		for i := range out {
			out[i].err = err
		}
		return out
	}
	c := both.reads
	if err := s.state.Load().err; errors.Is(err, ErrUnavailable) && len(c.Nodes()) == 1 {
		// It did not answer the watcher: thousands of resumes must not wait for a deadline each.
		for i := range out {
			out[i].err = err
		}
		return out
	}
	if s.cfg.ClientCache && s.barrier(ctx, c) {
		s.readCached(ctx, c, ids, out)
		return out
	}
	commands := make([]rueidis.Completed, len(ids))
	for i, id := range ids {
		commands[i] = c.B().Hgetall().Key(s.key(id)).Build()
	}
	direct, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
	defer cancel()
	for i, r := range c.DoMulti(direct, commands...) {
		out[i] = s.parse(r)
	}
	return out
}

func (s *Redis) readCached(ctx context.Context, c rueidis.Client, ids []ID, out []found) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
	defer cancel()
	commands := make([]rueidis.CacheableTTL, len(ids))
	for i, id := range ids {
		commands[i] = rueidis.CT(c.B().Hgetall().Key(s.key(id)).Cache(), s.cfg.TTL)
	}
	for i, r := range c.DoMultiCache(ctx, commands...) {
		if r.IsCacheHit() {
			redisCacheHits.Inc()
		} else {
			redisCacheMisses.Inc()
		}
		out[i] = s.parse(r)
	}
}

func (s *Redis) parse(r rueidis.RedisResult) (f found) {
	f.snapshot, f.err = parseSnapshot(r)
	if f.err == nil {
		return f
	}
	if err := s.ofSession("read session", f.err); err != nil {
		f.err, f.own = err, true
		return f
	}
	f.err = s.explain("read session", f.err)
	if !errors.Is(f.err, ErrUnavailable) {
		f.err = fmt.Errorf("%w (%w)", f.err, ErrUnavailable)
	}
	return f
}

// barrier waits for one answer from each server on the connection that carries its invalidations. Redis
// sends those in the order of the writes they belong to, before it confirms the write to the writer or
// right after; so what comes before our answer covers everything confirmed before we asked. A server that
// fails at once has lost its connection, and with it its cached entries: nothing of it can be stale.
func (s *Redis) barrier(ctx context.Context, c rueidis.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline/2)
	defer cancel()
	nodes := c.Nodes()
	if len(nodes) == 1 {
		for _, n := range nodes {
			return !unanswered(n.Do(ctx, n.B().Ping().Build()).Error())
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	ok := true
	for _, n := range nodes {
		wg.Go(func() {
			if unanswered(n.Do(ctx, n.B().Ping().Build()).Error()) {
				mu.Lock()
				ok = false
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return ok
}

// unanswered says that nobody waits any more: the time is up, or who asked has given up.
func unanswered(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.Canceled)
}

// countInvalidations is called by rueidis' reader: it must not wait. nil means all of a connection's entries.
func countInvalidations(keys []rueidis.RedisMessage) { redisInvalidations.Add(max(1, len(keys))) }
