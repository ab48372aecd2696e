package admin

import (
	"io"
	"os"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway"
)

// sample is what the process looked like at one time.
type sample struct {
	at       time.Time
	readings readings
	loops    []gateway.LoopSnapshot
	counts   bool // messages are acknowledged

	cpu        time.Duration // user and system time since the start of the process
	resident   uint64        // bytes
	heap       uint64        // bytes of live and not yet collected objects
	goroutines uint64
}

// freshFor is how old a sample may be to say something about the rates of now.
const freshFor = time.Minute

// sampler takes samples, and keeps the last two and a history. It does nothing by itself: a viewer
// or a request has it look.
type sampler struct {
	loops  func() []gateway.LoopSnapshot
	series func(w io.Writer)
	counts bool

	mu           sync.Mutex
	last, before sample
	history      history
}

// look takes a sample, unless the last one is younger than most. It returns the last one and the
// one that rates are taken against, whose time is zero when there is none.
func (s *sampler) look(now time.Time, most time.Duration) (last, before sample) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.at.IsZero() && now.Sub(s.last.at) < most {
		return s.last, s.before
	}
	s.before, s.last = s.last, s.take(now)
	if now.Sub(s.before.at) > freshFor {
		s.before = sample{}
	}
	s.history.add(pointOf(s.last, s.before))
	return s.last, s.before
}

// points copies the history, oldest first.
func (s *sampler) points() []point {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history.points()
}

func (s *sampler) take(now time.Time) sample {
	n := sample{at: now, readings: s.read(), counts: s.counts, resident: residentBytes()}
	if s.loops != nil {
		n.loops = s.loops()
	}
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) == nil {
		n.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	runtimeSamples := [2]metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(runtimeSamples[:])
	n.heap, n.goroutines = runtimeSamples[0].Value.Uint64(), runtimeSamples[1].Value.Uint64()
	return n
}

// residentBytes is the memory that the process holds, 0 when it cannot be read.
func residentBytes() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// rate is the growth of a metric, or of all its series, in a second; ok is false when there is no
// sample before.
func rate(last, before sample, name string) (perSecond float64, ok bool) {
	seconds := last.at.Sub(before.at).Seconds()
	if before.at.IsZero() || seconds <= 0 {
		return 0, false
	}
	return (last.readings.sum(name) - before.readings.sum(name)) / seconds, true
}

// acknowledged is how many messages have been acknowledged: those received and not waiting for
// Redis.
func (s sample) acknowledged() float64 {
	return s.readings.sum("sluice_messages_received_total") -
		s.readings.sum("sluice_redis_pending_messages")
}

// acknowledgedRate is as rate.
func acknowledgedRate(last, before sample) (perSecond float64, ok bool) {
	seconds := last.at.Sub(before.at).Seconds()
	if !last.counts || before.at.IsZero() || seconds <= 0 {
		return 0, false
	}
	return (last.acknowledged() - before.acknowledged()) / seconds, true
}

// cores is how many cores the process has used between two samples.
func cores(last, before sample) (n float64, ok bool) {
	if before.at.IsZero() {
		return 0, false
	}
	return float64(last.cpu-before.cpu) / float64(last.at.Sub(before.at)), true
}

// busy is the share of the time between two samples that loop i has spent handling events.
func busy(last, before sample, i int) (share float64, ok bool) {
	if before.at.IsZero() || i >= len(last.loops) || len(last.loops) != len(before.loops) {
		return 0, false
	}
	share = float64(last.loops[i].Busy-before.loops[i].Busy) / float64(last.at.Sub(before.at))
	return min(max(share, 0), 1), true
}
