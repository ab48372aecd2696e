package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/bench/terminate"
)

type tlsCmd struct {
	Sluice   string        `type:"path" placeholder:"FILE" help:"The sluice binary (default: beside this program, in ./bin, or in PATH)."`
	Only     []string      `placeholder:"NAME" help:"Some of compact, std, plain, gorilla, nginx, haproxy (default: all)."`
	Conns    int           `short:"c" default:"3000" help:"Connections to each."`
	Window   int           `short:"w" default:"64" help:"Messages outstanding."`
	Duration time.Duration `short:"d" default:"3s" help:"Of the messages."`
	Settle   time.Duration `default:"2s" help:"Pause before each measurement of memory. A Go server gives back what handshakes have left after some two minutes."`
	Rounds   int           `default:"1" help:"The table shows medians; a round of all takes about a minute."`
	Quiet    bool          `short:"q" help:"No progress."`
}

func (c *tlsCmd) Run(ctx context.Context, s *streams) error {
	o := terminate.Options{Sluice: c.Sluice, Only: c.Only, Conns: c.Conns, Window: c.Window,
		Duration: c.Duration, Settle: c.Settle, Rounds: c.Rounds}
	if !c.Quiet {
		o.Log = func(line string) { fmt.Fprintln(s.err, line) }
	}
	r, err := terminate.Run(ctx, o)
	if r == nil {
		return err
	}
	return errors.Join(err, r.WriteTable(s.out))
}
