package bench

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// plainEvery is how often a line is written where there is no terminal to rewrite one on.
const plainEvery = 5 * time.Second

// ShowProgress returns a function for Spec.Progress: on a terminal one line that is rewritten, with a bar; elsewhere a
// plain line every few seconds. done ends the line.
func ShowProgress(out *os.File) (show func(Progress), done func()) {
	if !term.IsTerminal(int(out.Fd())) {
		return plainProgress(out), func() {}
	}
	return func(p Progress) {
			width, _, err := term.GetSize(int(out.Fd()))
			if err != nil || width < 20 {
				width = 80
			}
			line := []rune(bar(p.Fraction, 16) + " " + p.line())
			fmt.Fprintf(out, "\r\x1b[K%s", string(line[:min(len(line), width-1)]))
		}, func() {
			fmt.Fprint(out, "\r\x1b[K")
		}
}

func plainProgress(out io.Writer) func(Progress) {
	var next time.Duration
	phase := ""
	return func(p Progress) {
		if p.Elapsed < next && p.Phase == phase {
			return
		}
		next, phase = p.Elapsed+plainEvery, p.Phase
		fmt.Fprintln(out, p.line())
	}
}

func bar(fraction float64, width int) string {
	full := min(max(int(fraction*float64(width)+0.5), 0), width)
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// line is the state in one line.
func (p Progress) line() string {
	s := fmt.Sprintf("%-7s %5.1fs  open %s/%s", p.Phase, p.Elapsed.Seconds(), commas(p.Open), commas(int64(p.Total)))
	if p.Failed > 0 {
		s += "  failed " + commas(p.Failed)
	}
	if p.RateHz > 0 {
		s += fmt.Sprintf("  %s/s  p50 %s p99 %s max %s", commas(int64(p.RateHz)), micros(p.P50US), micros(p.P99US), micros(p.MaxUS))
	}
	if p.BeatsHz > 0 {
		s += fmt.Sprintf("  beats %.0f/s", p.BeatsHz)
	}
	if p.ServerMB > 0 {
		s += fmt.Sprintf("  server %.2f cores %.0f MiB", p.ServerCP, p.ServerMB)
	}
	if p.ETA > 0 {
		s += fmt.Sprintf("  %.0fs left", p.ETA.Seconds())
	}
	return s
}
