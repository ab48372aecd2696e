package load

import (
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// A server that handles capacity handshakes at a time, each in 10 ms, is given about as many as
// keep the bound, and one that fails is left alone for longer and longer.
func TestPaceFollowsTheServer(t *testing.T) {
	const bound = 50 * time.Millisecond
	p := newPace(bound, 0, 0)
	now := time.Duration(0)
	interval := func(latency time.Duration) {
		now += paceEvery
		p.room(now, int(p.width)) // all of its width is under way
		for range 20 {
			p.record(latency)
		}
		p.adapt(now)
	}
	for range 100 {
		interval(time.Duration(p.width) * time.Millisecond) // the more at a time, the later
	}
	if p.width < 20 || p.width > 51 {
		t.Errorf("%.0f under way, want as many as are answered within the bound: 25 to 50", p.width)
	}
	steady := p.width
	var rests []time.Duration
	for range 8 {
		p.failed = 3
		now += paceEvery
		p.adapt(now)
		rests = append(rests, p.resting-now)
		if got := p.room(now, 0); got != 0 {
			t.Errorf("%d may begin during the rest", got)
		}
		now = p.resting
	}
	if rests[0] != shortRest || rests[1] != 2*shortRest || rests[7] != longRest || p.width != 1 {
		t.Errorf("rests %v, width %.0f: want %v, twice that, … %v, and 1", rests, p.width, shortRest, longRest)
	}
	if got := p.room(now, 0); got != 1 {
		t.Errorf("%d may begin after the rest, want 1", got)
	}
	for range 100 {
		interval(time.Duration(p.width) * time.Millisecond)
	}
	if math.Abs(p.width-steady) > steady/2 || p.rest != shortRest {
		t.Errorf("%.0f under way after the recovery, next rest %v; want about %.0f and %v",
			p.width, p.rest, steady, shortRest)
	}
}

// A ramp that held itself back for other reasons says nothing about a wider one.
func TestPaceThatIsNotFullStays(t *testing.T) {
	p := newPace(time.Second, 30, 0)
	for i := range 20 {
		for range 10 {
			p.record(time.Millisecond)
		}
		p.room(0, 2)
		p.adapt(time.Duration(i+1) * paceEvery)
	}
	if p.width != 30 {
		t.Errorf("width %.0f, want 30", p.width)
	}
}

func TestAutoRamp(t *testing.T) {
	t.Run("opens all", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Conns: 300, Loops: 3, AutoRamp: true, Scenario: Idle}, (&server{}).start(t))
		wantOK(t, r)
		want(t, "opened", r.Counters.Ramped, 300)
		want(t, "attempts", r.Counters.Attempts, 300)
	})
	t.Run("recovers from an overload", func(t *testing.T) {
		t.Parallel()
		var busy atomic.Int64 // a server that refuses what is more than 4 at a time
		s := &server{onConn: func(c net.Conn, attempt int64) bool {
			defer busy.Add(-1)
			if busy.Add(1) <= 4 {
				time.Sleep(2 * time.Millisecond)
				return false
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\n\r\n"))
			return true
		}}
		r := load(t, Spec{Conns: 100, AutoRamp: true, Scenario: Idle, Retries: 20}, s.start(t))
		wantOK(t, r)
		want(t, "opened", r.Counters.Ramped, 100)
	})
	t.Run("gives up on a server that is not there", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Targets: []string{"ws://" + deafPort(t)}, Conns: 20, AutoRamp: true, Retries: 1})
		want(t, "given up", r.Counters.Abandoned, 20)
	})
}
