package poller

import (
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The wheel against the runtime's own timers, with benchTimers armed at a time. Results are in
// doc.go:
//
//	go test ./poller -run '^$' -bench '^BenchmarkTimers' -benchtime 1x -count 3

const benchTimers = 1_000_000

// benchDelays are heartbeats with their phases spread: 30 s to 60 s, the same for both sides.
func benchDelays() []time.Duration {
	r := rand.New(rand.NewPCG(1, 2))
	delays := make([]time.Duration, benchTimers)
	for i := range delays {
		delays[i] = 30*time.Second + time.Duration(r.Int64N(int64(30*time.Second)))
	}
	return delays
}

// cold is a timer that counts.
type cold struct {
	Timer
	fired *int
}

func (c *cold) Expire() { *c.fired++ }

// perTimer reports the CPU time that one of the timers took: what others do on the machine is not
// in it.
func perTimer(b *testing.B, took time.Duration, rounds int) {
	b.ReportMetric(float64(took.Nanoseconds())/float64(rounds)/benchTimers, "ns/timer")
	b.ReportMetric(0, "ns/op")
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// wheelTimers is the wheel with its timers, as they lie in connections: one allocation for each.
func wheelTimers(fired *int) (*wheel, []*cold) {
	w := newWheel()
	timers := make([]*cold, benchTimers)
	for i := range timers {
		timers[i] = &cold{fired: fired}
		timers[i].Init(timers[i])
	}
	return w, timers
}

const benchTick = 10 * time.Millisecond

func (w *wheel) armAfter(t *Timer, after time.Duration) { w.arm(t, w.elapsed+uint64(after/benchTick)) }

func BenchmarkTimersWheel(b *testing.B) {
	delays, fired := benchDelays(), 0

	b.Run("memory", func(b *testing.B) {
		for range b.N {
			before := heapInUse()
			w, timers := wheelTimers(&fired)
			for i, c := range timers {
				w.armAfter(&c.Timer, delays[i])
			}
			grown := heapInUse() - before
			b.ReportMetric(float64(grown)/benchTimers-8-8, "B/timer") // less the pointer in the slice and the pointer to the counter
			runtime.KeepAlive(timers)
			runtime.KeepAlive(w)
		}
	})
	b.Run("arm", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			w, timers := wheelTimers(&fired)
			began := cpuTime(b)
			for i, c := range timers {
				w.armAfter(&c.Timer, delays[i])
			}
			took += cpuTime(b) - began
		}
		perTimer(b, took, b.N)
	})
	b.Run("rearm", func(b *testing.B) {
		w, timers := wheelTimers(&fired)
		for i, c := range timers {
			w.armAfter(&c.Timer, delays[i])
		}
		began := cpuTime(b)
		for range b.N {
			for i, c := range timers {
				w.armAfter(&c.Timer, delays[benchTimers-1-i])
			}
		}
		perTimer(b, cpuTime(b)-began, b.N)
	})
	b.Run("cancel", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			w, timers := wheelTimers(&fired)
			for i, c := range timers {
				w.armAfter(&c.Timer, delays[i])
			}
			began := cpuTime(b)
			for _, c := range timers {
				w.disarm(&c.Timer)
			}
			took += cpuTime(b) - began
		}
		perTimer(b, took, b.N)
	})
	// Cascades included: from the arming a minute ahead to the call.
	b.Run("fire", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			w, timers := wheelTimers(&fired)
			for i, c := range timers {
				w.armAfter(&c.Timer, delays[i])
			}
			fired = 0
			began := cpuTime(b)
			for tick := uint64(0); fired < benchTimers; tick++ {
				for w.advance(tick, expireBudget) {
				}
			}
			took += cpuTime(b) - began
		}
		perTimer(b, took, b.N)
	})
}

func BenchmarkTimersRuntime(b *testing.B) {
	delays := benchDelays()
	var fired atomic.Int64
	count := func() { fired.Add(1) } // shared: AfterFunc is not charged for closures
	arm := func(timers []*time.Timer) {
		for i := range timers {
			timers[i] = time.AfterFunc(delays[i], count)
		}
	}
	stop := func(timers []*time.Timer) {
		for _, t := range timers {
			t.Stop()
		}
	}
	b.Run("memory", func(b *testing.B) {
		for range b.N {
			before := heapInUse()
			timers := make([]*time.Timer, benchTimers)
			arm(timers)
			grown := heapInUse() - before
			b.ReportMetric(float64(grown)/benchTimers-8, "B/timer")
			stop(timers)
		}
	})
	b.Run("arm", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			timers := make([]*time.Timer, benchTimers)
			began := cpuTime(b)
			arm(timers)
			took += cpuTime(b) - began
			stop(timers)
		}
		perTimer(b, took, b.N)
	})
	b.Run("rearm", func(b *testing.B) {
		timers := make([]*time.Timer, benchTimers)
		arm(timers)
		began := cpuTime(b)
		for range b.N {
			for i, t := range timers {
				t.Reset(delays[benchTimers-1-i])
			}
		}
		perTimer(b, cpuTime(b)-began, b.N)
		stop(timers)
	})
	b.Run("cancel", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			timers := make([]*time.Timer, benchTimers)
			arm(timers)
			began := cpuTime(b)
			stop(timers)
			took += cpuTime(b) - began
		}
		perTimer(b, took, b.N)
	})
	// A minute cannot be waited for: all are due 2 s after they were armed, spread over half a
	// second, and what is reported is from the first to the last call.
	b.Run("fire", func(b *testing.B) {
		var took time.Duration
		for range b.N {
			timers := make([]*time.Timer, benchTimers)
			fired.Store(0)
			at := time.Now().Add(2 * time.Second)
			for i := range timers {
				timers[i] = time.AfterFunc(time.Until(at)+delays[i]/60-500*time.Millisecond, count)
			}
			for fired.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			began := cpuTime(b)
			for fired.Load() < benchTimers {
				time.Sleep(time.Millisecond)
			}
			took += cpuTime(b) - began
		}
		perTimer(b, took, b.N)
	})
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
