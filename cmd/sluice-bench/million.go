package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"sluice/bench/million"
	"sluice/bench/report"
)

type millionCmd struct {
	Conns       int           `short:"c" default:"1000000" help:"Connections."`
	Heartbeat   time.Duration `default:"30s" help:"Between two heartbeats of one connection."`
	Hold        time.Duration `help:"How long to hold them with nothing but heartbeats (default: two of these)."`
	Duration    time.Duration `short:"d" default:"30s" help:"Of the messages after that."`
	Rate        float64       `short:"r" default:"5000" help:"Messages per second."`
	RampLatency time.Duration `default:"50ms" help:"The ramp is as fast as keeps p90 of handshakes below this."`
	Timeout     time.Duration `default:"20s" help:"For one handshake, and for the last replies."`
	Sluice      string        `type:"path" placeholder:"FILE" help:"The sluice binary (default: beside this program, in ./bin, or in PATH)."`
	Serve       []string      `sep:"none" placeholder:"ARG" help:"Another argument for the gateway, as --serve=--loops=4; repeat for more."`
	Anyway      bool          `help:"Run although the preflight says that it will not do."`
	output
	Quiet bool `short:"q" help:"No progress."`
}

func (c *millionCmd) Run(ctx context.Context, s *streams) error {
	if err := errors.Join(mustNotBeZero(map[string]bool{"conns": c.Conns == 0, "heartbeat": c.Heartbeat == 0,
		"duration": c.Duration == 0, "rate": c.Rate == 0, "ramp-latency": c.RampLatency == 0,
		"timeout": c.Timeout == 0}), c.check()); err != nil {
		return err
	}
	o := million.Options{Sluice: c.Sluice, Args: c.Serve, Conns: c.Conns, Heartbeat: c.Heartbeat, Hold: c.Hold,
		Traffic: c.Duration, Rate: c.Rate, RampLatency: c.RampLatency, Timeout: c.Timeout, Anyway: c.Anyway}
	done := func() {}
	if f, ok := s.err.(*os.File); ok && !c.Quiet {
		o.Log = func(line string) { fmt.Fprintln(s.err, line) }
		o.Progress, done = report.ShowProgress(f)
	}
	r, err := million.Run(ctx, o)
	done()
	if err != nil {
		return err
	}
	return c.write(s, r.OK(), pages{
		text: func(w io.Writer) error { return report.WriteMillionText(w, r) },
		json: func(w io.Writer) error { return report.WriteMillionJSON(w, r) },
		html: func(w io.Writer) error { return report.WriteMillionHTML(w, r) }})
}
