package load

import (
	"time"

	"sluice/bench/procfs"
)

// maxPoints bounds the timeline: when it is full, two points become one.
const maxPoints = 600

// tickIfSilent adds a point when the workers have not made one for a while.
func (r *run) tickIfSilent() {
	if !r.began.IsZero() && time.Since(r.began).Seconds()-r.point.Seconds > 3*reportEvery.Seconds() {
		r.tick(time.Now())
	}
}

// tick adds a point to the timeline and shows the progress. A point too close to the last one is
// left to the next: a few replies within a millisecond would be millions a second.
func (r *run) tick(now time.Time) {
	if r.began.IsZero() || now.Sub(r.began).Seconds()-r.point.Seconds < reportEvery.Seconds()/2 {
		return
	}
	r.reports = 0
	n, t := r.crew.sum(), &r.totals
	failed := int64(0)
	for _, v := range n.Reasons {
		failed += v
	}
	p := Point{
		Seconds: now.Sub(r.began).Seconds(), Phase: r.phase,
		Open: n.Open, Opened: n.Opened, Failed: failed, Replies: n.Replies,
	}
	l := r.crew.latencies
	p.P50US, p.P99US, p.MaxUS = l.message.takePoint()
	_, p.HandshakeUS, _ = l.handshake.takePoint()
	_, p.BeatUS, _ = l.heartbeat.takePoint()
	since := p.Seconds - r.point.Seconds
	tool := processCPU()
	p.RateHz = ratio(float64(p.Replies-r.point.Replies), since)
	p.BeatsHz = ratio(float64(n.Beats-t.beats), since)
	p.DialUS = ratio(float64(n.DialNS-t.dialNS)/1e3, float64(n.Attempts-t.attempts))
	p.ToolCP = ratio((tool - t.tool).Seconds(), since)
	t.beats, t.dialNS, t.attempts, t.tool = n.Beats, n.DialNS, n.Attempts, tool
	if r.spec.ServerPID != 0 {
		if u, err := procfs.SampleCPU(r.spec.measured()...); err == nil {
			p.ServerCP = ratio(max(u.CPUSeconds-t.server.CPUSeconds, 0), since)
			p.ServerMB = float64(u.RSS) / (1 << 20)
			t.server = u
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

// halve makes one point of each two. Rates are weighed by the time that each stands for.
func halve(points []Point) []Point {
	start := 0.0
	for i := 0; i+1 < len(points); i += 2 {
		a, b := points[i], points[i+1]
		first, second := a.Seconds-start, b.Seconds-a.Seconds
		mean := func(x, y float64) float64 { return ratio(x*first+y*second, first+second) }
		b.RateHz, b.BeatsHz = mean(a.RateHz, b.RateHz), mean(a.BeatsHz, b.BeatsHz)
		b.ServerCP, b.ToolCP = mean(a.ServerCP, b.ServerCP), mean(a.ToolCP, b.ToolCP)
		b.DialUS = max(a.DialUS, b.DialUS)
		b.HandshakeUS, b.BeatUS = max(a.HandshakeUS, b.HandshakeUS), max(a.BeatUS, b.BeatUS)
		b.P50US, b.P99US = max(a.P50US, b.P50US), max(a.P99US, b.P99US)
		b.MaxUS = max(a.MaxUS, b.MaxUS)
		points[i/2], start = b, b.Seconds
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
