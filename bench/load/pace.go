package load

import (
	"slices"
	"time"
)

// pace decides how many handshakes a ramp without a rate has under way. It widens while they are
// answered in time, narrows when they are late, and rests when they fail: a server, or a machine,
// that is overloaded gets room to recover in, and not more of the same.
type pace struct {
	bound   time.Duration // on the 90th percentile of handshakes
	width   float64       // handshakes under way at most
	since   time.Duration // when the interval at hand began
	full    bool          // in it, width was what held the ramp back
	failed  int           // attempts that failed in it
	answers bool          // the server has answered a handshake
	latency []time.Duration
	resting time.Duration // until when
	rest    time.Duration // how long the next rest is
}

const (
	paceEvery  = 50 * time.Millisecond
	paceFirst  = 16  // width to begin with
	paceValues = 512 // latencies of one interval that are looked at
	shortRest  = 250 * time.Millisecond
	longRest   = 2 * time.Second
)

func newPace(bound time.Duration, width float64, now time.Duration) pace {
	return pace{bound: bound, width: max(width, paceFirst), since: now, rest: shortRest}
}

func (p *pace) record(latency time.Duration) {
	p.answers = true
	if len(p.latency) < paceValues && p.bound > 0 {
		p.latency = append(p.latency, latency)
	}
}

// room is how many handshakes may begin when underWay have begun and not ended.
func (p *pace) room(now time.Duration, underWay int) int {
	if now < p.resting {
		return 0
	}
	room := max(int(p.width), 1) - underWay
	if room <= 0 {
		p.full = true
	}
	return max(room, 0)
}

// adapt ends the interval at hand when it is over and has something to say.
func (p *pace) adapt(now time.Duration) {
	if now-p.since < paceEvery || p.failed == 0 && len(p.latency) < 8 {
		return
	}
	switch late := p.late(); {
	case p.failed > 0 && !p.answers: // nobody is there to recover
		p.resting = now + shortRest
	case p.failed > 0:
		p.width = max(p.width/2, 1)
		p.resting = now + p.rest
		p.rest = min(2*p.rest, longRest)
	case late > p.bound:
		p.width = max(0.7*p.width, 1)
	default:
		p.rest = shortRest
		if late < p.bound/2 && p.full {
			p.width = min(p.width+max(p.width/8, 1), dialsAtOnce)
		}
	}
	p.since, p.full, p.failed, p.latency = now, false, 0, p.latency[:0]
}

// late is the 90th percentile of the interval's latencies.
func (p *pace) late() time.Duration {
	if len(p.latency) == 0 {
		return 0
	}
	slices.Sort(p.latency)
	return p.latency[len(p.latency)*9/10]
}
