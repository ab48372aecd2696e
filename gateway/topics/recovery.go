package topics

import (
	"time"

	"sluice/gateway"
)

// Recovery is how a subscription with a position begins.
type Recovery struct {
	// Position is where the subscription begins, after what was recovered: the message after it has
	// the offset Position.Offset + 1. It is zero when the topic has no history.
	Position Position
	// Recovered says that all messages after the position asked for follow, and then what is new.
	Recovered bool
	// Messages is how many of them there are.
	Messages int
	// Err says why the broker's history could not be read; the subscription holds all the same.
	Err error
}

// recovery is what a subscription waits for before it is sent what is new.
type recovery struct {
	since Position
	done  func(Recovery)
	read  bool       // done was called
	rest  []*message // of the history, not sent yet
	bytes int64      // of rest, counted as retained
}

type recoveryKey struct {
	conn *gateway.Conn
	lo   *local
}

// SubscribeFrom is Subscribe for a client that comes back: it is sent what was published after
// since, if the topic has a history that reaches back so far, and then what is new, all of it once
// and in order. With a zero since it is only told where it begins. done is called on the loop,
// before SubscribeFrom returns or later, and before anything of the topic is sent: what it sends to
// c, an answer perhaps, comes first. It is not called when the subscription ends before. With Redis
// the subscription is in force there by then. A connection that is subscribed already gets an
// error.
func (l *Loop) SubscribeFrom(c *gateway.Conn, name string, since Position,
	done func(Recovery)) error {
	lo, e, err := l.add(c, name)
	if err != nil {
		return err
	}
	r := &recovery{since: since, done: done}
	e.slot |= slotHeld
	lo.fallBehind(e)
	l.recoveries[recoveryKey{c, lo}] = r
	if b := l.hub.broker; b != nil {
		b.history(name, since, func(past past) {
			l.post(func() {
				l.take() // all that past has counted is in the log now
				if l.recoveries[recoveryKey{c, lo}] == r {
					l.resume(lo, c, r, past)
				}
				l.schedule()
			})
		})
		return nil
	}
	past := l.hub.past(lo.topic, since)
	l.take() // all that past has counted is in the log now
	l.resume(lo, c, r, past)
	l.schedule()
	return nil
}

// past is what a history says of a position.
type past struct {
	at        Position // of the last message
	messages  []*message
	recovered bool
	err       error
}

// past reads the history of a topic in this process.
func (h *Hub) past(t *topic, since Position) (p past) {
	s := h.shard(t.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.epoch == 0 {
		return p
	}
	p.at = Position{t.epoch, t.offset}
	if since.Epoch == t.epoch {
		if t.kept != nil {
			h.histories.expire(t, time.Now())
		}
		p.messages, p.recovered = t.kept.since(since.Offset, t.offset)
	}
	return p
}

// resume goes on with a subscription when its history has been read.
func (l *Loop) resume(lo *local, c *gateway.Conn, r *recovery, past past) {
	l.begin(lo, l.entryOf(lo, c), &past)
	r.rest = past.messages
	if r.since != (Position{}) {
		if past.recovered {
			recoveredAll.Inc()
		} else {
			recoveredNot.Inc()
		}
	}
	key := recoveryKey{c, lo}
	c.Cork(func() {
		r.done(Recovery{past.at, past.recovered, len(past.messages), past.err})
		if l.recoveries[key] == r { // done may end the subscription
			r.read = true
			l.recover(lo, l.entryOf(lo, c))
		}
	})
}

// begin sets e to the first message after those of the past, and drops these when not all is there.
func (l *Loop) begin(lo *local, e *entry, past *past) {
	if past.at.Epoch != 0 {
		if after := lo.log.after(past.at.Offset); int32(after-e.next) > 0 {
			e.next = after
		}
	}
	lost := int32(lo.log.base-e.next) > 0
	if lost {
		e.next = lo.log.base
	}
	if lost || l.hub.retained.Load() > int64(l.hub.cfg.MaxRetained) {
		past.recovered, past.messages = false, nil
	}
}

// recover sends e some of the past that it has come for, and then lets it have what is new. It
// reports false when there is nothing to do yet.
func (l *Loop) recover(lo *local, e *entry) bool {
	c := e.conn
	key := recoveryKey{c, lo}
	r := l.recoveries[key]
	if !r.read {
		return false
	}
	sent := 0
	c.Cork(func() {
		for bytes := 0; sent < len(r.rest) && bytes < sendAtMost && !congested(c); sent++ {
			bytes += r.rest[sent].bytes()
			if r.rest[sent].sendTo(c) == nil {
				l.delivered++
			}
		}
	})
	r.rest = r.rest[sent:]
	l.hold(r)
	if len(r.rest) == 0 {
		delete(l.recoveries, key)
		e.slot &^= slotHeld
		if e.next == lo.log.head() {
			lo.caughtUp(e)
			return true
		}
	}
	lo.fallBehind(e)
	l.wait(c)
	return true
}

// hold counts as retained what a recovery keeps from being let go.
func (l *Loop) hold(r *recovery) {
	var bytes int64
	for _, m := range r.rest {
		bytes += m.size()
	}
	l.hub.retained.Add(bytes - r.bytes)
	retainedBytes.Add(bytes - r.bytes)
	r.bytes = bytes
}

// abandon ends a recovery with its subscription.
func (l *Loop) abandon(key recoveryKey) {
	if r := l.recoveries[key]; r != nil {
		r.rest = nil
		l.hold(r)
		delete(l.recoveries, key)
	}
}

func (l *Loop) entryOf(lo *local, c *gateway.Conn) *entry {
	sub := l.conns[c]
	return &lo.entries[sub.places[sub.find(lo)].index]
}
