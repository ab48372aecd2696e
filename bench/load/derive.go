package load

import (
	"fmt"

	"sluice/bench/procfs"
	"sluice/bench/units"
)

// finish puts the result together.
func (r *run) finish() *Result {
	res := r.result
	res.Counters = r.crew.sum()
	l := r.crew.latencies
	res.Connect, res.Handshake = l.connect.summary(), l.handshake.summary()
	res.Message, res.Heartbeat, res.Lag = l.message.summary(), l.heartbeat.summary(), l.lag.summary()
	res.Bye = l.bye.summary()
	r.toolUsage()
	if res.Server != nil {
		res.Server.derive(res)
	}
	res.Failures = append(res.Failures, res.judge()...)
	return res
}

func (r *run) toolUsage() {
	t, n := &r.result.Tool, &r.result.Counters
	t.Loops, t.OwnTables = len(r.crew.workers), r.crew.ownTables
	start := r.costs["ready"]
	ramped, ok := r.costs["ramped"]
	if !ok {
		return
	}
	opened := float64(n.Ramped)
	t.CPUSeconds = ramped.CPU - start.CPU
	t.CPUPerHandshakeUS = ratio((ramped.CPU-start.CPU)*1e6, opened)
	t.RSSPerConn = ratio(float64(ramped.Anon-start.Anon), opened)
	t.HeapPerConn = ratio(float64(ramped.Heap-start.Heap), opened)
	if drained, ok := r.costs["drained"]; ok {
		t.CPUSeconds = drained.CPU - start.CPU
		if r.result.onlyMessages() {
			t.CPUPerMessageUS = ratio((drained.CPU-ramped.CPU)*1e6, float64(n.Replies))
		}
	}
}

// onlyMessages reports whether the traffic's CPU went into messages alone: in slow there are also
// those of the clients that do not read, and with Reconnect there may be handshakes.
func (r *Result) onlyMessages() bool {
	s := r.Spec.Scenario
	return (s == Count || s == Echo || s == Fanout) && r.Counters.Opened == r.Counters.Ramped
}

// derive computes the figures per connection and per message. Growth counts from before the ramp,
// so it leaves out what the server needs with nobody connected. Of several targets the measured
// process serves a part, which the growth of its descriptors shows.
func (s *ServerUsage) derive(r *Result) {
	if s.Idle.Processes == 0 {
		return
	}
	n := &r.Counters
	share := 1.0
	if grown := s.Idle.FDs - s.Before.FDs; len(r.Spec.Targets) > 1 && grown > 0 {
		share = min(ratio(float64(grown), float64(n.Ramped)), 1)
	}
	conns := share * float64(n.Ramped)
	grown := func(a, b int64) float64 { return ratio(float64(b-a), conns) }
	kernel := func(a, b procfs.Usage) float64 { // machine-wide: all connections
		return max(ratio(float64(b.KernelTCP+b.KernelSlab-a.KernelTCP-a.KernelSlab), float64(n.Ramped)), 0)
	}
	s.AtMostPerConn = grown(0, s.Idle.Anon)
	s.MemoryUnknown = s.unknown(conns)
	known := s.MemoryUnknown == ""
	if known {
		s.UserIdlePerConn, s.RSSIdlePerConn = grown(s.Before.Anon, s.Idle.Anon), grown(s.Before.RSS, s.Idle.RSS)
	}
	s.KernelIdlePerConn = kernel(s.Before, s.Idle)
	s.CPUPerHandshakeUS = ratio((s.Idle.CPUSeconds-s.Before.CPUSeconds)*1e6, conns)
	if s.After.Processes == 0 {
		return
	}
	if known {
		s.UserAfterPerConn, s.RSSAfterPerConn = grown(s.Before.Anon, s.After.Anon), grown(s.Before.RSS, s.After.RSS)
	}
	s.KernelAfterPerConn = kernel(s.Before, s.After)
	traffic := s.After.CPUSeconds - s.Idle.CPUSeconds
	per := func(count int64) float64 { return ratio(traffic*1e6, share*float64(count)) }
	switch {
	case r.onlyMessages():
		s.CPUPerMessageUS = per(n.Replies)
	case r.Spec.Scenario == Idle:
		s.CPUPerBeatUS = per(s.beats)
	case r.Spec.Scenario == Storm:
		s.CPUPerVisitUS = per(n.Opened - n.Ramped)
	case r.Spec.visits():
		s.CPUPerVisitUS = per(n.Churned)
	}
	s.CPUTrafficCores = ratio(traffic, s.After.At.Sub(s.Idle.At).Seconds())
}

const (
	// fewConns are too few to divide growth by: what a runtime takes from the system in one piece,
	// some hundred KiB, would be a kilobyte of each connection.
	fewConns = 500
	// leastBytes is less than any server needs for a connection; the bare floor takes 24 B.
	leastBytes = 16
)

// unknown says why growth does not show what a connection takes; "" when it does. A process that
// held connections before serves new ones from memory that it already has.
func (s *ServerUsage) unknown(conns float64) string {
	growth := float64(s.Idle.Anon - s.Before.Anon)
	const restart = "start the server afresh to measure it"
	switch {
	case conns < fewConns:
		return fmt.Sprintf("%.0f connections are too few to divide the growth by; at least %d are needed",
			conns, fewConns)
	case growth <= 0:
		return "the server did not grow, so it reused memory from before; " + restart
	case growth < leastBytes*conns:
		return fmt.Sprintf("the server grew by %s only, so it reused memory from before; %s",
			units.Bytes(growth), restart)
	case s.Before.Peak > 0 && s.Before.Peak >= s.Idle.RSS:
		return fmt.Sprintf("the server had been as large as %s before, so it may reuse memory; %s",
			units.Bytes(float64(s.Before.Peak)), restart)
	}
	return ""
}
