package compare

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"

	"sluice/bench/baseline"
	"sluice/bench/report"
	"sluice/bench/units"
)

const (
	chartWidth  = 560
	chartHeight = 330
)

// colour of a server is the same in all charts of a comparison; that of the baselines does not
// depend on which of them took part.
func (r *Report) colour(name string) int {
	known := append(append([]string{Sluice}, baseline.Names()...), OneLoop)
	return slices.Index(append(known, r.Running...), name)
}

// WriteHTML writes the comparison as one page that needs nothing but itself.
func (r *Report) WriteHTML(w io.Writer) error {
	charts, err := r.charts()
	if err != nil {
		return err
	}
	p := report.Page{
		Title: "Sluice and other WebSocket servers, side by side",
		Tiles: r.tiles(),
		Sections: []report.Section{
			{Charts: charts},
			{Title: "Figures", Tables: r.tables()},
		},
		Foot: []string{"Spreads are from the least to the greatest of the rounds."},
	}
	for _, n := range r.words() {
		p.Sections = append(p.Sections, report.Section{Title: n.title, Notes: n.lines})
	}
	p.Sections = append(p.Sections,
		report.Section{Title: "Conditions", Notes: r.conditions()},
		report.Section{Title: "Versions", Tables: []report.Table{r.versions()}})
	return p.Write(w)
}

// WriteSVG writes the picture for a README: memory and CPU, in both themes.
func (r *Report) WriteSVG(w io.Writer) error {
	charts, err := report.DrawAll(r.memoryBars(420), r.cpuBars(420))
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, report.Standalone(charts...))
	return err
}

// tiles are sluice's figures beside those of the baseline that comes nearest.
func (r *Report) tiles() (tiles []report.Tile) {
	mine, ok := r.server(Sluice)
	if !ok {
		return nil
	}
	for _, key := range []string{"user_after_bytes", "cpu_handshake_us", "cpu_message_us",
		"cpu_beat_us", "connections_per_second", "messages_per_second"} {
		m := measureOf(key)
		a, ok := mine.Stats[key]
		if !ok {
			continue
		}
		t := report.Tile{Label: m.title, Value: m.format(a.Median)}
		best, name := 0.0, ""
		for _, s := range r.Servers {
			b, ok := s.Stats[key]
			if !ok || s.Name == Sluice || s.Name == OneLoop || s.Name == baseline.Floor {
				continue
			}
			if name == "" || m.more == (b.Median > best) {
				best, name = b.Median, s.Name
			}
		}
		if name != "" {
			t.Note = fmt.Sprintf("%s, the best of the others: %s", name, m.format(best))
		}
		tiles = append(tiles, t)
	}
	return tiles
}

func (r *Report) versions() report.Table {
	t := report.Table{}
	for _, s := range r.Servers {
		if s.Version != "" {
			t.Rows = append(t.Rows, report.Row{Cells: []string{s.Name, s.Version}})
		}
	}
	return t
}

func (r *Report) charts() ([]template.HTML, error) {
	memory, err := report.DrawAll(r.memoryBars(chartWidth), r.cpuBars(chartWidth), r.beatBars(chartWidth))
	if err != nil {
		return nil, err
	}
	lines, err := r.lineCharts()
	if err != nil {
		return nil, err
	}
	return append(memory, lines...), nil
}

// bars has one row a server, and one value for each key.
func (r *Report) bars(c report.Chart, kinds []string, format func(float64) string, keys ...string) report.Bars {
	b := report.Bars{Chart: c, Kinds: kinds, Format: format}
	for _, s := range r.Servers {
		row := report.Bar{Name: s.Name, Color: r.colour(s.Name), Bold: s.Name == Sluice}
		for _, key := range keys {
			v := report.Value{V: math.NaN()}
			if st, ok := s.Stats[key]; ok {
				v = report.Value{V: st.Median, Low: st.Min, High: st.Max}
			}
			row.Values = append(row.Values, v)
		}
		b.Rows = append(b.Rows, row)
	}
	return b
}

func (r *Report) memoryBars(width float64) report.Bars {
	return r.bars(report.Chart{Title: "Memory for each connection", Width: width,
		Subtitle: fmt.Sprintf("bytes of the server process, %s connections; less is better",
			units.Number(r.Plan.main(Closed)))},
		[]string{"idle", "after traffic"}, func(v float64) string { return units.Number(int64(v + 0.5)) },
		"user_idle_bytes", "user_after_bytes")
}

func (r *Report) cpuBars(width float64) report.Bars {
	return r.bars(report.Chart{Title: "Server CPU", Width: width,
		Subtitle: fmt.Sprintf("for each message and each handshake, %s connections; less is better",
			units.Number(r.Plan.main(Closed)))},
		[]string{"message", "handshake"}, units.Micros, "cpu_message_us", "cpu_handshake_us")
}

func (r *Report) beatBars(width float64) report.Bars {
	return r.bars(report.Chart{Title: "Server CPU for each heartbeat", Width: width,
		Subtitle: fmt.Sprintf("text frame, Ping and Pong; %s connections, one a second each; less is better",
			units.Number(r.Plan.main(Beats)))},
		nil, units.Micros, "cpu_beat_us")
}

func (r *Report) lineCharts() ([]template.HTML, error) {
	most := units.Number(r.Plan.main(Open))
	chart := func(title, subtitle string) report.Chart {
		return report.Chart{Title: title, Subtitle: subtitle, Width: chartWidth, Height: chartHeight}
	}
	memory := report.Lines{
		Chart: chart("Memory against connections",
			"MiB of the server process after traffic, without that of the empty process"),
		X: report.Axis{Label: "connections", FromZero: true},
		Y: report.Axis{Label: "MiB", FromZero: true},
	}
	latency := report.Lines{
		Chart: chart("Latency of messages",
			most+" connections, fixed schedule, from the intended send; each nine takes as much room"),
		X: report.Axis{Label: "percentile", Scale: report.Percentiles, Format: units.Percent},
		Y: report.Axis{Scale: report.Log, Format: units.Micros},
	}
	ramp := report.Lines{
		Chart: chart("Connection ramp", most+" connections, opened as fast as the server accepts them"),
		X:     report.Axis{Label: "seconds", FromZero: true},
		Y:     report.Axis{Label: "open connections", FromZero: true},
	}
	for _, s := range r.Servers {
		curve := report.Curve{Name: s.Name, Color: r.colour(s.Name), Dots: true,
			Dashed: s.Name == baseline.Floor}
		for _, at := range s.Sizes {
			const mib = 1 << 20
			curve.Points = append(curve.Points, report.XY{X: float64(at.Conns),
				Y: at.After.Median / mib, Low: at.After.Min / mib, High: at.After.Max / mib})
		}
		memory.Curves = append(memory.Curves, curve)

		curve.Dots, curve.Points = false, nil
		if s.Latency.Count > 0 {
			points, err := report.PercentileCurve(s.Latency)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.Name, err)
			}
			curve.Points = points
			latency.Curves = append(latency.Curves, curve)
		}
		curve.Points = nil
		for _, p := range s.Ramp {
			curve.Points = append(curve.Points, report.XY{X: p.Seconds, Y: float64(p.Open)})
		}
		ramp.Curves = append(ramp.Curves, curve)
	}
	var charts []template.HTML
	for _, l := range []report.Lines{memory, latency, ramp} {
		if !l.Shows() {
			continue
		}
		svg, err := l.SVG()
		if err != nil {
			return nil, err
		}
		charts = append(charts, svg)
	}
	return charts, nil
}
