package load

import (
	"sync"
	"time"
)

// latencies are the histograms of a run. All workers share them: a worker gathers values in a small
// batch and hands it on when that is full, so the lock is taken once for many values.
type latencies struct {
	connect, handshake, message, heartbeat, bye, lag shared
}

// shared is a histogram of the whole run, and of what came since the last point of the timeline.
type shared struct {
	mu           sync.Mutex
	whole, point hist
}

// summary is the whole run's so far.
func (s *shared) summary() Latency {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole.summary()
}

// takePoint is p50, p99 and the largest value since the last call.
func (s *shared) takePoint() (p50, p99, most int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p50, p99, most = s.point.quantile(50), s.point.quantile(99), s.point.quantile(100)
	s.point.reset()
	return p50, p99, most
}

// forget drops what was recorded so far.
func (s *shared) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole.reset()
}

// add takes in what was recorded elsewhere.
func (s *shared) add(h *hist) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.whole.add(h)
}

// recorder is one worker's way to a histogram. Loop only.
type recorder struct {
	to    *shared
	batch []time.Duration
}

func newRecorder(to *shared) recorder {
	const values = 128
	return recorder{to, make([]time.Duration, 0, values)}
}

func (r *recorder) record(d time.Duration) {
	if r.batch = append(r.batch, d); len(r.batch) == cap(r.batch) {
		r.flush()
	}
}

func (r *recorder) flush() {
	if len(r.batch) == 0 {
		return
	}
	r.to.mu.Lock()
	defer r.to.mu.Unlock()
	for _, d := range r.batch {
		r.to.whole.record(d)
		r.to.point.record(d)
	}
	r.batch = r.batch[:0]
}

// recorders are a worker's ways to all histograms.
type recorders struct{ connect, handshake, message, heartbeat, bye, lag recorder }

func newRecorders(l *latencies) recorders {
	return recorders{newRecorder(&l.connect), newRecorder(&l.handshake), newRecorder(&l.message),
		newRecorder(&l.heartbeat), newRecorder(&l.bye), newRecorder(&l.lag)}
}

func (r *recorders) flush() {
	for _, one := range []*recorder{&r.connect, &r.handshake, &r.message, &r.heartbeat, &r.bye, &r.lag} {
		one.flush()
	}
}
