package poller

import "math/bits"

// The wheel is hierarchical, after Varghese & Lauck, "Hashed and Hierarchical Timing Wheels"
// (1987), scheme 7: six levels of 64 slots, each slot of a level as long as the whole level below.
// A timer sits on the level of the highest bit in which its time differs from the present, so it
// cascades at most five times in its life, and one word of occupancy bits a level finds the next
// slot due without visiting the empty ones, however long the gap.

const (
	levels    = 6
	slotBits  = 6
	slots     = 1 << slotBits
	slotMask  = slots - 1
	maxTicks  = 1<<(levels*slotBits) - 1 // 21 years of 10 ms ticks
	dueSlot   = levels * slots           // slot number of timers that are due and not fired yet
	noSlot    = dueSlot + 1              // slot number of timers that are not armed
	slotCount = dueSlot + 1
)

// Expirer is told that its timer is due, on the loop. The timer is disarmed by then and may be
// armed again.
type Expirer interface{ Expire() }

// Timer is one place on a loop's wheel. Embed it in what it times and Init it once; an armed Timer
// must not be copied. Loop only.
type Timer struct {
	next, prev *Timer
	owner      Expirer
	when       uint64 // tick; never fired before it
	slot       uint16
}

// Init names whom the timer calls. Once, before the first Arm.
func (t *Timer) Init(owner Expirer) { t.owner, t.slot = owner, noSlot }

// Armed reports whether the timer is going to fire.
func (t *Timer) Armed() bool { return t.next != nil }

// wheel keeps timers by the tick they are due at. It knows ticks only, no clock.
type wheel struct {
	elapsed  uint64 // every tick up to and including this one has been taken off the levels
	n        int
	occupied [levels]uint64
	lists    [slotCount]Timer // ring heads: a slot is a list with its head as sentinel, so that unlinking needs no search
}

func (w *wheel) init() {
	for i := range w.lists {
		head := &w.lists[i]
		head.next, head.prev, head.slot = head, head, uint16(i)
	}
}

// arm puts t at tick when, or at the next tick when that has passed: a timer that re-arms itself
// for now must not keep advance from returning.
func (w *wheel) arm(t *Timer, when uint64) {
	if t.next != nil {
		w.unlink(t)
	} else {
		w.n++
	}
	t.when = min(max(when, w.elapsed+1), w.elapsed+maxTicks)
	w.place(t)
}

func (w *wheel) disarm(t *Timer) {
	if t.next == nil {
		return
	}
	w.unlink(t)
	w.n--
}

// place links t into the slot of its time. Times that differ from the present in the lowest six
// bits only are on level 0.
func (w *wheel) place(t *Timer) {
	if t.when <= w.elapsed {
		w.link(t, dueSlot)
		return
	}
	level := min((bits.Len64((t.when^w.elapsed)|slotMask)-1)/slotBits, levels-1)
	slot := int(t.when>>(level*slotBits)) & slotMask
	w.occupied[level] |= 1 << slot
	w.link(t, level*slots+slot)
}

func (w *wheel) link(t *Timer, slot int) {
	head := &w.lists[slot]
	t.slot = uint16(slot)
	t.prev, t.next = head.prev, head
	head.prev.next = t
	head.prev = t
}

func (w *wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	if t.next == t.prev && t.slot < dueSlot { // only the head is left
		w.occupied[t.slot/slots] &^= 1 << (t.slot % slots)
	}
	t.next, t.prev, t.slot = nil, nil, noSlot
}

// next is the first tick at which advance has something to do: a timer due, or a slot to cascade.
func (w *wheel) next() (tick uint64, ok bool) {
	if due := &w.lists[dueSlot]; due.next != due {
		return w.elapsed, true
	}
	tick, _, ok = w.nextSlot()
	return tick, ok
}

// nextSlot finds the earliest occupied slot. Lower levels come first: all they hold lies within the
// present slot of the level above.
func (w *wheel) nextSlot() (tick uint64, slot int, ok bool) {
	for level := range levels {
		if w.occupied[level] == 0 {
			continue
		}
		shift := level * slotBits
		// The search starts behind the present slot: only the top level can hold timers in it, a
		// whole turn away.
		from := int(w.elapsed>>shift) + 1
		slot := (from + bits.TrailingZeros64(bits.RotateLeft64(w.occupied[level], -from))) & slotMask
		tick := w.elapsed&^(1<<(shift+slotBits)-1) + uint64(slot)<<shift
		if tick <= w.elapsed { // the top level wraps around
			tick += 1 << (shift + slotBits)
		}
		return tick, level*slots + slot, true
	}
	return 0, 0, false
}

// advance fires what is due at tick now, at most budget timers, and reports whether more are due.
func (w *wheel) advance(now uint64, budget int) (more bool) {
	due := &w.lists[dueSlot]
	for {
		for due.next != due {
			if budget == 0 {
				return true
			}
			budget--
			t := due.next
			w.unlink(t)
			w.n--
			t.owner.Expire()
		}
		tick, slot, ok := w.nextSlot()
		if !ok || tick > now {
			w.elapsed = max(w.elapsed, now)
			return false
		}
		w.elapsed = tick
		w.take(slot)
	}
}

// take moves a slot that has come due: from level 0 straight to the due list, from the others one
// or more levels down.
func (w *wheel) take(slot int) {
	w.occupied[slot/slots] &^= 1 << (slot % slots)
	head := &w.lists[slot]
	for head.next != head {
		t := head.next
		head.next = t.next
		t.next.prev = head
		w.place(t)
	}
}
