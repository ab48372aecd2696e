package compare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"sluice/bench/baseline"
	"sluice/bench/report"
	"sluice/bench/units"
)

// grid is a table of the report: a row a server.
type grid struct {
	title string
	keys  []string
}

var grids = []grid{
	{"What a connection costs", []string{"user_idle_bytes", "user_after_bytes", "kernel_idle_bytes",
		"cpu_handshake_us", "connections_per_second", "cpu_beat_us", "goroutines"}},
	{"What a message costs", []string{"cpu_message_us", "messages_per_second", "cpu_message_open_us",
		"p50_us", "p90_us", "p99_us", "p99_9_us", "gc_pause_us", "gc_pause_max_us"}},
}

func measureOf(key string) measure {
	return measures[slices.IndexFunc(measures, func(m measure) bool { return m.key == key })]
}

// table lays g out, a row a server.
func (r *Report) table(g grid) report.Table {
	t := report.Table{Title: g.title, Head: []string{""}}
	for _, key := range g.keys {
		t.Head = append(t.Head, measureOf(key).title)
	}
	for _, s := range r.Servers {
		row := report.Row{Strong: s.Name == Sluice, Cells: []string{s.Name}}
		for _, key := range g.keys {
			row.Cells = append(row.Cells, cell(measureOf(key), s.Stats[key]))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// ratios is sluice's figures divided by each other server's; and, like for like, those of one loop
// by the floor's.
func (r *Report) ratios() report.Table {
	t := report.Table{Title: "Sluice ÷ other", Head: []string{""}}
	var keys []string
	for _, m := range measures {
		if !m.aside {
			keys = append(keys, m.key)
			t.Head = append(t.Head, m.title)
		}
	}
	one, like := r.server(OneLoop)
	for _, s := range r.Servers {
		if s.Name == Sluice || s.Name == OneLoop {
			continue
		}
		row := report.Row{Cells: []string{s.Name}}
		for _, key := range keys {
			text := "–"
			if v, ok := s.Ratio[key]; ok {
				text = fmt.Sprintf("%.2f", v)
			}
			row.Cells = append(row.Cells, text)
		}
		t.Rows = append(t.Rows, row)
		if like && s.Name == baseline.Floor {
			row := report.Row{Cells: []string{OneLoop + " ÷ " + s.Name}}
			for _, key := range keys {
				a, b := one.Stats[key], s.Stats[key]
				text := "–"
				if a.N > 0 && b.Median > 0 && measureOf(key).work {
					text = fmt.Sprintf("%.2f", a.Median/b.Median)
				}
				row.Cells = append(row.Cells, text)
			}
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

// cell is a median, with its spread when there was more than one trial and the spread shows.
func cell(m measure, s Stat) string {
	if s.N == 0 {
		return "–"
	}
	mid, lo, hi := m.format(s.Median), m.format(s.Min), m.format(s.Max)
	if s.N == 1 || lo == hi {
		return mid
	}
	return fmt.Sprintf("%s (%s–%s)", mid, bare(lo, hi), hi)
}

// bare is lo without its unit when hi has the same.
func bare(lo, hi string) string {
	a, unitA, _ := strings.Cut(lo, " ")
	if _, unitB, _ := strings.Cut(hi, " "); unitA == unitB {
		return a
	}
	return lo
}

// conditions is what the figures hold for, a sentence each.
func (r *Report) conditions() []string {
	p := r.Plan
	c := []string{
		fmt.Sprintf("%s; %s. Command: %s. It took %.0f s; the load average before was %.2f.",
			units.Day(r.Started), report.MachineLine(r.Machine), r.Command, r.Seconds, r.Load),
		"Server and load generator share the machine. Each figure is from a fresh process; " +
			"medians, with the least and the greatest of the rounds.",
	}
	if len(r.Running) > 0 {
		c = append(c, fmt.Sprintf("Not a fresh process, but running before and after: %s.",
			strings.Join(r.Running, ", ")))
	}
	for _, s := range p.Steps {
		if s.Conns != p.main(s.Kind) {
			continue
		}
		conns := units.Number(s.Conns) + " connections"
		switch s.Kind {
		case Closed:
			c = append(c, fmt.Sprintf("Memory, CPU per handshake and per message, throughput: %s, "+
				"%d messages of %d bytes outstanding; %s.", conns, s.Window, payload, rounds(s.Rounds)))
		case Open:
			c = append(c, fmt.Sprintf("Latencies: %s, %s messages/s on a fixed schedule, "+
				"counted from the intended send time; %s.",
				conns, units.Number(int64(s.Rate)), rounds(s.Rounds)))
		case Beats:
			c = append(c, fmt.Sprintf("Heartbeats: %s, one a second each; %s.", conns, rounds(s.Rounds)))
		}
	}
	if _, ok := r.server(OneLoop); ok {
		c = append(c, OneLoop+" is sluice with --loops 1: the floor is a program of one thread, "+
			"so that is like for like.")
	}
	return append(c, "Memory is what the process itself has written to (anonymous pages), without that "+
		"of the empty process. The kernel's share is measured for the whole machine, so it holds both "+
		"ends of each connection.")
}

// tables are all there are; none when nothing was measured.
func (r *Report) tables() []report.Table {
	if len(r.Servers) == 0 {
		return nil
	}
	return []report.Table{r.table(grids[0]), r.table(grids[1]), transposed(r.ratios())}
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

// WriteTable writes the report as text for a terminal.
func (r *Report) WriteTable(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, t := range r.tables() {
		fmt.Fprintf(tw, "\n%s\n", t.Title)
		fmt.Fprintln(tw, strings.Join(t.Head, "\t")+"\t")
		for _, row := range t.Rows {
			fmt.Fprintln(tw, strings.Join(row.Cells, "\t")+"\t")
		}
		if err := tw.Flush(); err != nil {
			return fmt.Errorf("write the comparison's table: %w", err)
		}
	}
	for _, n := range r.words() {
		fmt.Fprintf(w, "\n%s\n", n.title)
		for _, line := range n.lines {
			fmt.Fprintf(w, "  - %s\n", line)
		}
	}
	return nil
}

// transposed turns rows into columns: there are more measures than servers.
func transposed(t report.Table) report.Table {
	out := report.Table{Title: t.Title, Head: []string{""}}
	for _, row := range t.Rows {
		out.Head = append(out.Head, row.Cells[0])
	}
	for i := 1; i < len(t.Head); i++ {
		row := report.Row{Cells: []string{t.Head[i]}}
		for _, from := range t.Rows {
			row.Cells = append(row.Cells, from.Cells[i])
		}
		out.Rows = append(out.Rows, row)
	}
	return out
}

// WriteMarkdown writes the report for a README: tables first, then what they mean and hold for.
func (r *Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	for i, t := range r.tables() {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "**%s**\n\n| %s |\n|---|%s\n",
			t.Title, strings.Join(t.Head, " | "), strings.Repeat("---:|", len(t.Head)-1))
		for _, row := range t.Rows {
			cells := slices.Clone(row.Cells)
			for i := range cells {
				cells[i] = markdown(cells[i])
				if row.Strong {
					cells[i] = "**" + cells[i] + "**"
				}
			}
			fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
		}
	}
	for _, n := range append(r.words(), note{"Conditions", r.conditions()}) {
		fmt.Fprintf(&b, "\n%s\n\n", n.title)
		for _, line := range n.lines {
			fmt.Fprintf(&b, "- %s\n", markdown(line))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the comparison as Markdown: %w", err)
	}
	return nil
}

// markdown keeps text from becoming markup or leaving its line.
func markdown(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "\n", " ", "`", "'").Replace(s)
}

// note is a title with sentences.
type note struct {
	title string
	lines []string
}

// words says what the figures mean, and first what speaks against sluice.
func (r *Report) words() (notes []note) {
	add := func(title string, lines []string) {
		if len(lines) > 0 {
			notes = append(notes, note{title, lines})
		}
	}
	if _, ok := r.server(Sluice); ok {
		losses := r.Losses
		if len(losses) == 0 {
			losses = []string{"In no measure are the spreads apart."}
			if len(r.Worse) > 0 {
				losses[0] += " Its median is worse in those that follow."
			}
		}
		add("Where sluice loses", losses)
	}
	add("Where sluice's median is worse and the spreads overlap (or the difference is within 5 %, "+
		"or within 25 % of a single round)", r.Worse)
	add("Where its median is not worse and the spreads overlap, likewise", r.Unclear)
	add("Against the floor, which is no service but the price of the system calls ("+
		baseline.Floor+")", r.Floor)
	add("What went wrong", r.Troubles)
	return notes
}

// Save writes prefix.json, prefix.md, prefix.html and prefix.svg, each whole or not at all.
func (r *Report) Save(prefix string) error {
	js := func(w io.Writer) error {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	for _, f := range []struct {
		ending string
		write  func(w io.Writer) error
	}{{".json", js}, {".md", r.WriteMarkdown}, {".html", r.WriteHTML}, {".svg", r.WriteSVG}} {
		if err := writeFile(prefix+f.ending, f.write); err != nil {
			return fmt.Errorf("save the comparison: %w", err)
		}
	}
	return nil
}

func writeFile(path string, write func(w io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".comparison-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
