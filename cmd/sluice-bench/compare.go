package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sluice/bench"
)

type compareCmd struct {
	Sluice string   `type:"path" placeholder:"FILE" help:"The sluice binary (default: beside this program, in ./bin, or in PATH)."`
	Only   []string `placeholder:"NAME" help:"Which baselines; sluice-1 is sluice with one loop, none is no baseline (default: all)."`
	URL    []string `name:"url" sep:"none" placeholder:"NAME=ws://…" help:"A server that runs already takes part too; with ,pid=N behind the URL its process is measured. Repeat for more."`
	App    string   `default:"count" enum:"count,echo" help:"What all of them serve. count: sluice's protocol; echo: messages come back."`
	Quick  bool     `help:"Two minutes instead of eight, with fewer connections."`
	Out    string   `type:"path" placeholder:"PREFIX" help:"Write PREFIX.json, PREFIX.md, PREFIX.html and PREFIX.svg."`
	Quiet  bool     `short:"q" help:"No progress."`
}

func (c *compareCmd) Run(ctx context.Context, s *streams) error {
	if c.Out != "" {
		if err := checkPath(filepath.Clean(c.Out) + ".json"); err != nil {
			return err
		}
	}
	o := bench.CompareOptions{Sluice: c.Sluice, Only: c.Only, URLs: c.URL, App: c.App, Quick: c.Quick,
		Command: strings.Join(os.Args, " ")}
	if !c.Quiet {
		o.Log = func(line string) { fmt.Fprintln(s.err, line) }
	}
	r, err := bench.Compare(ctx, o)
	if r == nil {
		return err
	}
	if werr := r.WriteTable(s.out); werr != nil {
		return errors.Join(err, werr)
	}
	if c.Out != "" && len(r.Servers) > 0 {
		err = errors.Join(err, r.Save(c.Out))
	}
	return err
}
