// Package report writes what package load found: as text, JSON, charts in SVG, and HTML pages that
// need nothing but themselves. It also shows the progress of a run.
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

// WriteHTML writes the page of one run. It fails when w does, or when a histogram of r cannot be
// decoded.
func WriteHTML(w io.Writer, r *load.Result) error {
	charts, err := resultCharts(r)
	if err != nil {
		return err
	}
	p := Page{
		Title: fmt.Sprintf("sluice-bench: %s, %s connections",
			r.Spec.Scenario, units.Number(r.Spec.Conns)),
		Verdict: verdict(r),
		Tiles:   resultTiles(r),
		Lead: []string{
			some(r.Spec.Targets),
			units.Day(r.Started) + " · " + MachineLine(r.Machine),
		},
		Sections: []Section{
			{Charts: charts, Tables: []Table{latencyTable(r)}},
			{Title: "What was counted", Tables: counterTables(r)},
			{Title: "What it cost", Tables: costTables(r)},
			{Title: "What was asked for", Tables: []Table{specTable(&r.Spec)}},
		},
		Foot: []string{"Latencies of messages count from the intended send time when a rate was set, " +
			"and from the send otherwise."},
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
		{"connections", units.Number(r.Counters.Open),
			fmt.Sprintf("of %s, open at the end", units.Number(r.Spec.Conns))},
		{"ramp", units.Compact(r.ConnectionsPerSecond()) + "/s", fmt.Sprintf("%.1f s in all", r.RampSeconds)},
	}
	if r.Counters.Sent > 0 {
		note := units.Number(r.Counters.Timely) + " right replies in " + units.Seconds(r.TrafficSeconds)
		if r.Spec.Rate > 0 {
			note += ", at " + units.Compact(r.Spec.Rate) + "/s asked"
		}
		tiles = append(tiles, Tile{"messages", units.Compact(r.MessagesPerSecond()) + "/s", note})
	}
	if m := r.Message; m.Count > 0 {
		tiles = append(tiles, Tile{"message p99", units.Micros(float64(m.P99US)),
			"p50 " + units.Micros(float64(m.P50US)) + ", max " + units.Micros(float64(m.MaxUS))})
	}
	if h := r.Heartbeat; h.Count > 0 {
		tiles = append(tiles, Tile{"heartbeat jitter p99", units.Micros(float64(h.P99US)),
			units.Number(r.Counters.Beats) + " heartbeats"})
	}
	if s := r.Server; s != nil {
		note := "a connection, after traffic " + orDash(s.UserAfterPerConn, units.Bytes)
		if s.MemoryUnknown != "" {
			note = "a connection: " + s.MemoryUnknown
		}
		tiles = append(tiles, Tile{"server memory", orDash(s.UserIdlePerConn, units.Bytes), note},
			Tile{"server CPU", orDash(s.CPUPerHandshakeUS, units.Micros), "a handshake"})
		if s.CPUPerMessageUS > 0 {
			tiles = append(tiles, Tile{"server CPU", units.Micros(s.CPUPerMessageUS), "a message"})
		}
	}
	return tiles
}

// namedLatency is a latency with its name in tables and charts.
type namedLatency struct {
	name string
	load.Latency
}

// named are the latencies of r that have any values.
func named(r *load.Result) (all []namedLatency) {
	for _, l := range []namedLatency{
		{"message", r.Message}, {"handshake", r.Handshake}, {"connect", r.Connect},
		{"heartbeat jitter", r.Heartbeat}, {"told bye", r.Bye}, {"sent late by", r.Lag},
	} {
		if l.Count > 0 {
			all = append(all, l)
		}
	}
	return all
}

// latencyTable begins with the columns that a narrow screen shows without scrolling.
func latencyTable(r *load.Result) Table {
	t := Table{Title: "Latencies", Head: []string{"", "p50", "p99", "max", "p90", "p99.9", "p99.99",
		"min", "mean", "count"}}
	for _, l := range named(r) {
		cells := []string{l.name}
		for _, us := range []int64{l.P50US, l.P99US, l.MaxUS, l.P90US, l.P999US, l.P9999, l.MinUS} {
			cells = append(cells, units.Micros(float64(us)))
		}
		cells = append(cells, units.Micros(l.MeanUS), units.Number(l.Count))
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
		Chart: Chart{Title: "Latency", Width: chartWidth, Height: chartHeight,
			Subtitle: "by percentile; each nine takes as much room as the one before"},
		X: Axis{Label: "percentile", Scale: Percentiles, Format: units.Percent},
		Y: Axis{Scale: Log, Format: units.Micros},
	}
	for i, l := range named(r) {
		points, err := PercentileCurve(l.Latency)
		if err != nil {
			return nil, err
		}
		latency.Curves = append(latency.Curves,
			Curve{Name: l.name, Color: i, Points: points, Dashed: l.name == "sent late by"})
	}
	if len(latency.Curves) > 0 {
		charts = append(charts, latency)
	}
	if len(r.Timeline) > 0 {
		charts = append(charts, timelineCharts(r)...)
	}
	return DrawAll(charts...)
}

// course is one curve of the timeline.
type course struct {
	name  string
	value func(p load.Point) float64
}

// over makes a chart of the timeline.
func over(r *load.Result, title, subtitle string, y Axis, courses ...course) Lines {
	l := Lines{
		Chart: Chart{Title: title, Subtitle: subtitle, Width: chartWidth, Height: chartHeight},
		X:     Axis{Label: "seconds since the start", FromZero: true},
		Y:     y,
	}
	for i, c := range courses {
		curve := Curve{Name: c.name, Color: i}
		for _, p := range r.Timeline {
			curve.Points = append(curve.Points, XY{X: p.Seconds, Y: c.value(p)})
		}
		l.Curves = append(l.Curves, curve)
	}
	return l
}

func timelineCharts(r *load.Result) (charts []drawing) {
	add := func(l Lines) {
		if l.Shows() { // an interrupted run has not measured everything
			charts = append(charts, l)
		}
	}
	open := []course{{"open", func(p load.Point) float64 { return float64(p.Open) }}}
	if r.Timeline[len(r.Timeline)-1].Failed > 0 {
		failed := func(p load.Point) float64 { return float64(p.Failed) }
		open = append(open, course{"failed attempts", failed})
	}
	add(over(r, "Connections", "open at each moment, from the first connect to the last close",
		Axis{FromZero: true}, open...))
	if r.Counters.Replies > 0 {
		add(over(r, "Messages", "right replies per second", Axis{FromZero: true},
			course{"", func(p load.Point) float64 { return p.RateHz }}))
		add(over(r, "Latency over time", "of the messages of each moment",
			Axis{Scale: Log, Format: units.Micros},
			course{"p50", func(p load.Point) float64 { return float64(p.P50US) }},
			course{"p99", func(p load.Point) float64 { return float64(p.P99US) }},
			course{"max", func(p load.Point) float64 { return float64(p.MaxUS) }}))
	}
	us := Axis{Scale: Log, Format: units.Micros}
	add(over(r, "Handshakes and connects over time", "those of each moment; the system calls of a connect "+
		"are the tool's own cost", us,
		course{"handshake p99", func(p load.Point) float64 { return float64(p.HandshakeUS) }},
		course{"connect, on average", func(p load.Point) float64 { return p.DialUS }}))
	if r.Heartbeat.Count > 0 {
		add(over(r, "Heartbeats", "a second", Axis{FromZero: true},
			course{"", func(p load.Point) float64 { return p.BeatsHz }}))
		add(over(r, "Heartbeats over time", "early or late by, p99 of each moment", us,
			course{"", func(p load.Point) float64 { return float64(p.BeatUS) }}))
	}
	cpu := []course{{"this tool", func(p load.Point) float64 { return p.ToolCP }}}
	if r.Server != nil {
		mib := func(v float64) string { return units.Trim(v) + " MiB" }
		add(over(r, "Server memory", "resident, all of its processes", Axis{FromZero: true, Format: mib},
			course{"", func(p load.Point) float64 { return p.ServerMB }}))
		server := course{"server", func(p load.Point) float64 { return p.ServerCP }}
		cpu = append([]course{server}, cpu...)
	}
	add(over(r, "CPU", "cores in use", Axis{FromZero: true}, cpu...))
	return charts
}

// Shows reports whether there is any point to draw.
func (l Lines) Shows() bool {
	var xs, ys span
	for _, c := range l.Curves {
		c.placed(l.X.Scale, l.Y.Scale, &xs, &ys)
	}
	return !xs.empty()
}

func specTable(s *load.Spec) Table {
	t := Table{}
	add := func(name, value string) { t.Rows = append(t.Rows, Row{Cells: []string{name, value}}) }
	const most = 8
	for _, target := range s.Targets[:min(most, len(s.Targets))] {
		add("target", target)
	}
	if n := len(s.Targets) - most; n > 0 {
		add("target", fmt.Sprintf("… and %d more", n))
	}
	add("scenario", string(s.Scenario))
	add("connections", units.Number(s.Conns))
	if s.AutoRamp {
		add("ramp", "as fast as keeps p90 of handshakes below "+s.RampLatency.String())
	} else {
		add("ramp", units.Compact(s.Ramp)+"/s")
	}
	if s.Scenario == load.Fanout {
		add("publish", units.Compact(s.Rate)+"/s to "+s.Publish)
		add("topics", units.Number(s.Topics))
	} else if s.Rate > 0 {
		add("open loop", units.Compact(s.Rate)+" messages/s")
	} else {
		add("closed loop", units.Number(s.Window)+" outstanding")
	}
	add("duration", s.Duration.Round(time.Millisecond).String())
	if s.Message != "" {
		add("message", s.Message)
	} else {
		add("payload", fmt.Sprintf("%d bytes", max(s.Payload, 0)))
	}
	if s.Expect != "" {
		add("expected reply", s.Expect)
	}
	for _, o := range s.SLO {
		add("objective", o.String())
	}
	// Headers may carry credentials, and reports are passed around: show their names only.
	for name := range s.Headers {
		add("header", name)
	}
	return t
}

// some lists a few of many targets.
func some(targets []string) string {
	const most = 4
	if len(targets) <= most {
		return strings.Join(targets, " ")
	}
	return fmt.Sprintf("%s … (%d URLs)", strings.Join(targets[:most-1], " "), len(targets))
}
