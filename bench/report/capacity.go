package report

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"sluice/bench/load"
	"sluice/bench/units"
)

// WriteCapacityText writes what a search for the limit found, for a terminal.
func WriteCapacityText(w io.Writer, c *load.Capacity) error {
	var b strings.Builder
	held, limit := capacityWords(c)
	fmt.Fprintf(&b, "\n  %s\n  %s\n\n", held, limit)
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([]Row{{Cells: capacityHead(c)}}, capacityRows(c)...) {
		fmt.Fprintf(tw, "  %s\t\n", strings.Join(row.Cells, "\t"))
	}
	tw.Flush()
	_, err := io.WriteString(w, b.String())
	return err
}

func capacityWords(c *load.Capacity) (held, limit string) {
	held = fmt.Sprintf("held: %s connections", units.Number(c.Held))
	if c.Held == 0 {
		held = "held: no connections, not even in the first step"
	}
	return held, fmt.Sprintf("limit: %s. %s", c.LimitedBy, c.Why)
}

func capacityHead(c *load.Capacity) []string {
	head := []string{"connections", "open", "p50", "p99", "max", "ramp", "CPU in use", "memory left"}
	if c.Spec.ServerPID != 0 {
		head = append(head, "server RSS", "descriptors")
	}
	return append(head, "limit")
}

func capacityRows(c *load.Capacity) (rows []Row) {
	for _, s := range c.Steps {
		cells := []string{units.Number(s.Conns), units.Number(s.Open)}
		for _, us := range []int64{s.Message.P50US, s.Message.P99US, s.Message.MaxUS} {
			cells = append(cells, orDash(float64(us), units.Micros))
		}
		cells = append(cells, orDash(s.RampSeconds, units.Seconds), fmt.Sprintf("%.0f %%", 100*s.CPU),
			units.Bytes(float64(s.Available)))
		if c.Spec.ServerPID != 0 {
			cells = append(cells, orDash(float64(s.Server.RSS), units.Bytes), units.Number(s.Server.FDs))
		}
		rows = append(rows, Row{Strong: s.Conns == c.Held, Cells: append(cells, s.LimitedBy)})
	}
	return rows
}

// WriteCapacityJSON writes what a search for the limit found, as indented JSON, without the values
// of request headers.
func WriteCapacityJSON(w io.Writer, c *load.Capacity) error {
	shown := *c
	shown.Spec.Headers = make(http.Header, len(c.Spec.Headers))
	for name := range c.Spec.Headers {
		shown.Spec.Headers[name] = []string{"…"}
	}
	return writeJSON(w, &shown)
}

// WriteCapacityHTML writes the page of a search for the limit.
func WriteCapacityHTML(w io.Writer, c *load.Capacity) error {
	held, limit := capacityWords(c)
	charts, err := DrawAll(capacityCharts(c)...)
	if err != nil {
		return err
	}
	p := Page{
		Title:   "sluice-bench: capacity",
		Verdict: &Verdict{Good: c.OK(), Text: held, Reasons: []string{limit}},
		Tiles: []Tile{
			{"connections held", units.Number(c.Held), "the most at which a step passed"},
			{"limit", c.LimitedBy, "what made the next step fail"},
		},
		Lead: []string{some(c.Spec.Targets), units.Day(c.Started) + " · " + MachineLine(c.Machine)},
		Sections: []Section{
			{Charts: charts, Tables: []Table{{Title: "Steps", Head: capacityHead(c), Rows: capacityRows(c)}}},
			{Title: "What was asked for", Tables: []Table{specTable(&c.Spec)}},
		},
		Foot: []string{"Steps are in the order in which they were made: after the first that failed, " +
			"the distance to the last that passed is halved."},
	}
	return p.Write(w)
}

func capacityCharts(c *load.Capacity) (charts []drawing) {
	steps := slices.Clone(c.Steps)
	slices.SortStableFunc(steps, func(a, b load.CapacityStep) int { return int(a.Open - b.Open) })
	chart := func(title, subtitle string, y Axis, curves map[string]func(s *load.CapacityStep) float64, names ...string) {
		l := Lines{Chart: Chart{Title: title, Subtitle: subtitle, Width: chartWidth, Height: chartHeight},
			X: Axis{Label: "connections open", FromZero: true}, Y: y}
		for i, name := range names {
			curve := Curve{Name: name, Color: i, Dots: true}
			for k := range steps {
				curve.Points = append(curve.Points, XY{X: float64(steps[k].Open), Y: curves[name](&steps[k])})
			}
			l.Curves = append(l.Curves, curve)
		}
		if l.Shows() {
			charts = append(charts, l)
		}
	}
	type of = map[string]func(s *load.CapacityStep) float64
	chart("Latency", fmt.Sprintf("of the probe, %s messages/s", units.Compact(c.Spec.Rate)),
		Axis{Scale: Log, Format: units.Micros}, of{
			"p50": func(s *load.CapacityStep) float64 { return float64(s.Message.P50US) },
			"p99": func(s *load.CapacityStep) float64 { return float64(s.Message.P99US) },
			"max": func(s *load.CapacityStep) float64 { return float64(s.Message.MaxUS) },
		}, "p50", "p99", "max")
	percent := func(v float64) string { return units.Trim(v) + " %" }
	chart("CPU", "of the machine, during ramp and probe", Axis{FromZero: true, Format: percent}, of{
		"": func(s *load.CapacityStep) float64 { return 100 * s.CPU },
	}, "")
	if c.Spec.ServerPID != 0 {
		chart("Server memory", "resident", Axis{FromZero: true, Format: units.Bytes}, of{
			"": func(s *load.CapacityStep) float64 { return float64(s.Server.RSS) },
		}, "")
	}
	return charts
}
