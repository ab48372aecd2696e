package topics

import (
	"slices"
	"sync/atomic"
	"time"

	"sluice/gateway"
)

// local is a topic on one loop that has subscribers. All but backlog and count belong to the loop.
type local struct {
	loop  *Loop
	topic *topic // its name and rules do not change; the rest is guarded by its shard
	id    uint32 // in Loop.table

	entries []entry
	log     log
	last    uint64 // number of the last message that came, or that there was before all

	// A pass sends each subscriber what came up to target. It goes through the entries from the
	// last to the first: an entry that a removal moves is then met twice at most, and never missed.
	target uint32
	cursor int // the next entry of the pass, plus 1; 0: no pass is under way
	// floor is the target of the last pass that has ended. What lies below is kept for slow
	// subscribers only.
	floor    uint32
	retained int64 // bytes below floor
	behind   int   // entries with slotBehind

	active bool // in Loop.active
	gone   bool // without subscribers: a delivery may still name it

	backlog atomic.Int64 // messages that were accepted and that no pass has ended for
	count   atomic.Int32 // len(entries)
}

// entry is a subscription: 16 bytes, and 8 for its place.
type entry struct {
	conn *gateway.Conn
	slot uint32 // in subscriber.places, and flags
	next uint32 // the first message that it was not sent
}

const (
	slotBehind uint32 = 1 << 31 // its socket was full when it was its turn: catchUp goes on
	slotHeld   uint32 = 1 << 30 // it waits for what a history has
	slotMask          = slotHeld - 1
)

func (e *entry) setSlot(slot uint32) { e.slot = e.slot&^slotMask | slot }

func newLocal(l *Loop, t *topic, last uint64) *local {
	return &local{loop: l, topic: t, last: last}
}

// A turn sends at most turnRecipients messages, of turnQuantum subscribers of one topic after the
// other's, and stops after turnTime: a loop is never held for much longer than that by what is
// published.
const (
	turnRecipients = 256
	turnQuantum    = 64
	turnTime       = 1500 * time.Microsecond
)

// schedule has turn called once the events that came meanwhile were handled.
func (l *Loop) schedule() {
	if len(l.active)+len(l.late) > 0 && !l.scheduled {
		l.scheduled = l.post(l.run)
	}
}

// turn sends a slice of what waits. Topics take turns, so that one with very many messages or
// subscribers does not delay the others by more than their share, and so do subscribers that catch
// up.
func (l *Loop) turn() {
	until := time.Now().Add(turnTime)
	for left := turnRecipients; left > 0 && len(l.active)+len(l.late) > 0; {
		if len(l.late) > 0 {
			c := l.late[0]
			l.late[0] = nil
			l.late = l.late[1:]
			l.catchUp(c)
			left--
		}
		if len(l.active) > 0 {
			lo := l.active[0]
			l.active[0] = nil
			l.active = l.active[1:]
			left -= lo.pass(min(left, turnQuantum), until)
			if lo.active = lo.waits(); lo.active {
				l.active = append(l.active, lo)
			} else {
				lo.log.free()
			}
		}
		if time.Now().After(until) {
			break
		}
	}
	delivered.Add(l.delivered)
	l.delivered = 0
	l.schedule()
}

// waits reports whether there is something left for a pass.
func (lo *local) waits() bool { return !lo.gone && (lo.cursor > 0 || lo.log.head() != lo.floor) }

// pass visits up to most subscribers, fewer when time is up.
func (lo *local) pass(most int, until time.Time) (visited int) {
	if lo.gone {
		return 0
	}
	if lo.cursor == 0 {
		lo.target = lo.log.head()
		lo.cursor = len(lo.entries)
	}
	for ; visited < most && lo.cursor > 0; visited++ {
		lo.cursor--
		lo.loop.bring(lo, lo.cursor, lo.target)
		if visited&15 == 15 && time.Now().After(until) {
			break
		}
	}
	if lo.cursor == 0 {
		lo.ended()
	}
	return visited
}

// ended is the end of a pass: what it has sent is let go, but for what slow subscribers have not
// taken.
func (lo *local) ended() {
	lo.backlog.Add(-int64(lo.target - lo.floor))
	var passed int64
	for ; lo.floor != lo.target; lo.floor++ {
		passed += lo.log.at(lo.floor).size()
	}
	lo.loop.hub.release(passed)
	lo.retain(passed)
	lo.trim()
}

// remove ends the subscription at index i.
func (lo *local) remove(i int) {
	last := len(lo.entries) - 1
	lo.caughtUp(&lo.entries[i])
	if i != last {
		moved := lo.entries[last]
		lo.entries[i] = moved
		lo.loop.conns[moved.conn].places[moved.slot&slotMask].index = uint32(i)
	}
	lo.entries[last] = entry{}
	lo.entries = lo.entries[:last]
	lo.cursor = min(lo.cursor, last)
	lo.count.Store(int32(last))
	if c := cap(lo.entries); c > 64 && last < c/4 { // a crowd that has left
		lo.entries = slices.Clone(lo.entries)
	}
	if lo.cursor == 0 && lo.active && lo.floor != lo.target {
		lo.ended() // it was the last that the pass had to visit
	}
}

// drop lets go of all messages: nobody is left.
func (lo *local) drop() {
	lo.gone = true
	var waiting int64
	for seq := lo.floor; seq != lo.log.head(); seq++ {
		waiting += lo.log.at(seq).size()
	}
	lo.loop.hub.release(waiting)
	lo.retain(-lo.retained)
	lo.log = log{}
}
