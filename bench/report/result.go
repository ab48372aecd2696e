// Package report draws what the load generator found out: charts as SVG, and
// one HTML page that needs nothing but itself.
package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"sluice/bench"
)

// The size of a chart on the page, in CSS pixels before it is scaled.
const chartWidth, chartHeight = 560, 320

// WriteHTML writes the page of one run. It fails when w does, or when a
// histogram of r cannot be read.
func WriteHTML(w io.Writer, r *bench.Result) error {
	charts, err := resultCharts(r)
	if err != nil {
		return err
	}
	p := Page{
		Title: fmt.Sprintf("sluice-bench: %s, %s connections", r.Spec.Scenario, Number(int64(r.Spec.Conns))),
		Lead: []string{
			strings.Join(r.Spec.Targets, " "),
			Day(r.Started) + " · " + MachineLine(r.Machine),
		},
		Verdict: verdict(r),
		Tiles:   resultTiles(r),
		Sections: []Section{
			{Charts: charts, Tables: []Table{latencyTable(r)}},
			{Title: "What was counted", Tables: counterTables(r)},
			{Title: "What it cost", Tables: costTables(r)},
			{Title: "What was asked for", Tables: []Table{specTable(r.Spec)}},
		},
		Foot: []string{"Latencies of messages count from the intended send time when a rate was set, and from the send otherwise."},
	}
	return p.Write(w)
}

func verdict(r *bench.Result) *Verdict {
	switch {
	case !r.OK():
		return &Verdict{false, "The run failed.", r.Failures}
	case !r.Complete:
		return &Verdict{false, "The run was interrupted; this is what it found until then.", nil}
	}
	words := "All as it should be: nothing lost"
	if !r.Spec.NoVerify {
		words += ", nothing twice"
	}
	if len(r.Spec.SLO) > 0 {
		words += ", nothing late"
	}
	return &Verdict{true, words + ".", nil}
}

func resultTiles(r *bench.Result) []Tile {
	tiles := []Tile{
		{"connections", Number(r.Counters.Open), fmt.Sprintf("of %s, open at the end", Number(int64(r.Spec.Conns)))},
		{"ramp", Compact(r.ConnectionsPerSecond()) + "/s", fmt.Sprintf("%.1f s in all", r.RampSeconds)},
	}
	if r.Counters.Sent > 0 {
		tiles = append(tiles, Tile{"messages", Compact(r.MessagesPerSecond()) + "/s", Number(r.Counters.Replies) + " right replies"})
	}
	if m := r.Message; m.Count > 0 {
		tiles = append(tiles, Tile{"message p99", Micros(float64(m.P99US)), "p50 " + Micros(float64(m.P50US)) + ", max " + Micros(float64(m.MaxUS))})
	}
	if h := r.Heartbeat; h.Count > 0 {
		tiles = append(tiles, Tile{"heartbeat jitter p99", Micros(float64(h.P99US)), Number(r.Counters.Beats) + " heartbeats"})
	}
	if s := r.Server; s != nil {
		tiles = append(tiles,
			Tile{"server memory", orDash(s.UserIdlePerConn, Bytes), "a connection, after traffic " + orDash(s.UserAfterPerConn, Bytes)},
			Tile{"server CPU", orDash(s.CPUPerHandshakeUS, Micros), "a handshake"})
		if s.CPUPerMessageUS > 0 {
			tiles = append(tiles, Tile{"server CPU", Micros(s.CPUPerMessageUS), "a message"})
		}
	}
	return tiles
}

// named are the latencies of r that have any values.
func named(r *bench.Result) (all []struct {
	name string
	bench.Latency
}) {
	for _, l := range []struct {
		name string
		bench.Latency
	}{
		{"message", r.Message}, {"handshake", r.Handshake}, {"connect", r.Connect},
		{"heartbeat jitter", r.Heartbeat}, {"tool's own lag", r.Lag},
	} {
		if l.Count > 0 {
			all = append(all, l)
		}
	}
	return all
}

func latencyTable(r *bench.Result) Table {
	t := Table{Title: "Latencies", Head: []string{"", "count", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"}}
	for _, l := range named(r) {
		cells := []string{l.name, Number(l.Count), Micros(float64(l.MinUS)), Micros(l.MeanUS)}
		for _, us := range []int64{l.P50US, l.P90US, l.P99US, l.P999US, l.P9999, l.MaxUS} {
			cells = append(cells, Micros(float64(us)))
		}
		t.Rows = append(t.Rows, Row{Cells: cells})
	}
	return t
}

// PercentileCurve is l as points for a chart with a Percentiles axis. It fails
// when l's histogram cannot be read.
func PercentileCurve(l bench.Latency) ([]XY, error) {
	if len(l.HDR) == 0 {
		var points []XY
		for _, p := range []struct {
			at float64
			us int64
		}{{0, l.MinUS}, {50, l.P50US}, {75, l.P75US}, {90, l.P90US}, {95, l.P95US}, {99, l.P99US}, {99.9, l.P999US}, {99.99, l.P9999}} {
			points = append(points, XY{X: p.at, Y: float64(p.us)})
		}
		return points, nil
	}
	h, err := hdr.Decode(l.HDR)
	if err != nil {
		return nil, fmt.Errorf("read the histogram of a latency: %w", err)
	}
	var points []XY
	// Steps of a tenth of a nine, as far as there are values to tell one from the next.
	for p, part := 0.0, 1.0; ; part *= 0.794328 {
		p = 100 * (1 - part)
		points = append(points, XY{X: p, Y: float64(h.ValueAtQuantile(p))})
		if part*float64(h.TotalCount()) < 1 {
			return points, nil
		}
	}
}

func resultCharts(r *bench.Result) ([]template.HTML, error) {
	var charts []drawing
	latency := Lines{
		Chart: Chart{Title: "Latency", Subtitle: "by percentile; each nine takes as much room as the one before", Width: chartWidth, Height: chartHeight},
		X:     Axis{Label: "percentile", Scale: Percentiles, Format: Percent},
		Y:     Axis{Scale: Log, Format: Micros},
	}
	for i, l := range named(r) {
		points, err := PercentileCurve(l.Latency)
		if err != nil {
			return nil, err
		}
		latency.Curves = append(latency.Curves, Curve{Name: l.name, Color: i, Points: points, Dashed: l.name == "tool's own lag"})
	}
	if len(latency.Curves) > 0 {
		charts = append(charts, latency)
	}
	if len(r.Timeline) > 0 {
		charts = append(charts, timelineCharts(r)...)
	}
	return DrawAll(charts...)
}

// over makes a chart of the run's course.
func over(r *bench.Result, title, subtitle string, y Axis, curves ...courseOf) Lines {
	l := Lines{
		Chart: Chart{Title: title, Subtitle: subtitle, Width: chartWidth, Height: chartHeight},
		X:     Axis{Label: "seconds since the start", FromZero: true},
		Y:     y,
	}
	for i, c := range curves {
		curve := Curve{Name: c.name, Color: i}
		for _, p := range r.Timeline {
			curve.Points = append(curve.Points, XY{X: p.Seconds, Y: c.value(p)})
		}
		l.Curves = append(l.Curves, curve)
	}
	return l
}

type courseOf struct {
	name  string
	value func(p bench.Point) float64
}

func timelineCharts(r *bench.Result) (charts []drawing) {
	open := []courseOf{{"open", func(p bench.Point) float64 { return float64(p.Open) }}}
	if r.Timeline[len(r.Timeline)-1].Failed > 0 {
		open = append(open, courseOf{"failed attempts", func(p bench.Point) float64 { return float64(p.Failed) }})
	}
	charts = append(charts, over(r, "Connections", "open at each moment, from the first connect to the last close", Axis{FromZero: true}, open...))
	if r.Counters.Replies > 0 {
		charts = append(charts,
			over(r, "Messages", "right replies per second", Axis{FromZero: true},
				courseOf{"", func(p bench.Point) float64 { return p.RateHz }}),
			over(r, "Latency over time", "of the messages of each moment", Axis{Scale: Log, Format: Micros},
				courseOf{"p50", func(p bench.Point) float64 { return float64(p.P50US) }},
				courseOf{"p99", func(p bench.Point) float64 { return float64(p.P99US) }},
				courseOf{"max", func(p bench.Point) float64 { return float64(p.MaxUS) }}))
	}
	if r.Server != nil {
		charts = append(charts,
			over(r, "Server memory", "resident, all of its processes", Axis{FromZero: true, Format: func(v float64) string { return trim(v) + " MiB" }},
				courseOf{"", func(p bench.Point) float64 { return p.ServerMB }}),
			over(r, "Server CPU", "cores in use, all of its processes", Axis{FromZero: true},
				courseOf{"", func(p bench.Point) float64 { return p.ServerCP }}))
	}
	// What the tool's clock did not reach has nothing to show.
	kept := charts[:0]
	for _, c := range charts {
		if l := c.(Lines); l.Shows() {
			kept = append(kept, c)
		}
	}
	return kept
}

// Shows reports whether there is any point to draw.
func (l Lines) Shows() bool {
	var xs, ys span
	for _, c := range l.Curves {
		c.placed(l.X.Scale, l.Y.Scale, &xs, &ys)
	}
	return !xs.empty()
}

func specTable(s bench.Spec) Table {
	t := Table{}
	add := func(name, value string) { t.Rows = append(t.Rows, Row{Cells: []string{name, value}}) }
	for _, target := range s.Targets {
		add("target", target)
	}
	add("scenario", string(s.Scenario))
	add("connections", Number(int64(s.Conns)))
	add("ramp", Compact(s.Ramp)+"/s")
	if s.Rate > 0 {
		add("open loop", Compact(s.Rate)+" messages/s")
	} else {
		add("closed loop", Number(int64(s.Window))+" outstanding")
	}
	add("duration", s.Duration.Round(time.Millisecond).String())
	add("payload", fmt.Sprintf("%d bytes", s.Payload))
	for _, o := range s.SLO {
		add("objective", o.String())
	}
	// Headers may carry credentials, and a report is passed around: their names must do.
	for name := range s.Headers {
		add("header", name)
	}
	return t
}
