// Package report draws what the load generator found out: charts as SVG, and
// one HTML page that needs nothing but itself.
package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"sluice/bench/load"
	"sluice/bench/units"
)

// The size of a chart on the page, in CSS pixels before it is scaled.
const chartWidth, chartHeight = 560, 320

// WriteHTML writes the page of one run. It fails when w does, or when a
// histogram of r cannot be read.
func WriteHTML(w io.Writer, r *load.Result) error {
	charts, err := resultCharts(r)
	if err != nil {
		return err
	}
	p := Page{
		Title: fmt.Sprintf("sluice-bench: %s, %s connections", r.Spec.Scenario, units.Number(int64(r.Spec.Conns))),
		Lead: []string{
			strings.Join(r.Spec.Targets, " "),
			units.Day(r.Started) + " · " + MachineLine(r.Machine),
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

func verdict(r *load.Result) *Verdict {
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

func resultTiles(r *load.Result) []Tile {
	tiles := []Tile{
		{"connections", units.Number(r.Counters.Open), fmt.Sprintf("of %s, open at the end", units.Number(int64(r.Spec.Conns)))},
		{"ramp", units.Compact(r.ConnectionsPerSecond()) + "/s", fmt.Sprintf("%.1f s in all", r.RampSeconds)},
	}
	if r.Counters.Sent > 0 {
		tiles = append(tiles, Tile{"messages", units.Compact(r.MessagesPerSecond()) + "/s", units.Number(r.Counters.Replies) + " right replies"})
	}
	if m := r.Message; m.Count > 0 {
		tiles = append(tiles, Tile{"message p99", units.Micros(float64(m.P99US)), "p50 " + units.Micros(float64(m.P50US)) + ", max " + units.Micros(float64(m.MaxUS))})
	}
	if h := r.Heartbeat; h.Count > 0 {
		tiles = append(tiles, Tile{"heartbeat jitter p99", units.Micros(float64(h.P99US)), units.Number(r.Counters.Beats) + " heartbeats"})
	}
	if s := r.Server; s != nil {
		tiles = append(tiles,
			Tile{"server memory", orDash(s.UserIdlePerConn, units.Bytes), "a connection, after traffic " + orDash(s.UserAfterPerConn, units.Bytes)},
			Tile{"server CPU", orDash(s.CPUPerHandshakeUS, units.Micros), "a handshake"})
		if s.CPUPerMessageUS > 0 {
			tiles = append(tiles, Tile{"server CPU", units.Micros(s.CPUPerMessageUS), "a message"})
		}
	}
	return tiles
}

// named are the latencies of r that have any values.
func named(r *load.Result) (all []struct {
	name string
	load.Latency
}) {
	for _, l := range []struct {
		name string
		load.Latency
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

func latencyTable(r *load.Result) Table {
	t := Table{Title: "Latencies", Head: []string{"", "count", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"}}
	for _, l := range named(r) {
		cells := []string{l.name, units.Number(l.Count), units.Micros(float64(l.MinUS)), units.Micros(l.MeanUS)}
		for _, us := range []int64{l.P50US, l.P90US, l.P99US, l.P999US, l.P9999, l.MaxUS} {
			cells = append(cells, units.Micros(float64(us)))
		}
		t.Rows = append(t.Rows, Row{Cells: cells})
	}
	return t
}

// PercentileCurve is l as points for a chart with a Percentiles axis. It fails when l's histogram
// cannot be decoded.
func PercentileCurve(l load.Latency) ([]XY, error) {
	curve, err := l.Curve()
	if err != nil {
		return nil, err
	}
	points := make([]XY, len(curve))
	for i, q := range curve {
		points[i] = XY{X: q.Percent, Y: float64(q.US)}
	}
	return points, nil
}

func resultCharts(r *load.Result) ([]template.HTML, error) {
	var charts []drawing
	latency := Lines{
		Chart: Chart{Title: "Latency", Subtitle: "by percentile; each nine takes as much room as the one before", Width: chartWidth, Height: chartHeight},
		X:     Axis{Label: "percentile", Scale: Percentiles, Format: units.Percent},
		Y:     Axis{Scale: Log, Format: units.Micros},
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
func over(r *load.Result, title, subtitle string, y Axis, curves ...courseOf) Lines {
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
	value func(p load.Point) float64
}

func timelineCharts(r *load.Result) (charts []drawing) {
	open := []courseOf{{"open", func(p load.Point) float64 { return float64(p.Open) }}}
	if r.Timeline[len(r.Timeline)-1].Failed > 0 {
		open = append(open, courseOf{"failed attempts", func(p load.Point) float64 { return float64(p.Failed) }})
	}
	charts = append(charts, over(r, "Connections", "open at each moment, from the first connect to the last close", Axis{FromZero: true}, open...))
	if r.Counters.Replies > 0 {
		charts = append(charts,
			over(r, "Messages", "right replies per second", Axis{FromZero: true},
				courseOf{"", func(p load.Point) float64 { return p.RateHz }}),
			over(r, "Latency over time", "of the messages of each moment", Axis{Scale: Log, Format: units.Micros},
				courseOf{"p50", func(p load.Point) float64 { return float64(p.P50US) }},
				courseOf{"p99", func(p load.Point) float64 { return float64(p.P99US) }},
				courseOf{"max", func(p load.Point) float64 { return float64(p.MaxUS) }}))
	}
	if r.Server != nil {
		charts = append(charts,
			over(r, "Server memory", "resident, all of its processes", Axis{FromZero: true, Format: func(v float64) string { return units.Trim(v) + " MiB" }},
				courseOf{"", func(p load.Point) float64 { return p.ServerMB }}),
			over(r, "Server CPU", "cores in use, all of its processes", Axis{FromZero: true},
				courseOf{"", func(p load.Point) float64 { return p.ServerCP }}))
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

func specTable(s load.Spec) Table {
	t := Table{}
	add := func(name, value string) { t.Rows = append(t.Rows, Row{Cells: []string{name, value}}) }
	for _, target := range s.Targets {
		add("target", target)
	}
	add("scenario", string(s.Scenario))
	add("connections", units.Number(int64(s.Conns)))
	add("ramp", units.Compact(s.Ramp)+"/s")
	if s.Rate > 0 {
		add("open loop", units.Compact(s.Rate)+" messages/s")
	} else {
		add("closed loop", units.Number(int64(s.Window))+" outstanding")
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
