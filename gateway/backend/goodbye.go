package backend

import (
	"container/heap"
	"sync"
	"time"
)

// goodbyes tells a backend of the connections that have ended: CLOSE or DISCONNECT, behind the
// messages that had not been sent before. It goes on trying for as long as the process lives. It
// works outside of the loops, which may have ended by then. Any goroutine.
type goodbyes struct {
	target *target
	cfg    *Config
	limit  int // requests in flight

	mu      sync.Mutex
	ready   []*goodbye // a queue, oldest first, from index head on
	head    int
	later   goodbyeHeap // those that failed, by when they are due
	workers int
	timer   *time.Timer
	armed   time.Time // when timer fires; zero: not set
}

type goodbye struct {
	request  *request
	attempts int
	due      time.Time
}

const (
	goodbyeShare   = 4 // of a backend's requests in flight, at most one in so many more is a goodbye
	goodbyeBackoff = time.Second
	goodbyeLongest = time.Minute
)

func newGoodbyes(t *target, cfg Config) *goodbyes {
	return &goodbyes{target: t, cfg: &cfg, limit: max(cfg.MaxRequests/goodbyeShare, 1)}
}

// add takes over a request whose body ends with CLOSE or DISCONNECT. Its bytes are counted in
// buffered.
func (g *goodbyes) add(r *request) {
	r.timeout = g.cfg.Timeout
	g.mu.Lock()
	defer g.mu.Unlock()
	goodbyesWaiting.Add(1)
	if len(g.ready)-g.head+len(g.later) >= g.cfg.MaxGoodbyes {
		g.drop()
	}
	g.ready = append(g.ready, &goodbye{request: r})
	g.pump()
}

// drop forgets the oldest.
func (g *goodbyes) drop() {
	var e *goodbye
	if g.head < len(g.ready) {
		e = g.next()
	} else {
		e = heap.Pop(&g.later).(*goodbye)
	}
	goodbyesDropped.Inc()
	g.done(e)
}

func (g *goodbyes) next() *goodbye {
	e := g.ready[g.head]
	g.ready[g.head] = nil
	if g.head++; g.head == len(g.ready) || g.head > 1024 && g.head > len(g.ready)/2 {
		g.ready = append(g.ready[:0], g.ready[g.head:]...)
		g.head = 0
	}
	return e
}

func (g *goodbyes) done(e *goodbye) {
	goodbyesWaiting.Add(-1)
	buffered.Add(-int64(len(e.request.body)))
}

// pump starts as many requests as may be in flight. The caller holds mu.
func (g *goodbyes) pump() {
	now := time.Now()
	for len(g.later) > 0 && !g.later[0].due.After(now) {
		g.ready = append(g.ready, heap.Pop(&g.later).(*goodbye))
	}
	for g.head < len(g.ready) && g.workers < g.limit {
		ok, probe, wait := g.target.breaker.allow(now)
		if !ok {
			g.wake(now.Add(wait))
			return
		}
		e := g.next()
		e.request.probe = probe
		g.workers++
		go g.work(e)
	}
	if len(g.later) > 0 && g.workers < g.limit {
		g.wake(g.later[0].due)
	}
}

// wake has pump run again at a time, or before.
func (g *goodbyes) wake(at time.Time) {
	if !g.armed.IsZero() && !at.Before(g.armed) {
		return
	}
	g.armed = at
	if g.timer != nil {
		g.timer.Stop()
	}
	g.timer = time.AfterFunc(time.Until(at), func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.armed = time.Time{}
		g.pump()
	})
}

func (g *goodbyes) work(e *goodbye) {
	a := g.target.do(e.request, g.cfg.MaxAnswer)
	result := a.outcome.String()
	if a.outcome == answered && !a.isEvents() {
		result = "status"
	}
	requests[result].Inc()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.workers--
	switch {
	case a.outcome == answered && !isUnavailable(a.status):
		// whatever it says: GRIP's libraries answer DISCONNECT with a 500 that nobody has handled
		g.done(e)
	case a.outcome == notHandled:
		requestRetries.Inc()
		g.retry(e)
	default:
		// The messages in it may have been handled. DISCONNECT can be said twice.
		requestRetries.Inc()
		before := len(e.request.body)
		r := *e.request
		r.body, r.replay = disconnectBody, 0
		r.number++
		e.request = &r
		buffered.Add(int64(len(r.body) - before))
		e.attempts++
		g.retry(e)
	}
	g.pump()
}

var disconnectBody = appendEvent(nil, eventDisconnect, nil)

func (g *goodbyes) retry(e *goodbye) {
	e.due = time.Now().Add(min(goodbyeBackoff<<min(e.attempts, 10), goodbyeLongest))
	heap.Push(&g.later, e)
}

// idle reports whether all have been told.
func (g *goodbyes) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.workers == 0 && g.head == len(g.ready) && len(g.later) == 0
}

// close gives up what waits, and returns how many it was.
func (g *goodbyes) close() (untold int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.timer != nil {
		g.timer.Stop()
	}
	for ; g.head < len(g.ready) || len(g.later) > 0; untold++ {
		g.drop()
	}
	return untold + g.workers
}

type goodbyeHeap []*goodbye

func (h goodbyeHeap) Len() int           { return len(h) }
func (h goodbyeHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h goodbyeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *goodbyeHeap) Push(e any)        { *h = append(*h, e.(*goodbye)) }
func (h *goodbyeHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
