package load

import (
	"maps"
	"slices"
	"time"
)

// command is one step of the run, for one worker. At is when to begin, so that all begin together.
// Times are those of plan.now.
type command struct {
	Do string // ramp, trim, traffic, storm, await, close
	At time.Duration

	// ramp: clients First, First+1, …, Conns of them. Rate a second, or, when that is 0, as fast as
	// the pace allows that begins with Width handshakes under way.
	First, Conns int     // trim: Conns are kept
	Width        float64 // see pace
	Rate         float64 // traffic: units a second; 0 is the closed loop

	Units    int64         // traffic, open loop: how many in all
	Duration time.Duration // traffic
	Offset   float64       // traffic: seconds from At to this worker's first unit
	Window   int           // traffic: this worker's share
}

// event is what a worker tells: progress (every reportEvery), started (the last connect of the ramp
// has begun), ramped, stopped (no more is sent), drained (nothing is in flight), recovered,
// trimmed, gone (no connection is left), closing, result (its last), failed (the loop has ended
// early).
type event struct {
	Kind     string
	At       time.Duration // when it happened; drained: the last reply
	Counters Counters
	Wrong    []WrongReply // so far
	Seconds  float64      // recovered: how long it took
	Width    float64      // started: of the pace
	Lost     span         // with the result: from the first to the last connection lost

	worker int
	err    error // failed
}

// span is two moments; the zero value is none.
type span struct{ From, To time.Duration }

// over makes s reach over o, too.
func (s *span) over(o span) {
	switch {
	case o == span{}:
	case *s == span{}:
		*s = o
	default:
		s.From, s.To = min(s.From, o.From), max(s.To, o.To)
	}
}

// tell sends an event, with all that there is to tell by now.
func (w *worker) tell(e event) {
	w.h.flush()
	e.worker, e.Counters = w.index, w.n.clone()
	if e.At == 0 {
		e.At = w.now()
	}
	for _, kind := range slices.Sorted(maps.Keys(w.wrong)) {
		e.Wrong = append(e.Wrong, w.wrong[kind])
	}
	if e.Kind == "progress" && len(w.events) > cap(w.events)/2 {
		return // Run is busy, and the next report has all that this one has
	}
	w.events <- e
}

// obey carries out a command.
func (w *worker) obey(c command) {
	switch c.Do {
	case "ramp":
		w.beginRamp(c)
	case "trim":
		w.beginTrim(c)
	case "traffic":
		w.beginTraffic(c)
	case "storm":
		w.beginStorm()
	case "await":
		w.enter(phaseAwait)
	case "close":
		w.beginClosing()
	}
}
