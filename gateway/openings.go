package gateway

import "time"

// When a store or a service has restarted, all clients come back at once. Requests that wait for
// the Handler longer than HandshakeTimeout are refused, so a queue that is longer than what the
// Handler answers in that time is worse than useless: it works for clients that have gone, these
// come back and wait behind others, and nobody gets in any more. So a loop takes in as much as the
// Handler answers in a second; what comes on top waits in the kernel's queue of the listener, and
// then in the clients' TCP, which backs off.
const (
	openingsFor   = time.Second            // what is let in is answered in that time
	openingsEvery = 250 * time.Millisecond // how often the Handler's speed is measured
	openingsLeast = 4096                   // of all loops: an idle Handler's speed is not known
)

// openings are the requests of a loop that wait for the Handler's answer. Loop only.
type openings struct {
	waiting  int
	most     int           // while more than these wait, nothing is accepted
	since    time.Duration // when most was last measured
	accepted int           // after that
	held     bool
}

// leastOpenings is how many requests may wait in a loop whatever the Handler's speed.
func (w *worker) leastOpenings() int { return max(openingsLeast/w.cfg.Loops, 64) }

// openingBegins counts a request that the Handler has.
func (w *worker) openingBegins() {
	o := &w.openings
	o.waiting++
	if o.held {
		return
	}
	w.measureOpenings()
	if o.waiting > o.most {
		o.held = true
		w.acceptAgain(w.accepts)
	}
}

// openingEnds counts one that has its answer, or is over.
func (w *worker) openingEnds(accepted bool) {
	o := &w.openings
	o.waiting--
	if accepted {
		o.accepted++
	}
	w.measureOpenings()
	if o.held && o.waiting <= o.most/2 {
		o.held = false
		w.acceptAgain(w.accepts)
	}
}

// measureOpenings finds how many the Handler accepts in openingsFor.
func (w *worker) measureOpenings() {
	o := &w.openings
	if took := w.loop.Now() - o.since; took >= openingsEvery {
		o.most = max(int(int64(o.accepted)*int64(openingsFor)/int64(took)), w.leastOpenings())
		o.since, o.accepted = w.loop.Now(), 0
	}
}
