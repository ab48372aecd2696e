package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"
)

// Parent and workers exchange lines of JSON: a job and then commands one way, events the other. A
// worker in the parent's own process, which a small run uses, does the same through a pipe in
// memory.

// job is what a worker is told first.
type job struct {
	Spec    Spec
	Addrs   []netip.AddrPort // of Spec.Targets, resolved once by the parent
	Sources []netip.Addr
}

// command is one step of the run. At is when to begin, on CLOCK_MONOTONIC, so that all processes
// begin together.
type command struct {
	Do string // ramp, trim, traffic, storm, close
	At time.Duration

	// ramp: clients First, First+1, …, Conns of them, Rate a second.
	First, Conns int     // trim: Conns are kept
	Rate         float64 // traffic: units a second; 0 is the closed loop

	Units    int64         // traffic, open loop: how many in all
	Duration time.Duration // traffic
	Offset   float64       // traffic: seconds from At to this worker's first unit
	Window   int           // traffic: this worker's share
}

// event is what a worker tells: ready, progress (every reportEvery), ramped, stopped (no more is
// sent), drained (nothing is in flight), recovered, trimmed, closing, result (its last),
// failed.
type event struct {
	Kind     string
	At       time.Duration // when it happened, on CLOCK_MONOTONIC; drained: the last reply
	Counters Counters
	// Hists holds "message" since the last event and, with the result, the others of the whole run.
	Hists   map[string][]byte
	Cost    *cost        `json:",omitempty"` // with ready, ramped and drained
	Wrong   []WrongReply `json:",omitempty"` // so far
	Seconds float64      `json:",omitempty"` // recovered: how long it took
	Lost    span         // with the result: from the first to the last connection lost
	Error   string       `json:",omitempty"` // failed

	worker int             // set by the parent
	raw    map[string]hist // what Hists is made from, off the loop
}

// span is two moments on CLOCK_MONOTONIC; the zero value is none.
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

// hists are a worker's histograms.
type hists struct{ connect, handshake, message, heartbeat, lag hist }

func (h *hists) whole() map[string]hist {
	return map[string]hist{"connect": h.connect, "handshake": h.handshake, "heartbeat": h.heartbeat, "lag": h.lag}
}

// tell sends an event. The goroutine that writes encodes the histogram of the messages since the
// last event: that takes a millisecond, which the loop does not have.
func (w *worker) tell(kind string) {
	e := event{Kind: kind, At: monotonic(), Counters: w.n.clone(), raw: map[string]hist{}}
	if kind == "result" {
		e.raw = w.h.whole()
		e.Lost = w.gone
	}
	for _, kind := range slices.Sorted(maps.Keys(w.wrong)) {
		e.Wrong = append(e.Wrong, w.wrong[kind])
	}
	if kind == "drained" && w.traffic.replied > 0 {
		e.At = w.mono + w.traffic.replied
	}
	if w.h.message.count() > 0 {
		e.raw["message"] = w.h.message
		w.h.message = hist{}
	}
	if kind == "ready" || kind == "ramped" || kind == "drained" {
		e.Cost = w.ownCost()
	}
	w.out <- e
}

func (w *worker) tellRecovered(took time.Duration) {
	w.out <- event{Kind: "recovered", Counters: w.n.clone(), Seconds: took.Seconds()}
}

// Serve runs one worker: it obeys the commands on in and reports on out until it is told to close
// or in ends. A program that calls Run must call it, with standard input and output, when its first
// argument is WorkerCommand.
func Serve(in io.Reader, out io.Writer) error {
	lines := json.NewDecoder(bufio.NewReader(in))
	var j job
	if err := lines.Decode(&j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	// The heap grows little, so collecting at half more instead of twice costs nothing and keeps the
	// tool small.
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	events := make(chan event, 256)
	written := make(chan error, 1)
	go func() { written <- writeEvents(out, events) }()

	w, err := newWorker(j, events)
	if err == nil {
		go func() {
			for {
				var c command
				if lines.Decode(&c) != nil { // the parent is gone
					w.loop.Post(w.beginClosing)
					return
				}
				w.loop.Post(func() { w.obey(c) })
			}
		}()
		w.tell("ready")
		err = w.loop.Run()
	}
	if err != nil {
		events <- event{Kind: "failed", Error: err.Error()}
	}
	close(events)
	if werr := <-written; err == nil {
		err = werr
	}
	return err
}

// writeEvents writes until events is closed. After an error it only drains: the loop must not block
// on a parent that is gone.
func writeEvents(out io.Writer, events <-chan event) (err error) {
	lines := json.NewEncoder(out)
	for e := range events {
		if err != nil {
			continue
		}
		e.Hists = make(map[string][]byte, len(e.raw))
		for name, h := range e.raw {
			if b := h.encode(); b != nil {
				e.Hists[name] = b
			}
		}
		err = lines.Encode(e)
	}
	return err
}
