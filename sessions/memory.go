package sessions

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// MemoryConfig configures a Memory. The zero value is the default.
type MemoryConfig struct {
	// TTL is how long a session is kept after its last connection left. Default 1 h. Too short
	// and clients that reconnect after a break begin at 0; too long and MaxSessions decides
	// instead.
	TTL time.Duration
	// MaxSessions bounds the sessions that have counted a message, attached or idle. Above it
	// the longest idle of those that nobody ever came back to, and that counted three messages
	// at most, is evicted; so a flood of sessions that are used once pushes out its own kind.
	// The longest idle of the others is evicted when there is none of these, or when the idle
	// others are more than four fifths of MaxSessions. It also bounds the attached ones: beyond
	// it Attach answers ErrFull. Default 1,000,000 (about 86 MB). Too small and idle sessions
	// are forgotten before their TTL.
	MaxSessions int
	// Ask sends a question to the process before this one, whose Memory has Answer for it; an
	// error says that it is gone. Any goroutine but a loop's. Nil: that process takes no
	// questions, and while the role is Taking a resume of a session that is not here waits.
	Ask func(question []byte) error

	now func() time.Duration // monotonic; tests put their own here
}

// shardCount is a power of two well above the number of loops, so that two loops rarely want one
// lock. Locks are taken at attach and detach only.
const shardCount = 64

// never is the idle time of a shard that has no idle session.
const never = math.MaxInt64

// Memory is a Store in this process's memory: nothing to install, gone with the process. A count
// is stored as soon as it is added, so there is never anything pending.
type Memory struct {
	ttl      time.Duration
	max      int64
	now      func() time.Duration
	shards   [shardCount]shard
	attached atomic.Int64 // sessions with at least one connection
	counted  atomic.Int64 // sessions with at least one message
	kept     atomic.Int64 // idle ones in the segment kept
	closed   atomic.Bool
	role     atomic.Int32                // a Role
	ask      func(question []byte) error // MemoryConfig.Ask
	waitMu   sync.Mutex
	asker    asker
	answerer *answerer // nil until the first question
	stop     chan struct{}
	swept    chan struct{} // closed when the sweeper has ended
}

var _ Store = (*Memory)(nil)

// shard holds the sessions whose ids fall on it.
type shard struct {
	idle  [segments]idleList
	mu    sync.Mutex
	byID  index
	store *Memory
	// exported says that the idle sessions with exported are in the other process.
	exported bool
	// subjects has those of byID that were made with a subject.
	subjects map[ID]subject
}

// segment is one of the two queues of a segmented LRU: a session that was used once is evicted
// before one that was used again, however many of the former there are.
type segment uint8

const (
	fresh segment = iota // nobody came back, and it counted usedOnce messages at most
	kept
	segments
)

// usedOnce is how many messages a session may count and still be fresh.
const usedOnce = 3

// idleList holds idle sessions of one segment, longest idle first: the order in which they go idle
// is the order in which they expire, so its head is all that expiry must look at.
type idleList struct {
	head, tail *session
	// oldest is head's idleSince, or never; read without the lock to find the longest idle of
	// all.
	oldest atomic.Int64
}

// session is one count. It is also the Attachment of each of its connections: attaching to a
// session that is there allocates nothing. 64 bytes, and it should stay in that size class.
type session struct {
	n     atomic.Uint64
	id    ID
	shard *shard
	// Under shard.mu:
	prev, next *session
	idleSince  time.Duration
	refs       int32 // connections attached; 0 exactly when on an idle list
	resumed    bool  // somebody came back
	exported   bool  // since it is idle
	in         segment
}

var (
	_ Loop       = (*Memory)(nil)
	_ Attachment = (*session)(nil)
)

// NewMemory returns an empty store and starts the goroutine that removes expired sessions; Close
// ends it.
func NewMemory(cfg MemoryConfig) *Memory {
	if cfg.TTL <= 0 {
		cfg.TTL = time.Hour
	}
	if cfg.MaxSessions <= 0 {
		cfg.MaxSessions = 1_000_000
	}
	if cfg.now == nil {
		start := time.Now()
		cfg.now = func() time.Duration { return time.Since(start) }
	}
	m := &Memory{
		ttl: cfg.TTL, max: int64(cfg.MaxSessions), now: cfg.now, ask: cfg.Ask,
		stop: make(chan struct{}), swept: make(chan struct{}),
	}
	for i := range m.shards {
		s := &m.shards[i]
		s.store = m
		for seg := range s.idle {
			s.idle[seg].oldest.Store(never)
		}
	}
	go m.sweepForever(min(max(cfg.TTL/16, 100*time.Millisecond), time.Minute))
	return m
}

// Join returns a loop's side of the store.
func (m *Memory) Join(post func(fn func()) bool) Loop { return memoryLoop{m, post} }

// Ready is nil until the store is closed.
func (m *Memory) Ready() error {
	if m.closed.Load() {
		return ErrUnavailable
	}
	return nil
}

// Attach calls o.Attached before it returns. It may be called by any goroutine.
func (m *Memory) Attach(id ID, name string, _ bool, o Owner) {
	if m.closed.Load() {
		o.Attached(nil, 0, false, ErrUnavailable)
		return
	}
	s, held, err := m.shard(id).attach(id, subjectOf(name))
	if err != nil {
		sessionsRejected.Inc()
		o.Attached(nil, 0, false, err)
		return
	}
	m.trim()
	o.Attached(s, s.n.Load(), held, nil)
}

// Lookup never blocks.
func (m *Memory) Lookup(_ context.Context, id ID) (uint64, error) {
	sh := m.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.expire()
	if s := sh.byID.get(id); s != nil && s.n.Load() > 0 && !sh.expired(s) {
		return s.n.Load(), nil
	}
	return 0, ErrNotFound
}

// Close forgets all sessions. Nothing is ever pending here, so it does not wait.
func (m *Memory) Close(context.Context) error {
	if m.closed.Swap(true) {
		return nil
	}
	close(m.stop)
	<-m.swept
	m.stopAnswering(nil)
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		attachedOrKept.Add(int64(-sh.byID.len()))
		sh.byID.clear()
		clear(sh.subjects)
		for seg := range sh.idle {
			for sh.idle[seg].head != nil {
				sh.unlink(sh.idle[seg].head)
			}
		}
		sh.mu.Unlock()
	}
	return nil
}

// shard picks by the id's last byte, which is random in every common UUID version. Clients may
// choose their ids, and so crowd a shard: that costs them and the others lock contention at
// attach, and nothing else.
func (m *Memory) shard(id ID) *shard {
	return &m.shards[id[15]%shardCount]
}

// Add counts one message: one atomic add, no lock.
func (s *session) Add() (uint64, bool) {
	n := s.n.Add(1)
	if n == 1 {
		s.shard.store.counted.Add(1)
	}
	return n, true
}

// Pending is 0: a count in memory is stored at once.
func (s *session) Pending() int { return 0 }

// Full is false.
func (s *session) Full() bool { return false }

// Touch does nothing: an attached session does not expire.
func (s *session) Touch() {}

// Detach calls o.Detached before it returns.
func (s *session) Detach(o Owner) {
	s.shard.detach(s)
	s.shard.store.trim()
	if o != nil {
		o.Detached(s.n.Load(), nil)
	}
}
