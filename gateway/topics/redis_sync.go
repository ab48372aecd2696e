package topics

import (
	"context"
	"math"
	"strconv"

	"github.com/redis/rueidis"
)

// track is how far the subscribers of a topic with a history have been served. While it is being
// read, what comes is held back.
type track struct {
	at      Position // of the last message
	syncing bool     // a goroutine has the topic: nobody else delivers
	again   bool     // and is to read once more
	held    []arrival
	bytes   int
}

type arrival struct {
	m  *message
	at Position
}

const (
	heldAtMost  = 1024
	heldBytes   = 4 << 20
	syncsAtOnce = 64
)

// follows decides about a message of a topic with a history. It is true when it comes right after
// the last, which it then is. f is locked.
func (f *feed) follows(c *channel, m *message, at Position) bool {
	t := &c.track
	switch {
	case t.syncing:
		t.hold(m, at)
		return false
	case at.Epoch == t.at.Epoch && at.Offset <= t.at.Offset:
		return false // it was read from the history
	case at.Epoch == t.at.Epoch && at.Offset == t.at.Offset+1:
		t.at = at
		return true
	}
	t.hold(m, at)
	f.sync(c)
	return false
}

// hold keeps what comes while the history is read. What does not fit will be missing, and read
// then.
func (t *track) hold(m *message, at Position) {
	if len(t.held) < heldAtMost && t.bytes < heldBytes {
		t.held = append(t.held, arrival{m, at})
		t.bytes += m.bytes()
	}
}

// sync has the history read: for those who wait for it, and for what the subscribers have missed. f
// is locked.
func (f *feed) sync(c *channel) {
	if c.rule.Size == 0 {
		for _, w := range c.await {
			w.done(past{})
		}
		c.await = nil
		return
	}
	if c.track.syncing {
		c.track.again = true
		return
	}
	c.track.syncing = true
	waiting := c.await
	c.await = nil
	from := c.track.at
	go func() {
		f.b.syncs <- struct{}{}
		f.catchUp(c, from, waiting)
		<-f.b.syncs
	}()
}

// catchUp reads the history, serves with it the subscribers, then those who wait, then lets go of
// what was held back.
func (f *feed) catchUp(c *channel, from Position, waiting []waiter) {
	// One read is for all: it begins with the earliest message that somebody needs.
	offset := uint64(math.MaxInt64)
	if from.Epoch != 0 {
		offset = from.Offset
	}
	for _, w := range waiting {
		if w.since.Epoch != 0 {
			offset = min(offset, w.since.Offset)
		}
	}
	all, err := f.b.readHistory(c, offset)
	if err != nil {
		historyErrors.Inc()
		all = past{err: err}
	}
	last := f.fill(c, from, all)
	for _, w := range waiting {
		w.done(all.after(w.since))
	}
	f.letGo(c, last)
}

// fill brings the subscribers from one position to the end of the history, or tells them of a gap.
// It returns where they are then.
func (f *feed) fill(c *channel, from Position, all past) Position {
	switch missing := all.after(from); {
	case from.Epoch == 0:
	case missing.err != nil:
		f.gap(c, 0, from.Offset)
		return from
	case missing.recovered:
		for _, m := range missing.messages {
			f.deliver(c, m)
		}
	case all.at.Epoch == from.Epoch && all.at.Offset > from.Offset:
		f.gap(c, all.at.Offset-from.Offset, all.at.Offset)
	default:
		f.gap(c, 0, all.at.Offset)
	}
	return all.at
}

// letGo delivers what was held back beyond last, and ends the syncing.
func (f *feed) letGo(c *channel, last Position) {
	for {
		f.mu.Lock()
		held := c.track.held
		c.track.held, c.track.bytes = nil, 0
		if len(held) == 0 {
			c.track.at = last
			c.track.syncing = false
			if c.track.again || len(c.await) > 0 {
				c.track.again = false
				f.sync(c)
			}
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		for _, a := range held {
			switch {
			case a.at.Epoch == last.Epoch && a.at.Offset <= last.Offset:
				continue
			case last.Epoch == 0 || a.at.Epoch == last.Epoch && a.at.Offset == last.Offset+1:
			case a.at.Epoch == last.Epoch:
				f.gap(c, a.at.Offset-last.Offset-1, a.at.Offset-1)
			default:
				f.gap(c, 0, a.at.Offset-1)
			}
			f.deliver(c, a.m)
			last = a.at
		}
	}
}

// after is the part of p that a subscriber at since has missed.
func (p past) after(since Position) past {
	part := past{at: p.at, err: p.err}
	if p.err != nil || since.Epoch != p.at.Epoch || since.Offset > p.at.Offset {
		return part
	}
	missed := p.at.Offset - since.Offset
	if missed > uint64(len(p.messages)) {
		return part
	}
	list := p.messages[uint64(len(p.messages))-missed:]
	for i, m := range list {
		if m.offset != since.Offset+1+uint64(i) {
			return part
		}
	}
	part.messages, part.recovered = list, true
	return part
}

// readHistory reads what came after an offset.
func (b *redisBroker) readHistory(c *channel, offset uint64) (past, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.Deadline)
	defer cancel()
	args := append([]string{strconv.FormatUint(offset, 10)}, lives(c.rule)...)
	do := func(source bool) rueidis.RedisResult {
		return b.client.Do(ctx, historyScript.command(b.client.B(), source, b.keys(c.name), args))
	}
	r := do(false)
	if noScript(r) {
		r = do(true)
	}
	return parseHistory(r, b.hub.cfg.MaxPayload)
}
