package load

import (
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"sluice/poller"
)

// ramp starts connections at a steady rate.
type ramp struct {
	poller.Timer
	w       *worker
	step    command       // which clients, how many, how fast
	began   time.Duration // when this step began
	started int           // clients of this step
}

// dialsAtOnce bounds the connects and handshakes under way, so that a server that does not keep up
// slows the ramp down instead of timing out.
const dialsAtOnce = 2048

func (r *ramp) init(w *worker) {
	r.w = w
	r.Init(r)
}

func (w *worker) beginRamp(c command) {
	w.ramp.step, w.ramp.started = c, 0
	w.conns = slices.Grow(w.conns, c.Conns)
	w.ramp.began = max(w.now(), c.At-w.mono)
	w.enter(phaseRamp)
	w.ramp.Expire()
}

// Expire implements poller.Expirer: it starts the clients that are due.
func (r *ramp) Expire() {
	w := r.w
	due := 0
	if since := w.now() - r.began; since >= 0 {
		due = min(1+int(since.Seconds()*r.step.Rate), r.step.Conns)
	}
	for r.started < due && w.dialing < dialsAtOnce {
		w.newClient(r.step.First + r.started)
		r.started++
	}
	if r.started < r.step.Conns {
		w.loop.Arm(&r.Timer, time.Millisecond)
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
