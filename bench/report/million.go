package report

import (
	"fmt"
	"html/template"
	"io"
	"strings"
	"text/tabwriter"

	"sluice/bench/load"
	"sluice/bench/million"
	"sluice/bench/units"
)

// WriteMillionText writes what very many connections cost, for a terminal.
func WriteMillionText(w io.Writer, r *million.Report) error {
	var b strings.Builder
	if l := r.Load; l != nil {
		fmt.Fprintf(&b, "\n%s connections, a heartbeat every %v\n\n", units.Number(l.Counters.Ramped), r.Heartbeat)
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, row := range millionFigures(r) {
			fmt.Fprintf(tw, "  %s\t%s\n", row[0], row[1])
		}
		tw.Flush()
		fmt.Fprintln(&b)
		writeTable(&b, phaseTable(l))
		fmt.Fprintln(&b)
		writeTable(&b, rampTable(l))
		fmt.Fprintln(&b)
		writeLatencies(&b, l)
	}
	if r.OK() {
		b.WriteString("  ok: none lost, no heartbeat missed, every count right\n")
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "  FAILED: %s\n", f)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTable writes a table for a terminal.
func writeTable(w io.Writer, t Table) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([]Row{{Cells: t.Head}}, t.Rows...) {
		fmt.Fprintf(tw, "  %s\t\n", strings.Join(row.Cells, "\t"))
	}
	tw.Flush()
}

// millionFigures are the main figures, by name.
func millionFigures(r *million.Report) (rows [][2]string) {
	l := r.Load
	n, s := &l.Counters, l.Server
	add := func(name, format string, args ...any) {
		rows = append(rows, [2]string{name, fmt.Sprintf(format, args...)})
	}
	add("opened", "%s of %s in %s, %s/s", units.Number(n.Ramped), units.Number(r.Conns),
		units.Seconds(l.RampSeconds), perSecond(l.ConnectionsPerSecond()))
	if s != nil && s.Idle.Processes > 0 {
		add("gateway, user memory", "%s, %s a connection (%d threads)", units.Bytes(float64(s.Idle.Anon)),
			orDash(s.UserIdlePerConn, units.Bytes), s.Idle.Threads)
		if s.After.Processes > 0 {
			add("  after the messages", "%s, %s a connection", units.Bytes(float64(s.After.Anon)),
				orDash(s.UserAfterPerConn, units.Bytes))
		}
		add("kernel memory, both ends", "%s, %s a connection",
			units.Bytes(s.KernelIdlePerConn*float64(n.Ramped)), units.Bytes(s.KernelIdlePerConn))
	}
	add("this tool, user memory", "%s a connection (%d loops)", orDash(l.Tool.RSSPerConn, units.Bytes), l.Tool.Loops)
	add("heartbeats", "%s, %s missed", units.Number(n.Beats), units.Number(n.BeatsMissing))
	if h := l.Heartbeat; h.Count > 0 {
		add("  early or late by", "p50 %s, p99 %s, max %s", units.Micros(float64(h.P50US)),
			units.Micros(float64(h.P99US)), units.Micros(float64(h.MaxUS)))
	}
	if n.Sent > 0 {
		m := l.Message
		add("messages", "%s sent, %s counted right", units.Number(n.Sent), units.Number(n.Replies))
		add("  answered after", "p50 %s, p99 %s, max %s", units.Micros(float64(m.P50US)),
			units.Micros(float64(m.P99US)), units.Micros(float64(m.MaxUS)))
	}
	if r.ExitSeconds > 0 {
		add("drain", "%s told bye, %s closed with 1001, over %s; the gateway ended after %s", units.Number(n.Byes),
			units.Number(n.Closes["1001"]), units.Seconds(l.DrainSeconds), units.Seconds(r.ExitSeconds))
		add("  told bye after", "p50 %s, p99 %s, max %s", units.Micros(float64(l.Bye.P50US)),
			units.Micros(float64(l.Bye.P99US)), units.Micros(float64(l.Bye.MaxUS)))
	}
	return rows
}

// phaseTable is what each phase cost.
func phaseTable(l *load.Result) Table {
	t := Table{Title: "Processor time by phase",
		Head: []string{"phase", "seconds", "gateway CPU", "cores", "this tool", "cores", "machine"}}
	for _, p := range l.Phases {
		cores := func(cpu float64) string {
			if p.Seconds < 0.01 {
				return "–"
			}
			return units.Trim(cpu / p.Seconds)
		}
		t.Rows = append(t.Rows, Row{Cells: []string{p.Name, fmt.Sprintf("%.1f", p.Seconds),
			units.Seconds(p.Server), cores(p.Server), units.Seconds(p.Tool), cores(p.Tool),
			fmt.Sprintf("%.0f %%", 100*p.Machine)}})
	}
	return t
}

// rampParts is into how many parts rampTable divides the ramp.
const rampParts = 10

// rampTable is the cost of a connect as connections grow in number.
func rampTable(l *load.Result) Table {
	t := Table{Title: "The ramp", Head: []string{"open", "connects/s", "system calls of a connect",
		"handshake p99", "CPU of a connect: gateway", "this tool"}}
	var last, part load.Point
	var server, tool, dial, worst float64
	next := l.Counters.Ramped / rampParts
	for _, p := range l.Timeline {
		if p.Phase != "ramp" {
			break
		}
		since := p.Seconds - last.Seconds
		server += p.ServerCP * since
		tool += p.ToolCP * since
		dial += p.DialUS * float64(p.Opened-last.Opened)
		worst = max(worst, float64(p.HandshakeUS))
		last = p
		if p.Open < next || p.Opened == part.Opened {
			continue
		}
		opened, took := float64(p.Opened-part.Opened), p.Seconds-part.Seconds
		t.Rows = append(t.Rows, Row{Cells: []string{units.Number(p.Open), perSecond(opened / took),
			units.Micros(dial / opened), units.Micros(worst), orDash(server/opened*1e6, units.Micros),
			orDash(tool/opened*1e6, units.Micros)}})
		part, server, tool, dial, worst = p, 0, 0, 0, 0
		next = p.Open + max(l.Counters.Ramped/rampParts, 1)
	}
	return t
}

// WriteMillionJSON writes the report as indented JSON.
func WriteMillionJSON(w io.Writer, r *million.Report) error { return writeJSON(w, r) }

// WriteMillionHTML writes the report's page.
func WriteMillionHTML(w io.Writer, r *million.Report) error {
	p := Page{
		Title:   fmt.Sprintf("sluice-bench: %s connections", units.Number(r.Conns)),
		Verdict: &Verdict{Good: true, Text: "None lost, no heartbeat missed, every count right."},
		Lead:    []string{units.Day(r.Started) + " · " + MachineLine(r.Machine())},
	}
	if !r.OK() {
		p.Verdict = &Verdict{false, "The run failed.", r.Failures}
	}
	if l := r.Load; l != nil {
		figures := Table{Title: "Figures"}
		for _, row := range millionFigures(r) {
			figures.Rows = append(figures.Rows, Row{Cells: row[:]})
		}
		var charts []template.HTML
		charts, err := resultCharts(l)
		if err != nil {
			return err
		}
		p.Tiles = resultTiles(l)
		p.Sections = []Section{
			{Charts: charts, Tables: []Table{latencyTable(l)}},
			{Title: "What it cost", Tables: append([]Table{figures, phaseTable(l), rampTable(l)}, costTables(l)...)},
			{Title: "What was counted", Tables: counterTables(l)},
		}
	}
	checks := Table{Title: "Before the run", Head: []string{"needed", "found", "enough for"}}
	for _, c := range r.Checks {
		enough := units.Number(c.Reach)
		if c.Enough {
			enough = "enough"
		}
		checks.Rows = append(checks.Rows, Row{Cells: []string{c.Name, c.Found, enough}})
	}
	p.Sections = append(p.Sections, Section{Tables: []Table{checks}})
	if len(r.Command) > 0 {
		p.Foot = []string{"The gateway: " + strings.Join(r.Command, " ")}
	}
	return p.Write(w)
}
