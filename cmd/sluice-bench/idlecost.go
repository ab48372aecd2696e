package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"sluice/bench/million"
	"sluice/bench/report"
)

type idleCostCmd struct {
	Conns     []int         `short:"c" default:"10000,100000,1000000" help:"Numbers of connections, a run of each."`
	Heartbeat time.Duration `default:"30s" help:"Between two heartbeats of one connection."`
	Hold      time.Duration `help:"How long to hold them (default: two of these)."`
	Sluice    string        `type:"path" placeholder:"FILE" help:"The sluice binary (default: beside this program, in ./bin, or in PATH)."`
	Serve     []string      `sep:"none" placeholder:"ARG" help:"Another argument for the gateway; repeat for more."`
	Anyway    bool          `help:"Run although the preflight says that it will not do."`
	Out       string        `type:"path" placeholder:"PREFIX" help:"Write PREFIX.md and PREFIX.svg."`
	Quiet     bool          `short:"q" help:"No progress."`
}

func (c *idleCostCmd) Run(ctx context.Context, s *streams) error {
	if err := mustNotBeZero(map[string]bool{"conns": len(c.Conns) == 0, "heartbeat": c.Heartbeat == 0}); err != nil {
		return err
	}
	if c.Out != "" {
		if err := checkPath(filepath.Clean(c.Out) + ".md"); err != nil {
			return err
		}
	}
	var reports []*million.Report
	for _, n := range c.Conns {
		r, err := c.measure(ctx, s, n)
		if err != nil {
			return err
		}
		reports = append(reports, r)
	}
	table := func(w io.Writer) error { return report.WriteIdleCostTable(w, reports) }
	err := table(s.out)
	failures := report.LoadFailures(reports)
	for _, f := range failures {
		fmt.Fprintf(s.out, "FAILED: %s\n", f)
	}
	if c.Out != "" && len(failures) == 0 {
		err = errors.Join(err, writeFile(s, c.Out+".md", table), writeFile(s, c.Out+".svg",
			func(w io.Writer) error { return report.WriteIdleCostSVG(w, reports) }))
	}
	if err == nil && len(failures) > 0 {
		err = errFailed
	}
	return err
}

// measure holds n connections. The few messages after that are none of the figures.
func (c *idleCostCmd) measure(ctx context.Context, s *streams, n int) (*million.Report, error) {
	o := million.Options{Sluice: c.Sluice, Args: c.Serve, Conns: n, Heartbeat: c.Heartbeat, Hold: c.Hold,
		Traffic: time.Second, Rate: 1000, RampLatency: 50 * time.Millisecond, Timeout: 20 * time.Second, Anyway: c.Anyway}
	done := func() {}
	if f, ok := s.err.(*os.File); ok && !c.Quiet {
		o.Log = func(line string) { fmt.Fprintln(s.err, line) }
		o.Progress, done = report.ShowProgress(f)
	}
	defer done()
	return million.Run(ctx, o)
}
