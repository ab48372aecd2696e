package topics

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

var (
	// ErrBusy says that the loops, or the broker, do not keep up with what is published: try again
	// later.
	ErrBusy = errors.New("topics: too much waits to be delivered")
	// ErrFull says that a bound on topics or subscriptions is reached.
	ErrFull = errors.New("topics: no room for another topic or subscription")
	// ErrTooMany says that the connection has as many topics as one may have.
	ErrTooMany = errors.New("topics: the connection is subscribed to too many topics")
	// ErrTooBig says that a payload is longer than Config.MaxPayload.
	ErrTooBig = errors.New("topics: the message is too long")
	// ErrUTF8 says that the payload of a text is not UTF-8.
	ErrUTF8 = errors.New("topics: the text is not UTF-8")
	// ErrClose says that a Close has a payload that no Close frame may have.
	ErrClose = errors.New("topics: a Close has a code that may be sent and a reason of at most 123 " +
		"bytes of UTF-8, or neither")
	errOp = errors.New("topics: the opcode is not that of a text, a binary message or a Close")
	// ErrClosed says that the connection is closing, or that the Hub is closed.
	ErrClosed = errors.New("topics: closed")
)

// Hub holds the topics of one Server: make one, have the Server's App join each of its loops to it
// (ForLoop), and publish from anywhere. Its methods may be called by any goroutine.
type Hub struct {
	cfg    Config
	seed   maphash.Seed
	shards [64]shard
	broker *redisBroker // nil: topics end at this process
	// sources bring what others publish; they are told which topics have subscribers, as the broker
	// is.
	sources []*redisBroker

	histories histories

	mu    sync.Mutex // guards loops
	loops []*Loop

	giving atomic.Pointer[relay] // while subscribers are given away

	topics, subscriptions atomic.Int64
	pending, retained     atomic.Int64 // bytes
}

// shard is a part of the topics. Its lock also makes the order of each topic's messages the same on
// all loops. It is held for a few map operations at most.
type shard struct {
	mu     sync.Mutex
	topics map[string]*topic
	seq    uint64 // of the last message
	frozen bool
	gone   bool   // what waited has been exported: nothing more may join it
	held   []held // while frozen

	relay    *relay                // where what is delivered is passed on too
	unwanted []string              // topics that lost their last subscriber meanwhile
	passed   map[string][]*message // what came that way, for those that are still to come
	carried  map[string]struct{}   // topics that a broker brings to the other process; nil: all
	listed   bool                  // carried has those of the beginning
	imported []held                // published before held
}

// topic exists while it has subscribers or a history. Its fields are guarded by its shard's lock.
type topic struct {
	name   string
	rules  rules
	epoch  uint64 // of the history; 0 without one
	offset uint64 // number of the last message
	locals []*local
	kept   *history // nil when nothing is kept
}

// New makes a Hub. With Redis it returns when the first connection stands, or with an error when
// the server does not want us, or is not there within five deadlines (RedisConfig.Deadline).
func New(cfg Config) (*Hub, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Hub{cfg: cfg, seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].topics = make(map[string]*topic)
	}
	h.histories.init(h)
	if cfg.Redis != nil {
		if h.broker, err = openRedis(h, *cfg.Redis); err != nil {
			return nil, err
		}
	}
	for _, source := range cfg.Sources {
		s, err := openSource(h, source)
		if err != nil {
			return nil, errors.Join(err, h.Close())
		}
		h.sources = append(h.sources, s)
	}
	return h, nil
}

// ForLoop joins a loop to the Hub. An App calls it in its own ForLoop, with what it was given
// there.
func (h *Hub) ForLoop(post func(fn func()) bool) *Loop {
	l := newLoop(h, post)
	h.mu.Lock()
	h.loops = append(h.loops, l)
	h.mu.Unlock()
	return l
}

func (h *Hub) shard(name string) *shard {
	return &h.shards[maphash.String(h.seed, name)%uint64(len(h.shards))]
}

// eachShard calls fn for one shard after the other, which is locked.
func (h *Hub) eachShard(fn func(s *shard)) {
	for i := range h.shards {
		s := &h.shards[i]
		s.mu.Lock()
		fn(s)
		s.mu.Unlock()
	}
}

// Ready says why publications of other processes do not come, or nil.
func (h *Hub) Ready() error {
	for _, s := range h.sources {
		if err := s.ready(); err != nil {
			return err
		}
	}
	return h.CanPublish()
}

// CanPublish says why what is published now would be lost, or nil.
func (h *Hub) CanPublish() error {
	if h.broker != nil {
		return h.broker.ready()
	}
	return nil
}

// Close ends what the Hub has with its broker. Call it after the Server's Close.
func (h *Hub) Close() error {
	h.histories.close()
	for _, s := range h.sources {
		s.close()
	}
	if h.broker != nil {
		h.broker.close()
	}
	return nil
}

// Publish sends m to the topic's subscribers. It does not block: ErrBusy says that nothing was
// sent. With Redis the message is on its way when Publish returns, to this process' subscribers
// too; whether Redis has taken it tells PublishWait. Errors: ErrName, ErrTooBig, ErrUTF8, ErrClose,
// ErrBusy, ErrFull.
func (h *Hub) Publish(name string, m Message) error {
	err := h.check(name, &m)
	if err != nil {
		return err
	}
	if h.broker != nil {
		err = h.broker.publish(name, h.cfg.rulesFor(name).history, m, nil)
	} else {
		_, err = h.publish(name, encode(m), nil)
	}
	return countPublished(err)
}

// Receipt says what became of a publication.
type Receipt struct {
	// Position is that of the message when the topic has a history.
	Position Position
	// Subscribers is how many subscriptions to the topic this process has.
	Subscribers int
}

// PublishWait is Publish that waits until the broker has taken the message. With Redis it is not
// for loops: it blocks. When ctx ends first the message may still be published.
func (h *Hub) PublishWait(ctx context.Context, name string, m Message) (r Receipt, err error) {
	if err = h.check(name, &m); err != nil {
		return r, err
	}
	if h.broker == nil {
		r.Position, err = h.publish(name, encode(m), nil)
	} else {
		r.Position, err = h.broker.publishWait(ctx, name, h.cfg.rulesFor(name).history, m)
	}
	r.Subscribers = h.Subscribers(name)
	return r, countPublished(err)
}

func countPublished(err error) error {
	switch {
	case err == nil:
		published.Inc()
	case errors.Is(err, ErrBusy):
		refusedBusy.Inc()
	case errors.Is(err, ErrFull):
		refusedFull.Inc()
	default:
		refusedBroker.Inc()
	}
	return err
}

// check says what cannot be published.
func (h *Hub) check(name string, m *Message) error {
	if err := CheckName(name); err != nil {
		refusedName.Inc()
		return err
	}
	if m.Op == 0 {
		m.Op = ws.OpText
	}
	if err := checkPayload(m.Op, m.Payload, h.cfg.MaxPayload); err != nil {
		refusedPayload.Inc()
		return fmt.Errorf("publish %d bytes to %q: %w", len(m.Payload), name, err)
	}
	return nil
}

// deliver delivers what a feed of a broker or a source has brought.
func (h *Hub) deliver(name string, m *message, from *feed) error {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.passed != nil && s.carries(name), from != nil && from.drops(name):
		return nil
	case s.relay != nil && s.relay.full():
		return ErrBusy
	}
	_, err := h.deliverTo(s, name, m, nil, false)
	return err
}

// deliverTo gives m to the loops with subscribers, and to the topic's history. The topic's shard is
// locked. from is where m comes from when it was published on a loop, which then takes it over at
// once. What was promised, because its publisher has been answered, is delivered whatever waits
// already.
func (h *Hub) deliverTo(
	s *shard, name string, m *message, from *Loop, promised bool,
) (p Position, err error) {
	t := s.topics[name]
	if t == nil {
		r := h.cfg.rulesFor(name)
		if h.broker != nil || r.history.Size == 0 {
			s.number(name, m)
			return p, nil // nobody is there
		}
		if t, err = h.newTopic(s, name, r); err != nil {
			return p, err
		}
	}
	if h.broker == nil && t.rules.history.Size > 0 && !promised && h.histories.crammed() {
		return p, ErrBusy
	}
	if err := h.reserve(t, m, promised); err != nil {
		return p, err
	}
	if h.broker == nil {
		t.offset++
		m.offset = t.offset
		if t.rules.history.Size > 0 {
			h.histories.add(t, m)
		}
	}
	s.number(name, m)
	t.enqueue(m, from)
	return Position{t.epoch, m.offset}, nil
}

// number gives m its place among all messages, and passes it on. The shard is locked.
func (s *shard) number(name string, m *message) {
	s.seq++
	m.seq = s.seq
	if s.relay != nil && !m.apart {
		s.relay.add(name, m)
	}
}

// enqueue hands m to all loops with subscribers. The topic's shard is locked.
func (t *topic) enqueue(m *message, from *Loop) {
	for _, lo := range t.locals {
		lo.backlog.Add(1)
		lo.loop.enqueue(lo, m, lo.loop == from)
	}
}

// reserve takes room for m on each loop that has subscribers, also where there is none for what was
// promised.
func (h *Hub) reserve(t *topic, m *message, promised bool) error {
	for _, lo := range t.locals {
		if !promised && lo.backlog.Load() >= int64(h.cfg.MaxBacklog) {
			return ErrBusy
		}
	}
	n := m.size() * int64(len(t.locals))
	if h.pending.Add(n) > int64(h.cfg.MaxPending) && n > 0 && !promised {
		h.pending.Add(-n)
		return ErrBusy
	}
	pendingBytes.Add(n)
	return nil
}

// hold takes room for bytes that wait, also where there is none. release gives it back.
func (h *Hub) hold(bytes int64) {
	h.pending.Add(bytes)
	pendingBytes.Add(bytes)
}

// release gives room back that reserve has taken: bytes on one loop.
func (h *Hub) release(bytes int64) {
	h.pending.Add(-bytes)
	pendingBytes.Add(-bytes)
}

// newTopic makes a topic. Its shard is locked.
func (h *Hub) newTopic(s *shard, name string, r rules) (*topic, error) {
	if h.topics.Add(1) > int64(h.cfg.MaxTopics) {
		h.topics.Add(-1)
		return nil, ErrFull
	}
	topicsHeld.Add(1)
	t := &topic{name: name, rules: r}
	if r.history.Size > 0 {
		t.epoch = newEpoch()
	}
	s.topics[name] = t
	return t, nil
}

// forget removes a topic that has neither subscribers nor a history. Its shard is locked.
func (h *Hub) forget(s *shard, t *topic) {
	if len(t.locals) > 0 || t.kept != nil || s.topics[t.name] != t {
		return
	}
	delete(s.topics, t.name)
	h.topics.Add(-1)
	topicsHeld.Add(-1)
}

// attach adds a loop that has its first subscriber to a topic.
func (h *Hub) attach(l *Loop, name string) (*local, error) {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[name]
	if t == nil {
		var err error
		if t, err = h.newTopic(s, name, h.cfg.rulesFor(name)); err != nil {
			return nil, err
		}
	}
	lo := newLocal(l, t, s.seq)
	t.locals = append(t.locals, lo)
	if len(t.locals) == 1 {
		h.wanted(s, name, true)
	}
	return lo, nil
}

// wanted tells those who bring publications whether a topic has subscribers. Its shard is locked.
func (h *Hub) wanted(s *shard, name string, yes bool) {
	if !h.fed() {
		return
	}
	if s.relay != nil {
		// What they bring is passed on, and the other process counts on that.
		if !yes {
			s.unwanted = append(s.unwanted, name)
			return
		}
		s.relay.carry(name)
	}
	h.feedsOf(name, func(f *feed) { f.want(name, yes) })
}

// fed reports whether publications come from elsewhere too.
func (h *Hub) fed() bool { return h.broker != nil || len(h.sources) > 0 }

// detach removes a loop whose last subscriber to a topic has left. Nothing is enqueued for lo after
// it.
func (h *Hub) detach(lo *local) {
	t := lo.topic
	s := h.shard(t.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.locals = slices.DeleteFunc(t.locals, func(other *local) bool { return other == lo })
	if len(t.locals) == 0 {
		h.wanted(s, t.name, false)
	}
	h.forget(s, t)
}

// Subscribers is how many subscriptions to the topic this process has.
func (h *Hub) Subscribers(name string) (n int) {
	s := h.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[name]; t != nil {
		return t.subscribers()
	}
	return 0
}

// subscribers counts those of all loops. The topic's shard is locked.
func (t *topic) subscribers() (n int) {
	for _, lo := range t.locals {
		n += int(lo.count.Load())
	}
	return n
}

// Subscriptions is how many subscriptions this process has, to all topics.
func (h *Hub) Subscriptions() int { return int(h.subscriptions.Load()) }

// Info is what Topics tells of a topic.
type Info struct {
	Name        string   `json:"topic"`
	Subscribers int      `json:"subscribers"` // of this process
	Position    Position `json:"-"`           // of the last message, when the topic has a history here
	Kept        int      `json:"kept,omitempty"`
}

// Topics lists this process' topics whose names match pattern ("" for all), by name, at most limit
// of them. It looks at every topic: it is not for loops.
func (h *Hub) Topics(pattern string, limit int) []Info {
	var list []Info
	h.eachShard(func(s *shard) {
		for name, t := range s.topics {
			if pattern == "" || Match(pattern, name) {
				in := Info{Name: name, Subscribers: t.subscribers()}
				if t.epoch != 0 && h.broker == nil {
					in.Position = Position{t.epoch, t.offset}
				}
				if t.kept != nil {
					in.Kept = t.kept.n
				}
				list = append(list, in)
			}
		}
	})
	slices.SortFunc(list, func(a, b Info) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	return list[:min(len(list), max(limit, 0))]
}

// Members calls each, on their loops, for the topic's subscribers in this process, until it returns
// false or all were seen, and then done, once. It lists; presence by count is Subscribers, which
// costs nothing.
func (h *Hub) Members(name string, each func(c *gateway.Conn) bool, done func()) {
	s := h.shard(name)
	s.mu.Lock()
	var loops []*Loop
	if t := s.topics[name]; t != nil {
		for _, lo := range t.locals {
			loops = append(loops, lo.loop)
		}
	}
	s.mu.Unlock()
	visitMembers(loops, name, each, done)
}
