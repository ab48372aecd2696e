package report

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"sluice/bench/load"
	"sluice/bench/units"

	"golang.org/x/term"
)

// plainEvery is how often a line is written where out is not a terminal.
const plainEvery = 5 * time.Second

// ShowProgress returns a function for load.Spec.Progress: on a terminal it rewrites one line, with
// a bar; elsewhere it writes a line every few seconds. done ends the line.
func ShowProgress(out *os.File) (show func(load.Progress), done func()) {
	if !term.IsTerminal(int(out.Fd())) {
		return plainProgress(out), func() {}
	}
	return func(p load.Progress) {
			width, _, err := term.GetSize(int(out.Fd()))
			if err != nil || width < 20 {
				width = 80
			}
			line := []rune(bar(p.Fraction, 16) + " " + line(&p))
			fmt.Fprintf(out, "\r\x1b[K%s", string(line[:min(len(line), width-1)]))
		}, func() {
			fmt.Fprint(out, "\r\x1b[K")
		}
}

func plainProgress(out io.Writer) func(load.Progress) {
	var next time.Duration
	phase := ""
	return func(p load.Progress) {
		if p.Elapsed < next && p.Phase == phase {
			return
		}
		next, phase = p.Elapsed+plainEvery, p.Phase
		fmt.Fprintln(out, line(&p))
	}
}

func bar(fraction float64, width int) string {
	full := min(max(int(fraction*float64(width)+0.5), 0), width)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// line is the state in one line.
func line(p *load.Progress) string {
	s := fmt.Sprintf("%-7s %5.1fs  open %s/%s", p.Phase, p.Elapsed.Seconds(),
		units.Number(p.Open), units.Number(p.Total))
	if p.Failed > 0 {
		s += "  failed " + units.Number(p.Failed)
	}
	if p.RateHz > 0 {
		us := func(v int64) string { return units.Micros(float64(v)) }
		s += fmt.Sprintf("  %s/s  p50 %s p99 %s max %s",
			units.Number(int64(p.RateHz)), us(p.P50US), us(p.P99US), us(p.MaxUS))
	}
	if p.BeatsHz > 0 {
		s += fmt.Sprintf("  beats %.0f/s", p.BeatsHz)
	}
	if p.ServerMB > 0 {
		s += fmt.Sprintf("  server %.2f cores %.0f MiB", p.ServerCP, p.ServerMB)
	}
	if p.ETA >= time.Second { // less is a guess: the last connections may be waiting to try again
		s += fmt.Sprintf("  %.0fs left", p.ETA.Seconds())
	}
	return s
}
