package bench

import (
	"fmt"
	"sort"
	"strings"
	"time"
)

// maxPoints bounds the timeline: when it is full, two points become one.
const maxPoints = 600

// tickIfSilent adds a point when the workers have not made one for a while.
func (r *run) tickIfSilent() {
	if !r.began.IsZero() && time.Since(r.began).Seconds()-r.point.Seconds > 3*reportEvery.Seconds() {
		r.tick()
	}
}

// tick adds a point to the timeline and tells the progress.
func (r *run) tick() {
	if r.began.IsZero() {
		return
	}
	r.reports = 0
	n, now := r.fleet.sum(), time.Now()
	failed := int64(0)
	for _, v := range n.Reasons {
		failed += v
	}
	p := Point{
		Seconds: now.Sub(r.began).Seconds(), Phase: r.phase, Open: n.Open, Opened: n.Opened, Failed: failed, Replies: n.Replies,
		P50US: r.interval.quantile(50), P99US: r.interval.quantile(99), MaxUS: r.interval.quantile(100),
	}
	since := p.Seconds - r.point.Seconds
	p.RateHz = ratio(float64(p.Replies-r.point.Replies), since)
	p.BeatsHz = ratio(float64(n.Beats-r.point.beats), since)
	p.beats = n.Beats
	r.interval.reset()
	if r.spec.ServerPID != 0 {
		if u, err := sampleCPU(r.spec.ServerPID); err == nil {
			p.ServerCP = ratio(max(u.CPUSeconds-r.server.CPUSeconds, 0), since)
			p.ServerMB = float64(u.RSS) / (1 << 20)
			r.server = u
		}
	}
	r.point = p
	r.result.Timeline = append(r.result.Timeline, p)
	if len(r.result.Timeline) >= maxPoints {
		r.result.Timeline = halve(r.result.Timeline)
	}
	if r.spec.Progress != nil {
		r.spec.Progress(r.progress(p, &n, now))
	}
}

func halve(points []Point) []Point {
	for i := 0; i+1 < len(points); i += 2 {
		a, b := points[i], points[i+1]
		b.RateHz, b.BeatsHz, b.ServerCP = (a.RateHz+b.RateHz)/2, (a.BeatsHz+b.BeatsHz)/2, (a.ServerCP+b.ServerCP)/2
		b.P50US, b.P99US, b.MaxUS = max(a.P50US, b.P50US), max(a.P99US, b.P99US), max(a.MaxUS, b.MaxUS)
		points[i/2] = b
	}
	return points[:len(points)/2]
}

func (r *run) progress(p Point, n *Counters, now time.Time) Progress {
	g := Progress{Point: p, Total: r.spec.Conns, Sent: n.Sent, Elapsed: now.Sub(r.began)}
	in := now.Sub(r.entered)
	switch {
	case r.phase == "ramp":
		g.Fraction = float64(n.Ramped+n.Abandoned) / float64(r.spec.Conns)
		if g.Fraction > 0 {
			g.ETA = time.Duration(float64(in) * (1 - g.Fraction) / g.Fraction)
		}
	case r.length > 0:
		g.Fraction = min(in.Seconds()/r.length.Seconds(), 1)
		g.ETA = max(r.length-in, 0)
	}
	return g
}

// finish puts the result together.
func (r *run) finish() *Result {
	res := r.result
	res.Counters = r.fleet.sum()
	res.Connect, res.Handshake = r.hists["connect"].summary(), r.hists["handshake"].summary()
	res.Message, res.Heartbeat, res.Lag = r.hists["message"].summary(), r.hists["heartbeat"].summary(), r.hists["lag"].summary()
	r.ticker.Stop()
	r.toolUsage()
	if res.Server != nil {
		res.Server.derive(res)
	}
	res.Failures = append(res.Failures, res.judge()...)
	return res
}

func (r *run) toolUsage() {
	t, n := &r.result.Tool, &r.result.Counters
	t.Processes = len(r.fleet.workers)
	start, ramped, drained := r.fleet.costAt("ready"), r.fleet.costAt("ramped"), r.fleet.costAt("drained")
	if start == nil || ramped == nil {
		return
	}
	opened := float64(n.Ramped)
	t.CPUSeconds, t.BurntCPUSeconds = ramped.CPU-start.CPU, ramped.Burnt-start.Burnt
	t.CPUPerHandshakeUS = ratio((ramped.CPU-start.CPU)*1e6, opened)
	t.RSSPerConn = ratio(float64(ramped.Anon-start.Anon), opened)
	t.HeapPerConn = ratio(float64(ramped.Heap-start.Heap), opened)
	if drained != nil {
		t.CPUSeconds, t.BurntCPUSeconds = drained.CPU-start.CPU, drained.Burnt-start.Burnt
		if r.result.onlyMessages() {
			t.CPUPerMessageUS = ratio((drained.CPU-ramped.CPU)*1e6, float64(n.Replies))
		}
	}
}

// onlyMessages reports whether messages are all that the traffic's CPU went into: in slow there are also those of the clients that do
// not read, and with Reconnect there may be handshakes.
func (r *Result) onlyMessages() bool {
	return (r.Spec.Scenario == Count || r.Spec.Scenario == Echo) && r.Counters.Opened == r.Counters.Ramped
}

// derive computes the figures per connection and per message. Growth is taken from before the ramp, so what the
// server needs with nobody connected is not in them. Of several targets the measured process serves a part, which its
// descriptors tell.
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
	kernel := func(a, b Usage) float64 { // machine-wide: all connections
		return ratio(float64(b.KernelTCP+b.KernelSlab-a.KernelTCP-a.KernelSlab), float64(n.Ramped))
	}
	s.UserIdlePerConn, s.RSSIdlePerConn = grown(s.Before.Anon, s.Idle.Anon), grown(s.Before.RSS, s.Idle.RSS)
	s.KernelIdlePerConn = kernel(s.Before, s.Idle)
	s.CPUPerHandshakeUS = ratio((s.Idle.CPUSeconds-s.Before.CPUSeconds)*1e6, conns)
	if s.After.Processes == 0 {
		return
	}
	s.UserAfterPerConn, s.RSSAfterPerConn = grown(s.Before.Anon, s.After.Anon), grown(s.Before.RSS, s.After.RSS)
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
	s.CPUTrafficCores = ratio(traffic, s.After.at.Sub(s.Idle.at).Seconds())
}

// judge says what was wrong, a sentence each.
func (r *Result) judge() (bad []string) {
	n := &r.Counters
	complain := func(count int64, format string, args ...any) {
		if count != 0 {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	complain(n.Abandoned, "%d of %d connections could not be opened: %s.", n.Abandoned, r.Spec.Conns, listCounts(n.Reasons))
	complain(n.Lost, "%d connections ended when they should have been open: %s.", n.Lost, n.endings())
	complain(n.Missing, "%d of %d messages got no reply.", n.Missing, n.Sent)
	complain(n.Duplicated, "%d replies came twice.", n.Duplicated)
	complain(n.Overcount, "%d messages were counted that were not sent.", n.Overcount)
	complain(n.Corrupt, "%d replies were corrupt.", n.Corrupt)
	units := "messages could not be sent"
	if r.Spec.visits() {
		units = "visits could not begin"
	}
	complain(n.Unsent, "%d %s at their time: no connection was free.", n.Unsent, units)
	complain(n.ResumeWrong, "%d sessions came back with a total that was not what had been acknowledged.", n.ResumeWrong)
	complain(n.ByesWrong, "%d sessions were told goodbye with a total that was not what had been acknowledged.", n.ByesWrong)
	complain(n.BeatsMissing, "%d heartbeats did not come (one every %v was expected).", n.BeatsMissing, r.Spec.HeartbeatEvery)
	if r.Spec.Welcome {
		complain(n.Opened-n.Welcomes, "%d connections got no welcome frame.", n.Opened-n.Welcomes)
	}
	if r.Spec.Heartbeats == "expect" && n.Beats == 0 && r.Complete && r.TrafficSeconds > 1.5*r.Spec.HeartbeatEvery.Seconds() {
		complain(1, "no heartbeat came at all.")
	}
	if open := n.Sent - n.Replies - n.Missing - n.Unanswered; r.Tool.Died == 0 && (open < 0 || open > n.Corrupt) {
		complain(1, "the books do not balance: %d sent, %d answered, %d missing, %d unanswered, %d corrupt; this is a fault of the load generator.",
			n.Sent, n.Replies, n.Missing, n.Unanswered, n.Corrupt)
	}
	for _, o := range r.Spec.SLO {
		l := map[string]Latency{"connect": r.Connect, "handshake": r.Handshake, "message": r.Message, "heartbeat": r.Heartbeat}[o.Metric]
		got := time.Duration(l.At(o.Percentile)) * time.Microsecond
		if l.Count == 0 && r.Complete {
			complain(1, "the objective %v has nothing to be measured by.", o)
		} else if got > o.Limit {
			complain(1, "late: %v was asked for, and it was %v.", o, got)
		}
	}
	return bad
}

// listCounts writes reasons with their numbers, the most frequent first.
func listCounts(m map[string]int64) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return m[keys[i]] > m[keys[j]] || m[keys[i]] == m[keys[j]] && keys[i] < keys[j] })
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s %d×", k, m[k])
	}
	return strings.Join(keys, ", ")
}

// endings is why connections ended: closed by the server, or by us for what it sent.
func (n *Counters) endings() string {
	var why []string
	if len(n.Closes) > 0 {
		why = append(why, "closed by the server with "+closeCodes(n.Closes))
	}
	if len(n.Faults) > 0 {
		why = append(why, listCounts(n.Faults))
	}
	return strings.Join(why, "; ")
}

func closeCodes(m map[string]int64) string {
	named := make(map[string]int64, len(m))
	for code, n := range m {
		if name := closeNames[code]; name != "" {
			code += " (" + name + ")"
		}
		named[code] = n
	}
	return listCounts(named)
}

var closeNames = map[string]string{
	"1000": "normal", "1001": "going away", "1002": "protocol error", "1003": "unsupported", "1005": "no code", "1006": "no Close frame",
	"1007": "not UTF-8", "1008": "policy", "1009": "too big", "1011": "internal error", "1012": "restart", "1013": "try again later",
}
