package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// RedisConfig configures a Redis. Zero values are the defaults, except for URL and ClientCache.
type RedisConfig struct {
	// URL says where Redis is; see the package documentation for its forms.
	URL string
	// KeyPrefix begins every key. Default "sluice:session:". Two services with one prefix share
	// their sessions.
	KeyPrefix string
	// TTL is how long Redis keeps a session after its last commit or Touch. Default 1 h. Too
	// short and clients that reconnect after a break begin at 0.
	TTL time.Duration
	// ClientCache keeps what resumes read in this process until Redis says that it changed. It
	// needs CLIENT TRACKING and RESP3 (Redis 6 or later). Off, every resume reads from Redis.
	ClientCache bool
	// Durability is "warn" (the default: say once, in the log, what Redis may forget) or "strict"
	// (not ready until Redis has appendonly yes, appendfsync always and, with a maxmemory,
	// noeviction).
	Durability string
	// WaitReplicas has each commit wait until so many replicas have received it, before anybody is
	// told: what was acknowledged survives the failover to one of them. Default 0. With fewer
	// replicas than that nothing is acknowledged, and the store is not Ready.
	WaitReplicas int
	// CommitInterval is the least time between two batches of commits, so that messages gather
	// while Redis is fast. A full batch, and one that follows a single commit, goes at once.
	// Default 0: as soon as Redis has answered. Too long and each acknowledgement waits.
	CommitInterval time.Duration
	// PendingPerConn bounds the unacknowledged messages of a connection. Default 256. Too small
	// and a fast client waits for Redis after each few messages; too large and one client fills
	// its loop's bound.
	PendingPerConn int
	// PendingPerLoop bounds the unacknowledged messages of a loop, and the resumes waiting on it.
	// Default 65,536; with it a Redis that is down costs at most about 15 MB a loop.
	PendingPerLoop int
	// Deadline is the longest that one call to Redis may take. Default 2 s. A dead peer is
	// noticed within about twice that. Too short and a slow disk looks like an outage.
	Deadline time.Duration
	// DetachDeadline is the longest that Detach waits for the final commit before it says
	// Detached with an error (the commit is tried on until Close gives up). Default 5 s.
	DetachDeadline time.Duration
	// Logger defaults to slog.Default().
	Logger *slog.Logger

	committers int // tests set it; else one for two threads: fewer have larger batches
}

// withDefaults fills in what is zero, and refuses what makes no sense.
func (cfg RedisConfig) withDefaults() (RedisConfig, error) {
	if cfg.KeyPrefix == "" {
		cfg.KeyPrefix = "sluice:session:"
	}
	if cfg.Durability == "" {
		cfg.Durability = "warn"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.committers = cmp.Or(cfg.committers, max(runtime.GOMAXPROCS(0)/2, 1))
	cfg.PendingPerConn = cmp.Or(cfg.PendingPerConn, 256)
	cfg.PendingPerLoop = cmp.Or(cfg.PendingPerLoop, 65_536)
	cfg.TTL = cmp.Or(cfg.TTL, time.Hour)
	cfg.Deadline = cmp.Or(cfg.Deadline, 2*time.Second)
	cfg.DetachDeadline = cmp.Or(cfg.DetachDeadline, 5*time.Second)
	switch {
	case cfg.Durability != "warn" && cfg.Durability != "strict":
		return cfg, fmt.Errorf("redis durability %q: want strict or warn (set --redis-durability)", cfg.Durability)
	case cfg.PendingPerConn < 0 || cfg.PendingPerLoop < 0 || cfg.Deadline < 0 || cfg.DetachDeadline < 0 ||
		cfg.WaitReplicas < 0 || cfg.CommitInterval < 0:
		return cfg, errors.New("redis store: a number or deadline is negative")
	case cfg.TTL < time.Second:
		return cfg, fmt.Errorf("session TTL %v: want at least 1s with Redis (set --session-ttl)", cfg.TTL)
	}
	return cfg, nil
}

// Redis is a Store in Redis, shared by all processes that use the same one: a client resumes
// anywhere, and an acknowledged count survives the death of any process. See the package
// documentation for how.
type Redis struct {
	cfg    RedisConfig
	option rueidis.ClientOption
	ttl    string // cfg.TTL in ms, as the script takes it
	log    *slog.Logger

	client atomic.Pointer[clients] // nil until the first connection succeeded
	state  atomic.Pointer[health]

	instance   atomic.Pointer[instance] // of new writers
	retired    atomic.Pointer[instance] // what that was before connections were given away
	committers []*committer             // a session's is chosen by its id

	inheritedMu sync.Mutex
	inherited   map[string]*instance // of the processes that this one has replaced, by name

	failing atomic.Int32 // committers whose last batch was not taken as a whole
	failed  atomic.Pointer[failure]

	lostLog, rejectedLog logLimiter

	said   string // the watcher's: what it last logged as the reason for not being ready
	saidAt time.Time

	ctx  context.Context // ends when Close gives up: aborts every call and wait
	stop context.CancelFunc

	closing atomic.Bool
	wg      sync.WaitGroup // connector and watcher, committers, resolvers
}

var _ Store = (*Redis)(nil)

// clients are the connections to Redis. Reads share one to each server, so that a barrier on it
// covers them all. Commits have several: Redis takes 16 KiB from each, some 70 commits, before it
// syncs its file and answers, so with appendfsync always one connection of them alone would wait
// for a sync per 70.
type clients struct{ reads, commits rueidis.Client }

func (c *clients) close() {
	c.reads.Close()
	c.commits.Close()
}

// health is what the watcher found last.
type health struct {
	err    error  // not ready, and why
	warned string // durability findings that have been logged
}

// failure is why a commit was not taken.
type failure struct{ err error }

// NewRedis returns a store on the Redis that cfg names. A Redis that cannot be reached is no
// error: the store is then not Ready, and keeps trying. A mistake that waiting does not mend is
// one: a bad URL, a wrong password, a server without scripts or, with ClientCache, without CLIENT
// TRACKING.
func NewRedis(ctx context.Context, cfg RedisConfig) (*Redis, error) {
	showRedisUp()
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	option, err := clientOption(cfg)
	if err != nil {
		return nil, err
	}
	s := &Redis{
		cfg: cfg, option: option, log: cfg.Logger,
		ttl: strconv.FormatInt(cfg.TTL.Milliseconds(), 10),
	}
	s.instance.Store(newInstance())
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.state.Store(&health{err: fmt.Errorf("redis %s: not connected yet", s.where())})
	if err := s.connect(ctx); err != nil {
		if permanent(err) {
			s.stop()
			return nil, err
		}
		s.setHealth(err)
	}
	s.sayReady()
	s.wg.Go(s.watch)
	for range cfg.committers {
		c := newCommitter(s)
		s.committers = append(s.committers, c)
		s.wg.Go(c.commitForever)
		s.wg.Go(c.resolveForever)
	}
	return s, nil
}

// Join returns a loop's side of the store.
func (s *Redis) Join(post func(fn func()) bool) Loop { return &redisLoop{store: s, post: post} }

// committer returns the one for a session.
func (s *Redis) committer(id ID) *committer {
	return s.committers[int(id[len(id)-1])%len(s.committers)]
}

// Ready follows Redis within seconds: it is not nil while Redis does not answer, while commits
// wait for it to, and, with Durability strict, while it could forget what it confirmed.
func (s *Redis) Ready() error {
	if h := s.state.Load(); h.err != nil {
		return h.err
	}
	if s.failing.Load() > 0 {
		return s.failed.Load().err
	}
	return nil
}

// Lookup reads through the client-side cache like a resume does.
func (s *Redis) Lookup(ctx context.Context, id ID) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Deadline)
	defer cancel()
	found := s.read(ctx, []ID{id})[0]
	switch {
	case found.err != nil:
		return 0, found.err
	case found.total == 0:
		return 0, ErrNotFound
	}
	return found.total, nil
}

// Close commits what is pending, for as long as ctx allows, and disconnects.
func (s *Redis) Close(ctx context.Context) error {
	if s.closing.Swap(true) {
		s.wg.Wait()
		return nil
	}
	for _, c := range s.committers {
		c.close()
	}
	flushed := true
	for _, c := range s.committers {
		select {
		case <-c.idle:
		case <-ctx.Done():
			flushed = false
		}
	}
	s.stop()
	s.wg.Wait()
	if c := s.client.Load(); c != nil {
		c.close()
	}
	s.state.Store(&health{err: fmt.Errorf("redis store closed: %w", ErrUnavailable)})
	redisUp.Store(0)
	lost := 0
	for _, c := range s.committers {
		lost += c.abandon()
	}
	if !flushed && lost > 0 {
		return fmt.Errorf("redis %s: closed with %d messages not stored (none of them was acknowledged): %w", s.where(), lost, ctx.Err())
	}
	return nil
}

// format is the part of a key that says how its hash is written. Earlier gateways wrote a field
// per connection, and folded them, so that one of them could still repeat what a merge had
// counted already: the two must not meet in one hash.
const format = "2:"

func (s *Redis) key(id ID) string {
	var b [128]byte // enough for most prefixes
	return string(id.Append(append(append(b[:0], s.cfg.KeyPrefix...), format...)))
}

// do returns the clients, or an error while there has never been a connection.
func (s *Redis) do() (*clients, error) {
	if c := s.client.Load(); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("redis %s: not connected: %w", s.where(), ErrUnavailable)
}
