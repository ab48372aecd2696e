package poller

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// firing records when its timer fired, and may do more.
type firing struct {
	Timer
	w     *wheel
	fired []uint64
	then  func()
}

func (f *firing) Expire() {
	f.fired = append(f.fired, f.w.elapsed)
	if f.then != nil {
		f.then()
	}
}

func newWheel() *wheel {
	w := new(wheel)
	w.init()
	return w
}

// TestWheelAgainstSortedModel drives the wheel and a naive list of deadlines through the same
// random life.
func TestWheelAgainstSortedModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWheel()
		timers := make([]*firing, 40)
		model := map[int]uint64{} // armed timer → its tick
		for i := range timers {
			timers[i] = &firing{w: w}
			timers[i].Init(timers[i])
		}
		now := uint64(0)
		// Deltas around the borders of slots and levels are where cascading goes wrong.
		delta := rapid.OneOf(
			rapid.Uint64Range(0, 70), rapid.Uint64Range(60, 5000), rapid.Uint64Range(4000, 300_000),
			rapid.Uint64Range(0, 1<<31), rapid.SampledFrom([]uint64{63, 64, 65, 4095, 4096, 4097, 262143, 262144, maxTicks - 1, maxTicks}))
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, len(timers)-1).Draw(t, "timer")
			switch rapid.IntRange(0, 3).Draw(t, "action") {
			case 0, 1:
				when := now + delta.Draw(t, "delta")
				w.arm(&timers[i].Timer, when)
				model[i] = max(when, now+1)
			case 2:
				w.disarm(&timers[i].Timer)
				delete(model, i)
			case 3:
				if tick, ok := w.next(); ok && len(model) > 0 {
					first := slices.Min(values(model))
					if tick > first {
						t.Fatalf("next() at %d: got %d, later than the first deadline %d", now, tick, first)
					}
				}
				now += delta.Draw(t, "advance")
				for w.advance(now, rapid.IntRange(1, 5).Draw(t, "budget")) {
				}
				for i, when := range model {
					if when > now {
						continue
					}
					if got := timers[i].fired; len(got) != 1 || got[0] != when {
						t.Fatalf("timer %d due at %d, now %d: fired at %v", i, when, now, got)
					}
					timers[i].fired = nil
					delete(model, i)
				}
			}
			for i, f := range timers {
				if _, armed := model[i]; armed != f.Armed() {
					t.Fatalf("timer %d at %d: armed %v, want %v", i, now, f.Armed(), armed)
				}
				if len(f.fired) != 0 {
					t.Fatalf("timer %d fired at %v, now %d, and was not due", i, f.fired, now)
				}
			}
			if w.n != len(model) {
				t.Fatalf("wheel counts %d timers, want %d", w.n, len(model))
			}
		}
	})
}

func values(m map[int]uint64) (vs []uint64) {
	for _, v := range m {
		vs = append(vs, v)
	}
	return vs
}

func TestWheelDisarmedByNeighbourInTheSameTickDoesNotFire(t *testing.T) {
	w := newWheel()
	first, second := &firing{w: w}, &firing{w: w}
	first.Init(first)
	second.Init(second)
	first.then = func() { w.disarm(&second.Timer) }
	w.arm(&first.Timer, 5)
	w.arm(&second.Timer, 5)
	w.advance(10, 100)
	if len(first.fired) != 1 || len(second.fired) != 0 || w.n != 0 {
		t.Errorf("got %v and %v fired, %d armed; want only the first", first.fired, second.fired, w.n)
	}
}

func TestWheelTimerThatRearmsForNowFiresOnceATick(t *testing.T) {
	w := newWheel()
	f := &firing{w: w}
	f.Init(f)
	f.then = func() { w.arm(&f.Timer, w.elapsed) }
	w.arm(&f.Timer, 1)
	for now := uint64(1); now <= 5; now++ {
		if w.advance(now, 1000) {
			t.Fatalf("tick %d: budget of 1000 used up by one timer", now)
		}
	}
	if want := []uint64{1, 2, 3, 4, 5}; !slices.Equal(f.fired, want) {
		t.Errorf("fired at %v, want %v", f.fired, want)
	}
}

func TestWheelBudgetKeepsTheRestForTheNextRound(t *testing.T) {
	w := newWheel()
	const n, budget = 1000, 300
	fired := 0
	for range n {
		f := &firing{w: w, then: func() { fired++ }}
		f.Init(f)
		w.arm(&f.Timer, 7)
	}
	for _, want := range []int{300, 600, 900, 1000} {
		more := w.advance(8, budget)
		if fired != want || more != (want < n) {
			t.Errorf("after a round: %d fired, more=%v; want %d", fired, more, want)
		}
	}
}

func TestWheelAllocatesNothing(t *testing.T) {
	w := newWheel()
	f := &firing{w: w, fired: make([]uint64, 0, 1<<20)}
	f.Init(f)
	now := uint64(0)
	if got := testing.AllocsPerRun(1000, func() {
		w.arm(&f.Timer, now+5000)
		w.arm(&f.Timer, now+3)
		now += 100
		w.advance(now, 10)
		w.disarm(&f.Timer)
		f.fired = f.fired[:0]
	}); got != 0 {
		t.Errorf("got %v allocations a round, want 0", got)
	}
}
