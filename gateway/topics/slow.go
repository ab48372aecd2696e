package topics

import (
	"encoding/json"
	"strconv"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// sendAtMost is how many bytes one subscriber is sent before others have their turn, and before it
// is looked whether its socket takes them; at least one message.
const sendAtMost = 32 << 10

// bring sends subscriber i of lo what came before the message numbered upto. One whose socket is
// full, or for which that is too much at once, is left behind: it keeps its place in the log, and
// catchUp goes on.
func (l *Loop) bring(lo *local, i int, upto uint32) {
	e := &lo.entries[i]
	if int32(upto-e.next) <= 0 {
		return
	}
	if late := int32(lo.log.base - e.next); late > 0 {
		l.overtaken(lo, e, uint32(late))
	}
	if e.slot&slotHeld != 0 {
		return // recover goes on with it
	}
	// overtaken may have taken it beyond upto, which is where the topic was when the pass began.
	if int32(upto-e.next) > 0 && !congested(e.conn) {
		l.send(lo, e, upto)
	}
	if int32(upto-e.next) > 0 {
		lo.fallBehind(e)
		l.wait(e.conn)
	} else {
		lo.caughtUp(e)
	}
}

// send sends e some of what it has not been sent, in one write.
func (l *Loop) send(lo *local, e *entry, upto uint32) {
	c := e.conn
	if e.next+1 == upto { // the usual case
		m := lo.log.at(e.next)
		e.next = upto
		if m.sendTo(c) == nil {
			l.delivered++
		}
		return
	}
	c.Cork(func() {
		for bytes := 0; e.next != upto && bytes < sendAtMost; {
			m := lo.log.at(e.next)
			e.next++
			bytes += m.bytes()
			if m.sendTo(c) == nil {
				l.delivered++
			}
		}
	})
}

// overtaken handles a subscriber that has not been sent the last missed messages of those that were
// dropped: its topic's policy decides.
func (l *Loop) overtaken(lo *local, e *entry, missed uint32) {
	policy := lo.topic.rules.slow
	if e.slot&slotHeld != 0 || policy != SlowClose && congested(e.conn) {
		// It is told when there is room. Until then the number of messages must not wrap.
		const most = 1 << 30
		e.next = lo.log.base - min(missed, most)
		return
	}
	slow[policy].Inc()
	switch policy {
	case SlowClose:
		closeSlow(e.conn)
		missed = lo.log.head() - e.next
		e.next = lo.log.head()
	case SlowLatest:
		next := lo.log.head()
		if next != lo.log.base {
			next--
		}
		missed = next - e.next
		e.next = next
	case SlowDrop:
		e.next = lo.log.base
		if marker := l.hub.cfg.Gap(lo.topic.name, uint64(missed)); marker != nil {
			_ = e.conn.Send(ws.OpText, marker)
		}
	}
	slowDropped[policy].Add(int(missed))
}

// gapMarker is the default of Config.Gap.
func gapMarker(topic string, missed uint64) []byte {
	name, err := json.Marshal(topic)
	if err != nil {
		name = []byte(`""`) // not reachable: a string has an encoding
	}
	b := append([]byte(`{"type":"gap","topic":`), name...)
	b = append(b, `,"missed":`...)
	return append(strconv.AppendUint(b, missed, 10), '}')
}

// fallBehind notes that e's socket was full when it was its turn.
func (lo *local) fallBehind(e *entry) {
	if e.slot&slotBehind == 0 {
		e.slot |= slotBehind
		lo.behind++
	}
}

// caughtUp notes that e has all that it is to have, or is about to end.
func (lo *local) caughtUp(e *entry) {
	if e.slot&slotBehind != 0 {
		e.slot &^= slotBehind
		lo.behind--
		lo.trim()
	}
}

// wait has catchUp called when there is room for what c has not been sent.
func (l *Loop) wait(c *gateway.Conn) {
	switch sub := l.conns[c]; {
	case sub.waiting:
	case c.OnDrained(l.onDrained):
		sub.waiting = true
	default:
		sub.waiting = true
		l.late = append(l.late, c)
		l.schedule()
	}
}

// drained is called when all that waited for c's socket was taken.
func (l *Loop) drained(c *gateway.Conn) {
	if sub := l.conns[c]; sub != nil && sub.waiting {
		l.late = append(l.late, c)
		l.schedule()
	}
}

// catchUp sends c some of what came while its socket was full: of one topic, for each has its turn.
func (l *Loop) catchUp(c *gateway.Conn) {
	sub := l.conns[c]
	if sub == nil {
		return
	}
	sub.waiting = false
	for range len(sub.places) {
		if sub.last++; int(sub.last) >= len(sub.places) {
			sub.last = 0
		}
		p := sub.places[sub.last]
		lo := l.table[p.topic]
		switch e := &lo.entries[p.index]; {
		case e.slot&slotHeld != 0:
			if l.recover(lo, e) {
				return
			}
		case e.slot&slotBehind != 0:
			l.bring(lo, int(p.index), lo.log.head())
			if !sub.waiting && sub.behind(l) {
				l.wait(c)
			}
			return
		}
	}
}

// behind reports whether one of the subscriptions can go on when there is room.
func (s *subscriber) behind(l *Loop) bool {
	for _, p := range s.places {
		lo := l.table[p.topic]
		e := &lo.entries[p.index]
		if e.slot&slotBehind != 0 &&
			(e.slot&slotHeld == 0 || l.recoveries[recoveryKey{e.conn, lo}].read) {
			return true
		}
	}
	return false
}

// retain counts bytes that are kept for slow subscribers.
func (lo *local) retain(bytes int64) {
	lo.retained += bytes
	lo.loop.hub.retained.Add(bytes)
	retainedBytes.Add(bytes)
}

// trim drops what no subscriber needs, and what the bounds do not let slow ones have.
func (lo *local) trim() {
	cfg := &lo.loop.hub.cfg
	for lo.log.base != lo.floor {
		if lo.behind > 0 && lo.floor-lo.log.base <= uint32(cfg.RetainMessages) &&
			lo.retained <= int64(cfg.RetainBytes) &&
			lo.loop.hub.retained.Load() <= int64(cfg.MaxRetained) {
			break
		}
		lo.retain(-lo.log.shift().size())
	}
	if !lo.active {
		lo.log.free()
	}
}
