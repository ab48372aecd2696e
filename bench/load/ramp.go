package load

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/bench/reactor"
)

// ramp opens connections: at a steady rate, or as fast as the server answers.
type ramp struct {
	timer   reactor.Timer
	step    command       // which clients, how many, how fast
	began   time.Duration // when this step began
	started int           // clients of this step
	pace    pace
	waiting []place // a ramp that adapts: clients that try again when it is their turn
}

// adapts reports whether the ramp has no rate.
func (r *ramp) adapts() bool { return r.step.Rate == 0 }

// dialsAtOnce bounds the connects and handshakes under way of one worker, so that a server that
// does not keep up slows the ramp down instead of timing out.
const dialsAtOnce = 2048

func (w *worker) beginRamp(c command) {
	w.ramp.step, w.ramp.started = c, 0
	w.conns = slices.Grow(w.conns, c.Conns)
	w.ramp.began = max(w.now(), c.At)
	w.ramp.pace = newPace(w.spec.RampLatency, c.Width, w.ramp.began)
	w.enter(phaseRamp)
	if c.Conns == 0 {
		w.tell(event{Kind: "started", Width: c.Width})
	}
	w.startClients()
}

// startClients starts the clients that are due, and itself again in a millisecond.
func (w *worker) startClients() {
	r := &w.ramp
	if r.adapts() {
		w.startPaced()
	} else {
		due := 0
		if since := w.now() - r.began; since >= 0 {
			due = min(1+int(since.Seconds()*r.step.Rate), r.step.Conns)
		}
		for r.started < due && w.dialing < dialsAtOnce {
			w.startNext()
		}
	}
	if r.started < r.step.Conns || len(r.waiting) > 0 || r.adapts() && w.retrying > 0 {
		w.loop.Arm(&r.timer, w.now()+time.Millisecond)
	}
}

// startPaced starts as many as the pace allows, and none before there is room for some: connects
// that are made together are answered together, and wake the loop once.
func (w *worker) startPaced() {
	r := &w.ramp
	if !r.adapts() {
		return
	}
	now := w.now()
	r.pace.adapt(now)
	room := r.pace.room(now, w.dialing-w.retrying)
	if room < int(r.pace.width)/4 {
		return
	}
	for ; room > 0 && len(r.waiting) > 0; room-- {
		p := r.waiting[0]
		r.waiting = r.waiting[1:]
		w.retrying--
		w.dial(p)
	}
	for ; room > 0 && r.started < r.step.Conns; room-- {
		w.startNext()
	}
}

func (w *worker) startNext() {
	r := &w.ramp
	w.newClient(r.step.First + r.started)
	if r.started++; r.started == r.step.Conns {
		w.tell(event{Kind: "started", Width: r.pace.width})
	}
}

func (w *worker) newClient(index int) {
	p := place{target: uint16(index % len(w.targets)), flags: initial}
	if w.spec.Scenario == Slow && w.spec.isSlow(index) {
		p.flags |= slow
	}
	if w.spec.returns() && w.spec.SessionIDs == "client" {
		p.id = uuid.New()
	}
	if w.spec.Scenario == Custom {
		binary.LittleEndian.PutUint64(p.id[:], uint64(index)+1)
	}
	w.dialing++
	w.dial(p)
}

// isSlow reports whether a client is one of those that do not read. Each target has the same share
// of them.
func (s *Spec) isSlow(index int) bool {
	k := float64(index / len(s.Targets))
	return math.Floor((k+1)*s.SlowFraction) > math.Floor(k*s.SlowFraction)
}

// SlowClients is how many clients of the slow scenario do not read.
func (s *Spec) SlowClients() (n int) {
	for i := range s.Conns {
		if s.isSlow(i) {
			n++
		}
	}
	return n
}
