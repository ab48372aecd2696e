package topics

import (
	"context"
	"strings"
	"time"

	"github.com/redis/rueidis"
	"github.com/tinylib/msgp/msgp"
)

// While subscribers move from one process to another, Redis brings each publication to both. The
// old one passes it on, until from some point the new one takes what it is brought itself. So that
// nothing is lost or doubled, both must mean the same point of what a feed brings. A connection
// gets everything in the order in which the server did it, so the new process publishes a marker on
// a channel to which both listen, when it is subscribed to all that it wants: what came before the
// marker is passed on, and what comes after it is not.

// cut is a feed's part in that. Guarded by feed.mu.
type cut struct {
	phase   cutPhase
	channel string // of the marker; "" when no takeover is under way
	asked   int    // the link on which it was subscribed to
	live    int    // and the one on which that was confirmed
	due     bool   // new: the marker is to be published
	passed  bool   // new: the old process has come to the marker
	seen    chan struct{}
	held    []rueidis.PubSubMessage
	bytes   int
	ends    time.Time // of waiting, at the latest
}

type cutPhase uint8

const (
	cutNone    cutPhase = iota
	cutGiving           // old: what comes is passed on
	cutPast             // old: no more
	cutTaking           // new: the hub drops what is passed on
	cutHolding          // new: the marker has come; what comes waits until all before it has
	cutWaiting          // new: all before it has; until it comes, what was passed on is dropped
)

// markerChannel is not a topic's: the prefix is cut.
func (b *redisBroker) markerChannel(part int, token string) string {
	return strings.TrimSuffix(b.cfg.Prefix, ":") + "-marker:" + b.tag(part) + token
}

// eachFeed calls fn for all feeds, of the broker and the sources.
func (h *Hub) eachFeed(fn func(f *feed)) {
	brokers := h.sources
	if h.broker != nil {
		brokers = append([]*redisBroker{h.broker}, brokers...)
	}
	for _, b := range brokers {
		for _, f := range b.feeds {
			fn(f)
		}
	}
}

// feedsOf calls fn for those that bring a topic.
func (h *Hub) feedsOf(name string, fn func(f *feed)) {
	if h.broker != nil {
		fn(h.broker.feeds[h.broker.part(name)])
	}
	for _, b := range h.sources {
		fn(b.feeds[b.part(name)])
	}
}

// takePart subscribes to the marker of a takeover.
func (f *feed) takePart(token string, phase cutPhase) {
	f.mu.Lock()
	f.cut = cut{phase: phase, channel: f.b.markerChannel(f.part, token), seen: make(chan struct{})}
	f.mu.Unlock()
	f.look()
}

// look has run look at what there is to do.
func (f *feed) look() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Cut finds, for each feed, the point from which the other process takes what it is brought itself.
// It is called once all subscribers have moved, between Give, with carry, and Export. Without Redis
// it does nothing; when that does not answer in time, what is published at this moment may be lost.
// Not for loops.
func (h *Hub) Cut() error {
	r := h.giving.Load()
	if r == nil || !r.carries {
		return nil
	}
	r.record(0, func(b []byte) []byte { return msgp.AppendInt(msgp.AppendArrayHeader(b, 1), recordCut) })
	if err := r.flush(); err != nil {
		return err
	}
	h.eachFeed(func(f *feed) {
		if f.ready() != nil {
			return
		}
		f.mu.Lock()
		seen := f.cut.seen
		f.mu.Unlock()
		select {
		case <-seen:
		case <-time.After(f.b.cfg.Deadline):
			f.b.log.Warn("the other process' marker has not come: what is published now may be lost",
				"channels", f.prefix, "partition", f.part)
		}
	})
	return nil
}

// importCut has the feeds publish their markers.
func (h *Hub) importCut() {
	h.eachFeed(func(f *feed) {
		f.mu.Lock()
		f.cut.due = f.cut.phase == cutTaking
		f.mu.Unlock()
		f.look()
	})
}

// importCutAt notes that the old process has come to a marker.
func (h *Hub) importCutAt(b []byte) (rest []byte, err error) {
	channel, b, err := msgp.ReadStringBytes(b)
	h.eachFeed(func(f *feed) {
		f.mu.Lock()
		f.cut.passed = f.cut.passed || f.cut.channel == channel && channel != ""
		f.mu.Unlock()
	})
	return b, err
}

// mark publishes the marker, once it is due and all subscriptions are confirmed.
func (f *feed) mark(link int) {
	f.mu.Lock()
	ready := f.cut.due && f.cut.live == link
	for _, c := range f.channels {
		ready = ready && (!c.wanted || c.live == link)
	}
	if ready {
		f.cut.due = false
	}
	channel := f.cut.channel
	f.mu.Unlock()
	if ready {
		f.say(channel)
	}
}

// say publishes an empty message.
func (f *feed) say(channel string) {
	ctx, cancel := context.WithTimeout(f.b.ctx, f.b.cfg.Deadline)
	b := f.b.client.B()
	command := b.Publish().Channel(channel).Message("").Build()
	if f.b.sharded {
		command = b.Spublish().Channel(channel).Message("").Build()
	}
	f.b.ending.Go(func() {
		defer cancel()
		_ = f.b.client.Do(ctx, command).Error() // whether it comes back is what counts
	})
}

// marker is called when the marker has come. f is locked.
func (f *feed) marker() {
	switch f.cut.phase {
	case cutGiving:
		f.cut.phase = cutPast
		if r := f.b.hub.giving.Load(); r != nil {
			channel := f.cut.channel
			r.record(0, func(b []byte) []byte {
				b = msgp.AppendArrayHeader(b, 2)
				return msgp.AppendString(msgp.AppendInt(b, recordCut), channel)
			})
		}
		close(f.cut.seen)
	case cutTaking:
		f.cut.phase = cutHolding
	case cutWaiting:
		f.cut.phase = cutNone
	}
}

// holds keeps a message that came behind the marker, and reports whether it did. What does not fit
// is missed. f is locked.
func (f *feed) holds(c *channel, m rueidis.PubSubMessage) bool {
	if f.cut.phase != cutHolding {
		return false
	}
	if f.cut.bytes += len(m.Message) + publicationBytes; f.cut.bytes > maxSenderBytes {
		missedMessages.Inc()
		c.missed++
		return true
	}
	f.cut.held = append(f.cut.held, m)
	return true
}

// passedOn says that the old process passes on no more. The hub drops nothing from now on.
func (f *feed) passedOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut.phase == cutTaking && f.cut.passed {
		f.cut.phase, f.cut.ends = cutWaiting, time.Now().Add(2*f.b.cfg.Deadline)
	}
}

// dropUntilMarker says that what is still to come of a topic before the marker has been passed on.
func (f *feed) dropUntilMarker(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.channels[name]; c != nil && f.cut.phase == cutWaiting {
		c.passed = true
	}
}

// drops reports whether the old process has passed on what the feed brings of a topic now. The
// topic's shard is locked.
func (f *feed) drops(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.channels[name]
	return f.cut.phase == cutWaiting && c != nil && c.passed
}

// release delivers what was held, and ends the feed's part, unless it waits for the marker.
func (f *feed) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.cut.phase == cutHolding && len(f.cut.held) > 0 {
		held := f.cut.held
		f.cut.held, f.cut.bytes = nil, 0
		for _, m := range held {
			if c := f.channelOf(m); c != nil {
				f.bring(c, m)
			}
		}
	}
	if f.cut.phase != cutWaiting {
		f.cut.phase, f.cut.channel = cutNone, ""
	}
}

// overdue ends a wait for a marker that was lost. f is locked.
func (f *feed) overdue() {
	if f.cut.phase == cutWaiting && time.Now().After(f.cut.ends) {
		f.cut.phase = cutNone
	}
}
