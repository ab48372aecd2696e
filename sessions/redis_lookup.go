package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/rueidis"
)

// maxResumes bounds the resumes that are read together.
const maxResumes = 256

// lookup is a resume that waits for its session's total.
type lookup struct {
	id   ID
	who  subject
	o    Owner
	loop *redisLoop
}

// found is a session as it was read.
type found struct {
	snapshot
	err      error
	rejected bool // err is about this session, not about Redis
}

// Attach answers at once for a new session: nothing is written before its first message.
func (l *redisLoop) Attach(id ID, name string, resume bool, o Owner) {
	c := l.store.committer(id)
	q := attached{lookup: lookup{id, subjectOf(name), o, l}}
	c.mu.Lock()
	switch {
	case c.closed, resume && l.lookups >= l.store.cfg.PendingPerLoop:
		q.err = ErrUnavailable
	case resume:
		l.lookups++
		c.lookups = append(c.lookups, q.lookup)
		c.mu.Unlock()
		wake(c.asked)
		return
	default:
		q.a, q.err = c.attach(q.lookup, snapshot{})
	}
	c.mu.Unlock()
	l.attached(&q)
}

// attach adds a connection to its session's writer; s is what was found of the session. Under
// c.mu.
func (c *committer) attach(q lookup, s snapshot) (*redisAttachment, error) {
	made, in := s.subject, c.store.instance.Load()
	w := c.writers[writerKey{q.id, in}]
	switch {
	case made != subject{}:
	case w != nil:
		made = w.subject
	case s.total == 0:
		made = q.who
	}
	if !made.mayUse(q.who) {
		return nil, ErrForbidden
	}
	if w == nil {
		w = c.newWriter(q.id, in, made)
	}
	w.attached++
	w.found(s)
	return &redisAttachment{loop: q.loop, w: w, owner: q.o}, nil
}

// attached answers Attach. The loop's goroutine.
func (l *redisLoop) attached(q *attached) {
	if q.err != nil {
		sessionsRejected.Inc()
		q.o.Attached(nil, 0, false, q.err)
		return
	}
	attachedOrKept.Add(1)
	q.o.Attached(q.a, q.total, q.total > 0, nil)
}

// resolveForever is the resolver: it reads what has been asked for while it was reading.
func (c *committer) resolveForever() {
	var batch []lookup
	var ids []ID
	for {
		c.mu.Lock()
		n := min(len(c.lookups), maxResumes)
		batch = append(batch[:0], c.lookups[:n]...)
		c.lookups = c.lookups[:copy(c.lookups, c.lookups[n:])]
		clear(c.lookups[len(c.lookups) : len(c.lookups)+n])
		if len(c.lookups) == 0 {
			c.lookups = emptied(c.lookups)
		}
		closed := c.closed
		c.mu.Unlock()
		if n == 0 {
			if closed {
				return
			}
			select {
			case <-c.asked:
			case <-c.store.ctx.Done():
				return
			}
			continue
		}
		ids = ids[:0]
		for _, q := range batch {
			ids = append(ids, q.id)
		}
		c.resolve(batch, c.store.read(c.store.ctx, ids))
	}
}

// resolve attaches those whose session was read, and answers all.
func (c *committer) resolve(batch []lookup, answers []found) {
	var out outgoing
	c.mu.Lock()
	for i, q := range batch {
		f := &answers[i]
		r := attached{lookup: q, err: f.err}
		if f.err == nil {
			r.a, r.err = c.attach(q, f.snapshot)
		}
		if r.a != nil {
			r.total = max(f.total, r.a.w.known())
			if f.total < r.a.w.known() && !r.a.w.queued { // it is restored before somebody misses it
				c.enqueue(r.a.w)
			}
		}
		out.attached = append(out.attached, r)
	}
	c.mu.Unlock()
	out.flush()
	for i, f := range answers {
		if f.rejected {
			c.store.logRejected(batch[i].id, f.err)
		}
	}
}

// read reads sessions so that no acknowledgement that anybody received before the call is missing
// from the totals. The client-side cache alone cannot promise that: an invalidation may still be
// on its way. So a barrier goes first.
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
	switch {
	case s.cfg.ClientCache && c.Mode() == rueidis.ClientModeCluster:
		s.readCluster(ctx, c, ids, out)
	case s.cfg.ClientCache && s.barrier(ctx, c):
		s.readCached(ctx, c, ids, out, nil)
	default:
		s.readDirect(ctx, c, ids, out, nil)
	}
	return out
}

// readDirect reads sessions from the servers: those at which, or all.
func (s *Redis) readDirect(ctx context.Context, c rueidis.Client, ids []ID, out []found, which []int) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
	defer cancel()
	which = orAll(which, len(ids))
	commands := make([]rueidis.Completed, len(which))
	for j, i := range which {
		commands[j] = c.B().Hgetall().Key(s.key(ids[i])).Build()
	}
	for j, r := range c.DoMulti(ctx, commands...) {
		out[which[j]] = s.parse(r)
	}
}

// readCached reads sessions through the client-side cache. Those whose server sent us elsewhere
// are returned.
func (s *Redis) readCached(
	ctx context.Context, c rueidis.Client, ids []ID, out []found, which []int,
) (redirected []int) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline)
	defer cancel()
	which = orAll(which, len(ids))
	commands := make([]rueidis.CacheableTTL, len(which))
	for j, i := range which {
		commands[j] = rueidis.CT(c.B().Hgetall().Key(s.key(ids[i])).Cache(), s.cfg.TTL)
	}
	for j, r := range c.DoMultiCache(ctx, commands...) {
		if r.IsCacheHit() {
			redisCacheHits.Inc()
		} else {
			redisCacheMisses.Inc()
		}
		if answer, ok := rueidis.IsRedisErr(r.Error()); ok && errorWord(answer.Error(), "MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN", "EXECABORT") != "" {
			redirected = append(redirected, which[j])
			continue
		}
		out[which[j]] = s.parse(r)
	}
	return redirected
}

// orAll is which or, without it, 0 to n-1.
func orAll(which []int, n int) []int {
	if which == nil {
		which = make([]int, n)
		for i := range which {
			which[i] = i
		}
	}
	return which
}

func (s *Redis) parse(r rueidis.RedisResult) (f found) {
	if f.snapshot, f.err = parseSnapshot(r); f.err == nil {
		if n := len(f.fields); n >= maxProcesses && !s.countedIn(f.fields) {
			f.err = fmt.Errorf("resume: %w: %d processes have counted in it", ErrFull, n)
			return found{err: f.err, rejected: true}
		}
		return f
	}
	if err := s.ofSession("read session", f.err); err != nil {
		f.err, f.rejected = err, true
		return f
	}
	f.err = s.explain("read session", f.err)
	if !errors.Is(f.err, ErrUnavailable) {
		f.err = fmt.Errorf("%w (%w)", f.err, ErrUnavailable)
	}
	return f
}

// countedIn says that one of the fields is this process'.
func (s *Redis) countedIn(fields []field) bool {
	name := s.instance.Load().name
	return slices.ContainsFunc(fields, func(f field) bool { return f.name == name })
}

// barrier waits for an answer on the connection that carries the invalidations. Redis sends those
// in the order of the writes they belong to, before it confirms the write to the writer or right
// after; so what comes before our answer covers everything confirmed before we asked. A server
// that fails at once has lost its connection, and with it its cached entries: nothing of it can
// be stale. One that Sentinel has demoted hears of writes late.
func (s *Redis) barrier(ctx context.Context, c rueidis.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Deadline/2)
	defer cancel()
	if s.option.Sentinel.MasterSet == "" {
		return !unanswered(c.Do(ctx, c.B().Ping().Build()).Error())
	}
	role, err := c.Do(ctx, c.B().Role().Build()).ToArray()
	if err != nil || len(role) == 0 {
		return !unanswered(err)
	}
	name, err := role[0].ToString()
	return err == nil && name == "master"
}

// unanswered says that nobody waits any more: the time is up, or who asked has given up.
func unanswered(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.Canceled)
}

// countInvalidations is called by rueidis' reader: it must not wait. nil means all of a
// connection's entries.
func countInvalidations(keys []rueidis.RedisMessage) { redisInvalidations.Add(max(1, len(keys))) }
