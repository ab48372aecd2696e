package load

import (
	"time"

	"github.com/gobwas/ws"
)

// traffic decides when the next unit starts. A unit is a message; in resume and churn, a visit.
//
// In the open loop the k-th unit is due at k × interval, whether or not the earlier ones are over,
// and however late the loop is: its latency counts from there. In the closed loop a unit starts
// when another is over.
type traffic struct {
	began, middle, until time.Duration

	next, total int64         // open loop: units started, and in all
	interval    float64       // open loop: nanoseconds between units; 0 is the closed loop
	ready       int           // closed loop: units that may start now
	thinking    queue         // closed loop: when those may start that wait for Spec.Think
	replied     time.Duration // the last unit that was over
	quiet       time.Duration // drain: since when nothing was answered
	settled     int64         // drain: what was answered by then
}

// queue is a FIFO of times.
type queue struct{ due []time.Duration }

func (w *worker) beginTraffic(c command) {
	t := traffic{began: max(w.now(), c.At)}
	t.middle, t.until = t.began+c.Duration/2, t.began+c.Duration
	switch {
	case w.spec.Scenario == Idle || w.spec.Scenario == Storm:
	case w.spec.Scenario == Fanout:
		w.beginFanout(c.Units)
	case c.Rate > 0:
		t.interval = float64(time.Second) / c.Rate
		t.total = c.Units
		t.began += time.Duration(c.Offset * float64(time.Second))
	default:
		t.ready = c.Window
	}
	w.traffic = t
	w.enter(phaseTraffic)
	w.loop.Arm(&w.pacer, min(t.began, t.until)) // a slow schedule may have nothing for this worker
	w.blastSlow()
}

// timely reports whether something happened before the traffic's end. Storms have none.
func (t *traffic) timely(at time.Duration) bool { return t.until == 0 || at <= t.until }

// finished counts a unit that is over.
func (w *worker) finished(at time.Duration) {
	t := &w.traffic
	t.replied = at
	if t.timely(at) {
		w.n.Finished++
		if at <= t.middle {
			w.n.Midway++
		}
	}
}

// pace starts what is due and sets the pacer to what is next.
func (w *worker) pace() {
	t := &w.traffic
	if w.phase != phaseTraffic {
		return
	}
	now := w.now()
	next := t.until
	if t.interval > 0 {
		next = w.startDue(now)
	} else {
		for len(t.thinking.due) > 0 && t.thinking.due[0] <= now {
			t.thinking.due = t.thinking.due[1:]
			t.ready++
		}
		if len(t.thinking.due) > 0 {
			next = min(next, t.thinking.due[0])
		}
	}
	if now >= t.until && t.next == t.total {
		w.enter(phaseDrain)
		return
	}
	w.loop.Arm(&w.pacer, next)
}

// startDue starts the units of the open loop that are due, a bounded number of them so that
// replies are read in between.
func (w *worker) startDue(now time.Duration) (next time.Duration) {
	t := &w.traffic
	for range 256 {
		if t.next == t.total {
			return t.until
		}
		intended := t.began + time.Duration(float64(t.next)*t.interval)
		if intended > now {
			return intended
		}
		t.next++
		w.h.lag.record(now - intended)
		if !w.startUnit(intended) {
			w.n.Unsent++
		}
		now = w.now()
	}
	return now
}

// refill starts what the closed loop has room for. It runs at the end of a round, because starting
// a unit can end one (a broken socket) and the two must not nest.
func (w *worker) refill() {
	t := &w.traffic
	if t.ready == 0 || w.now() < t.began {
		return
	}
	for n := min(t.ready, 4096); n > 0 && w.phase == phaseTraffic && t.ready > 0; n-- {
		if !w.startUnit(w.now()) {
			return // nobody is free; a later round tries again
		}
		t.ready--
	}
}

// again gives a place in the closed loop back.
func (w *worker) again() {
	t := &w.traffic
	switch {
	case w.phase != phaseTraffic || t.interval > 0:
	case w.spec.Think > 0:
		t.thinking.due = append(t.thinking.due, w.now()+w.spec.Think)
		if len(t.thinking.due) == 1 {
			w.loop.Arm(&w.pacer, t.thinking.due[0])
		}
	default:
		t.ready++
	}
}

// messageOver follows each message that has been answered or given up.
func (w *worker) messageOver(c *Conn) {
	switch {
	case c.flags&swept != 0:
		c.flags &^= swept // its place was given back when waiting for it ended
	case !w.spec.visits():
		w.again()
	}
}

// startUnit starts a unit on the next client that is free. It reports false when there is none.
func (w *worker) startUnit(intended time.Duration) bool {
	for range w.conns {
		w.cursor++
		if w.cursor >= len(w.conns) {
			w.cursor = 0
		}
		c := w.conns[w.cursor]
		if c.state != open || c.flags&(visiting|slow) != 0 || !c.room() || c.inMessage() {
			continue
		}
		if w.spec.visits() {
			w.visit(c, intended)
		} else {
			c.send(intended)
		}
		return true
	}
	return false
}

// send sends the next message of c's session. Its latency counts from the intended time.
func (c *Conn) send(intended time.Duration) {
	w := c.w
	p, seq := w.payload, c.acked+uint64(c.sent.n)+1
	if w.spec.Message != "" {
		w.message = w.template.append(w.message[:0], c.number(), seq)
		p = w.message
	} else {
		number(p, seq)
	}
	c.flags |= asked
	w.n.Sent++
	intended += w.spec.FragmentPause
	if w.spec.replies() {
		c.sent.push(intended)
		w.outstanding++
	} else {
		c.acked++
		w.finished(w.now())
	}
	if w.spec.FragmentPause > 0 {
		c.beginMessage(p)
		return
	}
	c.sendFrame(ws.OpText, p)
}

// sweepTraffic gives up waiting where there is nothing to wait for.
func (w *worker) sweepTraffic(now time.Duration) {
	t := &w.traffic
	switch {
	case w.phase == phaseTraffic && t.interval == 0 && w.spec.Timeout > 0:
		// A message that was never answered must not hold its place in the window for good.
		for _, c := range w.conns {
			if c.sent.n > 0 && c.flags&swept == 0 && now-c.sent.first > w.spec.Timeout && !w.spec.visits() {
				c.flags |= swept
				w.again()
			}
		}
	case w.phase == phaseDrain:
		n := &w.n
		done := n.Replies + n.Missing + n.Corrupt + n.Unanswered + n.Churned + n.Opened
		if done != t.settled {
			t.settled, t.quiet = done, now
		}
	}
}

// drained reports whether the last reply is there, or none came for a whole timeout: what is in
// flight then is missing.
func (w *worker) drained() bool {
	if w.outstanding > 0 || w.visits > 0 || w.spec.Reconnect && w.dialing+w.unconfirmed > 0 {
		if w.now()-w.traffic.quiet < w.spec.Timeout {
			return false
		}
		for _, c := range w.conns {
			c.giveUp()
		}
		w.giveUpFanout()
	}
	return true
}
