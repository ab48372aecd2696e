package load

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// Every percentile is at least what the server delays by, and no latency is longer than the whole
// run.
func TestLatencyAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	const short, long = 20 * time.Millisecond, 500 * time.Millisecond
	var inOrder sync.Mutex // timers that are due together fire in any order, which the replies must not have
	s := (&server{onMessage: func(p *peer, n int, _ []byte) {
		delay := short
		if n%10 == 0 {
			delay = long
		}
		time.AfterFunc(delay, func() {
			inOrder.Lock()
			defer inOrder.Unlock()
			p.reply(p.total(1))
		})
	}}).start(t)
	began := time.Now()
	// Every connection sends four messages a second and ten in all, the last of which is
	// answered late.
	r := load(t, Spec{Conns: 100, Rate: 400, Duration: 2500 * time.Millisecond}, s)
	took := time.Since(began)
	wantOK(t, r)
	want(t, "latencies", r.Message.Count, 1000)
	atLeast := func(what string, us int64, low time.Duration) {
		t.Helper()
		if d := time.Duration(us) * time.Microsecond; d < low*999/1000 || d > took*1001/1000 {
			t.Errorf("%s is %v, want %v at least and no more than the %v of the run", what, d, low, took)
		}
	}
	atLeast("the smallest", r.Message.MinUS, short)
	atLeast("p50", r.Message.P50US, short)
	atLeast("p75", r.Message.P75US, short)
	atLeast("p95", r.Message.P95US, long)
	atLeast("p99", r.Message.P99US, long)
	atLeast("the largest", r.Message.MaxUS, long)
}

// A server that stands still for a second keeps every message waiting that was due in it, and the
// open loop charges all of them. A closed loop sees one of its window.
func TestStallIsNotOmitted(t *testing.T) {
	t.Parallel()
	var gate sync.RWMutex
	var seen atomic.Int64
	s := (&server{onMessage: func(p *peer, _ int, _ []byte) {
		if seen.Add(1) == 100 {
			gate.Lock()
			time.Sleep(time.Second)
			gate.Unlock()
		}
		gate.RLock()
		total := p.total(1)
		gate.RUnlock()
		p.reply(total)
	}}).start(t)
	r := load(t, Spec{Rate: 200, Duration: 2 * time.Second}, s)
	wantOK(t, r)
	want(t, "answered", r.Counters.Replies, 400)
	// 200 messages were due in the stall; they waited 0 to 1 s, evenly: a quarter of all 400
	// waited over half a second.
	if max := time.Duration(r.Message.MaxUS) * time.Microsecond; max < 990*time.Millisecond {
		t.Errorf("the slowest took %v, want about 1s", max)
	}
	if p80 := time.Duration(r.Message.At(80)) * time.Microsecond; p80 < 500*time.Millisecond {
		t.Errorf("p80 is %v, want over 500ms", p80)
	}
}

func TestHeartbeats(t *testing.T) {
	const every = 50 * time.Millisecond
	t.Run("all come", func(t *testing.T) {
		t.Parallel()
		beat := append(ws.MustCompileFrame(ws.NewTextFrame([]byte(`{"ts":"2026-01-02T03:04:05.678Z"}`))),
			ws.MustCompileFrame(ws.NewPingFrame([]byte("hb")))...)
		var sent atomic.Int64
		s := (&server{onOpen: func(p *peer) {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-p.done:
					return
				case <-tick.C:
					sent.Add(1)
					p.bytes(beat)
				}
			}
		}}).start(t)
		r := load(t, Spec{Scenario: Idle, HeartbeatEvery: every, Duration: 1500 * time.Millisecond}, s)
		wantOK(t, r)
		// Pings that come while all leave are answered; the beats beside them are not
		// counted.
		if n := r.Counters.Pings; n < r.Counters.Beats || n > sent.Load() {
			t.Errorf("%d pings were answered of %d sent with at least %d beats", n, sent.Load(), r.Counters.Beats)
		}
		if r.Counters.Beats <= 20 || r.Heartbeat.Count != r.Counters.Beats-20 {
			t.Errorf("%d beats and %d gaps of 20 connections, want some on each, and one gap less each", r.Counters.Beats, r.Heartbeat.Count)
		}
	})
	t.Run("one is missing", func(t *testing.T) {
		t.Parallel()
		const every = 2 * time.Second // half of it is the grace that a loaded machine has
		s := &server{onOpen: func(p *peer) {
			for i := 1; ; i++ {
				select {
				case <-p.done:
					return
				case <-time.After(every):
				}
				if i != 2 {
					p.text(`{"ts":"2026-01-02T03:04:05.678Z"}`)
				}
			}
		}}
		r := load(t, Spec{Scenario: Idle, Heartbeats: "expect", HeartbeatEvery: every, Duration: 3*every + every/2}, s.start(t))
		want(t, "missing", r.Counters.BeatsMissing, 20)
		wantFailure(t, r, "20 heartbeats did not come")
	})
	t.Run("none come", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Scenario: Idle, Heartbeats: "expect", HeartbeatEvery: every}, (&server{}).start(t))
		if r.Counters.BeatsMissing == 0 {
			t.Error("no heartbeat was missed of a server that sends none")
		}
	})
}

func TestObjectives(t *testing.T) {
	t.Parallel()
	s := (&server{onMessage: func(p *peer, _ int, _ []byte) {
		time.Sleep(20 * time.Millisecond)
		p.reply(p.total(1))
	}}).start(t)
	strict, _ := ParseObjective("p50=5ms")
	easy, _ := ParseObjective("handshake.max=1m")
	r := load(t, Spec{SLO: []Objective{strict, easy}}, s)
	wantFailure(t, r, "too slow: the objective was message.p50=5ms")
	beats, _ := ParseObjective("heartbeat.p99=1s")
	wantFailure(t, load(t, Spec{SLO: []Objective{beats}}, s), "was not measured")
}
