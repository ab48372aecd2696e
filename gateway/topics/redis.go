package topics

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"sluice/sessions"
)

// RedisConfig is how the processes that share topics reach each other. Zero values are the
// defaults, but for URL.
type RedisConfig struct {
	// URL is that of the server: redis://user:password@host:port, rediss:// for TLS, more addresses
	// by addr= for a cluster, master_set= for sentinels.
	URL string

	// Prefix begins the names of channels and keys; processes with the same one share their topics.
	// Default "sluice:topic:".
	Prefix string

	// Deadline is how long an answer, and a publication's way back, may take before the connection
	// counts as dead. Default 2 s.
	Deadline time.Duration

	// ProbeInterval is how often a connection that has brought nothing is tried by a publication of
	// our own: the TCP connection can be healthy and yet bring nothing. Default 1 s.
	ProbeInterval time.Duration

	// Partitions is on how many slots of a cluster the channels are; each has a connection of its
	// own. All processes must have the same. Default 16. Without a cluster there is one.
	Partitions int

	// MaxQueue bounds the publications of a partition that wait for Redis; beyond it Publish fails
	// with ErrBusy. Default 8,192.
	MaxQueue int
}

func (c RedisConfig) withDefaults() (RedisConfig, error) {
	c.Prefix = cmp.Or(c.Prefix, "sluice:topic:")
	c.Deadline = cmp.Or(c.Deadline, 2*time.Second)
	c.ProbeInterval = cmp.Or(c.ProbeInterval, time.Second)
	c.Partitions = cmp.Or(c.Partitions, 16)
	c.MaxQueue = cmp.Or(c.MaxQueue, 8192)
	switch {
	case c.Deadline < 0 || c.ProbeInterval < 0 || c.MaxQueue < 0:
		return c, errors.New("topics: a bound of the Redis broker is negative")
	case c.Partitions < 1 || c.Partitions > 1024:
		return c, fmt.Errorf("topics: %d partitions, want 1 to 1024", c.Partitions)
	case strings.ContainsAny(c.Prefix, "{}"):
		return c, fmt.Errorf("topics: the prefix %q has braces, which choose the slot in a cluster",
			c.Prefix)
	}
	return c, nil
}

// redisBroker carries publications through Redis, also those of this process for itself: so all
// processes see the messages of a topic in the same order.
type redisBroker struct {
	hub     *Hub
	cfg     RedisConfig
	client  rueidis.Client
	sharded bool
	node    string // names this process' probe channels
	log     *slog.Logger

	// source is set when others publish here: then nothing is sent, and this is their format.
	source *SourceConfig

	feeds   []*feed
	senders []*sender
	syncs   chan struct{} // bounds the histories that are read at a time
	ctx     context.Context
	cancel  context.CancelFunc
	ending  sync.WaitGroup
}

func openRedis(h *Hub, cfg RedisConfig) (*redisBroker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	option, err := sessions.ParseRedisURL(cfg.URL, cfg.Deadline)
	if err != nil {
		return nil, fmt.Errorf("broker URL: %w (set --broker-url to the like of "+
			"redis://user:password@host:6379)", err)
	}
	b, err := connect(h, cfg, option)
	if err != nil {
		return nil, fmt.Errorf("open the broker at %s: %w (set --broker-url)",
			strings.Join(option.InitAddress, ","), err)
	}
	b.sharded = b.client.Mode() == rueidis.ClientModeCluster
	parts := 1
	if b.sharded {
		parts = cfg.Partitions
	}
	for i := range parts {
		b.feeds = append(b.feeds, newFeed(b, i))
		b.senders = append(b.senders, newSender(b))
	}
	b.start()
	return b, nil
}

// connect makes a broker that has a connection and no feeds yet.
func connect(h *Hub, cfg RedisConfig, option rueidis.ClientOption) (*redisBroker, error) {
	option.DisableCache = true
	option.PipelineMultiplex = -1 // one connection for each server keeps the order
	client, err := reach(h, cfg, option)
	if err != nil {
		return nil, err
	}
	var id [9]byte
	_, _ = rand.Read(id[:]) // never fails: the program ends instead
	b := &redisBroker{
		hub: h, cfg: cfg, client: client, log: h.cfg.Logger,
		node:  base64.RawURLEncoding.EncodeToString(id[:]),
		syncs: make(chan struct{}, syncsAtOnce),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// reach connects to a server that may be starting, as this process is: they often start together.
func reach(h *Hub, cfg RedisConfig, option rueidis.ClientOption) (rueidis.Client, error) {
	until := time.Now().Add(startDeadlines * cfg.Deadline)
	for warned := false; ; warned = true {
		client, err := rueidis.NewClient(option)
		if err == nil {
			return client, nil
		}
		refused, ok := rueidis.IsRedisErr(err)
		if ok && !refused.IsLoading() || time.Now().After(until) {
			return nil, err
		}
		if !warned {
			h.cfg.Logger.Warn("Redis is not there yet: trying again",
				"for", time.Until(until).Round(time.Millisecond),
				"addresses", option.InitAddress, "error", err)
		}
		time.Sleep(min(reachAgain, time.Until(until)))
	}
}

// startDeadlines is for how many deadlines New tries to reach a server, and reachAgain how often.
const (
	startDeadlines = 5
	reachAgain     = 100 * time.Millisecond
)

// start begins the work of feeds and senders.
func (b *redisBroker) start() {
	feedsDown.Add(int64(len(b.feeds)))
	for _, f := range b.feeds {
		b.ending.Go(f.run)
	}
	for _, s := range b.senders {
		b.ending.Go(s.run)
	}
}

func (b *redisBroker) close() {
	b.cancel()
	b.client.Close()
	b.ending.Wait()
	for _, f := range b.feeds {
		if f.ready() != nil {
			feedsDown.Add(-1)
		}
	}
}

func (b *redisBroker) ready() error {
	for _, f := range b.feeds {
		if err := f.ready(); err != nil {
			return err
		}
	}
	return nil
}

// part is the partition of a topic.
func (b *redisBroker) part(name string) int {
	if len(b.feeds) == 1 {
		return 0
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name))
	return int(sum.Sum32() % uint32(len(b.feeds)))
}

// tag has all names of a partition in one slot of a cluster.
func (b *redisBroker) tag(part int) string {
	if !b.sharded {
		return ""
	}
	return "{" + strconv.Itoa(part) + "}"
}

func (b *redisBroker) channelPrefix(part int) string { return b.cfg.Prefix + b.tag(part) }

// probeChannel is not a topic's: the prefix is cut.
func (b *redisBroker) probeChannel(part int) string {
	return strings.TrimSuffix(b.cfg.Prefix, ":") + "-probe:" + b.tag(part) + b.node
}

// keys are those of a topic's history.
func (b *redisBroker) keys(name string) []string {
	base := b.tag(b.part(name)) + name
	return []string{b.cfg.Prefix + "meta:" + base, b.cfg.Prefix + "kept:" + base}
}

// historyOf is what is read from here for those who come back, and after an outage.
func (b *redisBroker) historyOf(name string) (r HistoryRule) {
	if b.source == nil {
		r = b.hub.cfg.rulesFor(name).history
	}
	return r
}

// history calls done once the topic is subscribed to in Redis and its history after since was read.
func (b *redisBroker) history(name string, since Position, done func(past)) {
	b.feeds[b.part(name)].await(name, since, done)
}

// publish queues a publication. done may be nil.
func (b *redisBroker) publish(name string, rule HistoryRule, m Message,
	done func(Position, error)) error {
	return b.senders[b.part(name)].add(publication{name: name, rule: rule, op: m.Op,
		payload: string(m.Payload), done: done})
}

func (b *redisBroker) publishWait(ctx context.Context, name string, rule HistoryRule,
	m Message) (Position, error) {
	type answer struct {
		at  Position
		err error
	}
	answers := make(chan answer, 1)
	if err := b.publish(name, rule, m,
		func(p Position, err error) { answers <- answer{p, err} }); err != nil {
		return Position{}, err
	}
	select {
	case a := <-answers:
		return a.at, a.err
	case <-ctx.Done():
		return Position{}, ctx.Err()
	}
}
