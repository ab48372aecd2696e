package topics

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// feed is one connection on which publications come, those of one partition, and what it subscribes
// to. run connects and keeps the subscriptions as they are wanted; rueidis calls message and
// confirmed, one after the other, from a goroutine of each connection.
type feed struct {
	b       *redisBroker
	part    int
	prefix  string // of channels
	probing string // the probe's channel
	wake    chan struct{}
	kick    chan struct{} // Redis has ended a subscription: connect again

	mu       sync.Mutex // taken after a shard's, never before
	channels map[string]*channel
	changed  []string  // whose subscription may not be as it is wanted
	link     int       // number of the connection; callbacks of others are late
	heard    time.Time // when it last brought anything
	down     error     // why there is none; nil when all is well
	cut      cut       // while subscribers move from or to another process
}

// channel is a topic as the feed has it.
type channel struct {
	name   string
	wanted bool
	idle   time.Time // since when it is not wanted
	asked  int       // the link on which it was subscribed to; 0: on none
	live   int       // the link on which that was confirmed
	before bool      // it was live on a link that is gone: what came since then is missing
	rule   HistoryRule
	track  track    // of a topic with a history
	missed uint64   // messages that the hub refused and nobody was told of
	await  []waiter // for its being live, and its history
	passed bool     // what comes before the marker of a takeover has been passed on; see cut
}

type waiter struct {
	since Position
	done  func(past)
	until time.Time
}

var (
	errFeedClosed = errors.New("the connection is closed")
	errMoved      = errors.New("the server has ended a subscription")
)

func newFeed(b *redisBroker, part int) *feed {
	return &feed{
		b: b, part: part, prefix: b.channelPrefix(part), probing: b.probeChannel(part),
		wake: make(chan struct{}, 1), kick: make(chan struct{}, 1), channels: make(map[string]*channel),
		down: errors.New("not connected yet"),
	}
}

func (f *feed) ready() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down != nil {
		return fmt.Errorf("broker: %w", f.down)
	}
	return nil
}

// want changes whether a topic is wanted.
func (f *feed) want(name string, wanted bool) {
	f.mu.Lock()
	c := f.channels[name]
	if c == nil {
		c = &channel{name: name, rule: f.b.historyOf(name)}
		f.channels[name] = c
	}
	c.wanted = wanted
	if wanted {
		f.change(c)
	} else {
		// It stays for a while: those that come and go shall not keep Redis busy.
		c.idle = time.Now()
	}
	f.mu.Unlock()
}

// change has run look at c. f is locked.
func (f *feed) change(c *channel) {
	f.changed = append(f.changed, c.name)
	f.look()
}

// await calls done when the topic is live and its history was read.
func (f *feed) await(name string, since Position, done func(past)) {
	f.mu.Lock()
	c := f.channels[name]
	if c == nil { // it was unsubscribed in the meantime: the caller is gone
		f.mu.Unlock()
		return
	}
	c.await = append(c.await, waiter{since, done, time.Now().Add(2 * f.b.cfg.Deadline)})
	if c.live == f.link && f.link > 0 && f.down == nil {
		f.sync(c)
	}
	f.mu.Unlock()
}

// run is the feed's goroutine: it connects, again and again.
func (f *feed) run() {
	wait := 20 * time.Millisecond
	for f.b.ctx.Err() == nil {
		began := time.Now()
		err := f.serve()
		if f.b.ctx.Err() != nil {
			break
		}
		f.lost(err)
		if time.Since(began) > 10*time.Second {
			wait = 20 * time.Millisecond
		}
		select {
		case <-time.After(wait):
		case <-f.b.ctx.Done():
		}
		wait = min(2*wait, time.Second)
	}
}

// lost notes that the link is gone.
func (f *feed) lost(err error) {
	if err == nil {
		err = errFeedClosed
	}
	f.mu.Lock()
	first := f.down == nil
	f.down = err
	f.link++ // callbacks that are still to come are of no link
	for _, c := range f.channels {
		c.before = c.before || c.live != 0
		c.asked, c.live = 0, 0
	}
	f.mu.Unlock()
	f.expireWaiters()
	if first {
		brokerLost.Inc()
		feedsDown.Add(1)
		f.b.log.Warn("lost the broker: publications of other processes do not come",
			"channels", f.prefix, "partition", f.part, "error", err)
	}
}

// serve is the life of one connection.
func (f *feed) serve() error {
	client, release := f.b.client.Dedicate()
	defer release()
	defer client.Close()
	select {
	case <-f.kick: // of the last connection
	default:
	}
	f.mu.Lock()
	f.link++
	link := f.link
	f.heard = time.Now()
	for name := range f.channels {
		f.changed = append(f.changed, name)
	}
	f.mu.Unlock()
	ended := client.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage:      func(m rueidis.PubSubMessage) { f.message(link, m) },
		OnSubscription: func(s rueidis.PubSubSubscription) { f.subscription(link, s) },
	})
	if err := f.subscribe(client, []string{f.probing}); err != nil {
		return err
	}
	ticks := time.NewTicker(f.b.cfg.ProbeInterval)
	defer ticks.Stop()
	for {
		if err := f.settle(link, client); err != nil {
			return err
		}
		f.mark(link)
		select {
		case <-f.wake:
		case <-ticks.C:
			if err := f.tick(); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-f.kick:
			return errMoved
		case <-f.b.ctx.Done():
			return nil
		}
	}
}

// tick is what is done now and then: probes, topics that are not wanted any more, gaps to tell.
func (f *feed) tick() error {
	f.mu.Lock()
	silent := time.Since(f.heard)
	f.overdue()
	var late []*channel
	for _, c := range f.channels {
		switch {
		case !c.idles():
		case c.asked != 0:
			f.changed = append(f.changed, c.name)
		default:
			delete(f.channels, c.name)
		}
		if c.missed > 0 {
			late = append(late, c)
		}
	}
	f.mu.Unlock()
	f.expireWaiters()
	for _, c := range late {
		f.tellGap(c)
	}
	if silent > 2*f.b.cfg.Deadline+f.b.cfg.ProbeInterval {
		probesLost.Inc()
		return fmt.Errorf("nothing has come for %v, not even what this process publishes itself",
			silent.Round(time.Millisecond))
	}
	if silent > f.b.cfg.ProbeInterval/2 {
		f.probe()
	}
	return nil
}

// probe publishes what this feed must bring.
func (f *feed) probe() { f.say(f.probing) }

// reconnect has serve end.
func (f *feed) reconnect() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// message is called with what was published.
func (f *feed) message(link int, m rueidis.PubSubMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if link != f.link {
		return
	}
	f.heard = time.Now()
	switch m.Channel {
	case f.probing:
		return
	case f.cut.channel:
		f.marker()
		return
	}
	if c := f.channelOf(m); c != nil && !f.holds(c, m) {
		f.bring(c, m)
	}
}

// channelOf is the topic of a message, if it is one that the feed has. f is locked.
func (f *feed) channelOf(m rueidis.PubSubMessage) *channel {
	return f.channels[strings.TrimPrefix(m.Channel, f.prefix)]
}

// bring hands a message to the hub. f is locked, but not while the hub has it.
func (f *feed) bring(c *channel, m rueidis.PubSubMessage) {
	received.Inc()
	msg, at, err := f.b.decode(m.Message)
	if err != nil {
		refusedForeign.Inc()
	}
	if err != nil || msg == nil {
		return
	}
	msg.apart = f.cut.phase == cutPast
	if c.rule.Size > 0 && at.Epoch != 0 && !f.follows(c, msg, at) {
		return
	}
	f.mu.Unlock()
	f.deliver(c, msg)
	f.mu.Lock()
}

// decode checks and encodes what came. A source has messages that are nothing for clients: nil.
func (b *redisBroker) decode(text string) (*message, Position, error) {
	if b.source != nil {
		m, err := b.source.decode(text, b.hub.cfg.MaxPayload)
		return m, Position{}, err
	}
	op, at, payload, err := parsePublication(text)
	if err != nil {
		return nil, at, err
	}
	p := []byte(payload)
	if err := checkPayload(op, p, b.hub.cfg.MaxPayload); err != nil {
		return nil, at, err
	}
	m := encode(Message{op, p})
	m.offset = at.Offset
	return m, at, nil
}

// deliver hands m to the hub, after the news of what did not come. It reports whether the hub has
// taken it.
func (f *feed) deliver(c *channel, m *message) bool {
	if !f.tellGap(c) {
		f.miss(c, 1)
		return false
	}
	if err := f.b.hub.deliver(c.name, m, f); err != nil {
		f.miss(c, 1)
		return false
	}
	return true
}

func (f *feed) miss(c *channel, n uint64) {
	missedMessages.Add(int(n))
	f.mu.Lock()
	c.missed += n
	f.mu.Unlock()
}

// tellGap tells the subscribers how many messages the hub has refused, if there are any and it
// takes that.
func (f *feed) tellGap(c *channel) bool {
	f.mu.Lock()
	missed, offset := c.missed, c.track.at.Offset
	f.mu.Unlock()
	if missed == 0 {
		return true
	}
	if !f.gap(c, missed, offset) {
		return false
	}
	f.mu.Lock()
	c.missed -= missed
	f.mu.Unlock()
	return true
}

// gap tells the subscribers that messages are missing, 0 for an unknown number. offset is that of
// the last of them.
func (f *feed) gap(c *channel, missed, offset uint64) bool {
	gaps.Inc()
	text := f.b.hub.cfg.Gap(c.name, missed)
	if text == nil {
		return true
	}
	m := encode(Message{Payload: text})
	m.offset = offset
	err := f.b.hub.deliver(c.name, m, f)
	return err == nil
}

// expireWaiters answers those who have waited for too long.
func (f *feed) expireWaiters() {
	now := time.Now()
	var expired []waiter
	f.mu.Lock()
	err := f.down
	for _, c := range f.channels {
		for i := len(c.await) - 1; i >= 0; i-- {
			if w := c.await[i]; now.After(w.until) {
				expired = append(expired, w)
				c.await = append(c.await[:i], c.await[i+1:]...)
			}
		}
	}
	f.mu.Unlock()
	if err == nil {
		err = context.DeadlineExceeded
	}
	for _, w := range expired {
		w.done(past{err: fmt.Errorf("the broker has not confirmed the subscription: %w", err)})
	}
}
