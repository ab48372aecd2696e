package load

import "slices"

// phase is what a worker is doing. A command of Run begins one; enter alone changes it.
//
//	hold ─ ramp ────────────────────▶ hold
//	hold ─ trim ────────────────────▶ hold
//	hold ─ traffic ─ drain ─────────▶ hold
//	hold ─ count ─ drop ─ recover ──▶ hold      (a storm)
//	hold ─ await ───────────────────▶ hold      (the server closes all)
//	any ── goodbye ─────────────────▶ over
type phase uint8

const (
	phaseHold    phase = iota // connections are held and nothing is started
	phaseRamp                 // connections are opened
	phaseTrim                 // connections are closed until fewer are left
	phaseTraffic              // messages or visits are started
	phaseDrain                // nothing more is started; the last replies are awaited
	phaseCount                // storm: each session counts a message, so that it has something to resume
	phaseDrop                 // storm: all connections are gone and come back, a few a round
	phaseRecover              // storm: all are on their way
	phaseAwait                // nothing is started; the server is to close all connections
	phaseGoodbye              // all connections are closed
	phaseOver                 // the result is told and the loop ends
)

// ending reports whether connections that end now stay closed.
func (p phase) ending() bool { return p >= phaseAwait }

// enter changes the phase and does what belongs to the change: it tells Run that a phase is over,
// and starts what the next one begins with.
func (w *worker) enter(next phase) {
	last := w.phase
	w.phase, w.entered = next, w.now()
	switch next {
	case phaseHold:
		switch last {
		case phaseRamp:
			w.tell(event{Kind: "ramped"})
		case phaseTrim:
			w.tell(event{Kind: "trimmed"})
		case phaseDrain:
			e := event{Kind: "drained"}
			if w.traffic.replied > 0 {
				e.At = w.traffic.replied
			}
			w.tell(e)
		case phaseRecover:
			w.tell(event{Kind: "recovered", Seconds: (w.now() - w.storm.dropped).Seconds()})
		case phaseAwait:
			w.tell(event{Kind: "gone"})
		}
	case phaseDrain:
		w.traffic.ready, w.traffic.thinking = 0, queue{}
		w.traffic.quiet = w.entered
		w.tell(event{Kind: "stopped"})
	case phaseDrop:
		w.storm.dropped = w.entered
		w.dropAll()
	case phaseGoodbye:
		w.loop.Disarm(&w.ramp.timer)
		w.tell(event{Kind: "closing"})
		w.beginGoodbye(last)
	case phaseAwait:
		w.countMissedBeats()
	case phaseOver:
		w.tell(event{Kind: "result", Lost: w.gone})
		w.loop.Close()
	}
}

// endOfRound does what waits until all that was ready has been read.
func (w *worker) endOfRound() {
	switch w.phase {
	case phaseRamp:
		w.startPaced()
		if w.ramp.started == w.ramp.step.Conns && w.dialing == 0 {
			w.enter(phaseHold)
		}
	case phaseTrim:
		switch w.leaveSome(); {
		case len(w.leaving) > 0:
			w.anotherRound()
		case len(w.conns) <= w.keep:
			w.enter(phaseHold)
		}
	case phaseTraffic:
		w.refill()
	case phaseDrain:
		if w.drained() {
			w.enter(phaseHold)
		}
	case phaseCount:
		if w.outstanding == 0 || w.now()-w.entered > w.spec.Timeout {
			w.enter(phaseDrop)
		}
	case phaseDrop:
		if w.comeBackSome(); len(w.storm.pending) == 0 {
			w.enter(phaseRecover)
		}
		w.anotherRound()
	case phaseRecover:
		if w.dialing == 0 && w.unconfirmed == 0 {
			w.enter(phaseHold)
		}
	case phaseAwait:
		if len(w.conns) == 0 && w.dialing == 0 {
			w.enter(phaseHold)
		}
	case phaseGoodbye:
		switch w.leaveSome(); {
		case len(w.leaving) > 0:
			w.anotherRound()
		case len(w.conns) == 0:
			w.enter(phaseOver)
		}
	}
}

// anotherRound makes the loop run endOfRound again even if nothing happens.
func (w *worker) anotherRound() { w.loop.Later(func() {}) }

// beginTrim closes all but c.Conns connections.
func (w *worker) beginTrim(c command) {
	w.keep = min(c.Conns, len(w.conns))
	w.leaving = slices.Clone(w.conns[w.keep:])
	w.enter(phaseTrim)
	w.anotherRound()
}

// beginClosing ends the run: every client says goodbye.
func (w *worker) beginClosing() {
	if w.phase < phaseGoodbye {
		w.enter(phaseGoodbye)
	}
}

// countMissedBeats counts those that are missing since the last one, at the end of the run.
func (w *worker) countMissedBeats() {
	for _, c := range w.conns {
		if c.state == open && c.flags&slow == 0 {
			c.missedBeats(w.entered - c.mark)
		}
	}
}

func (w *worker) beginGoodbye(last phase) {
	if last != phaseAwait {
		w.countMissedBeats()
	}
	w.leaving = slices.Clone(w.conns)
	for _, d := range slices.Clone(w.deadlines) { // clients that are still connecting
		if d.c.state < open {
			w.end(d.c)
		}
	}
}

// leaveSome closes the next connections of those that are left.
func (w *worker) leaveSome() {
	for range min(perRound, len(w.leaving)) {
		c := w.leaving[0]
		w.leaving = w.leaving[1:]
		switch {
		case c.state != open:
		case c.flags&slow != 0:
			w.loop.Abort(&c.Socket)
			w.end(c)
		default:
			c.leave()
		}
	}
}
