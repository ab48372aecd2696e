package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"

	"sluice/bench/baseline"
)

const description = `Load, capacity and comparison for WebSocket servers.

Latencies of the open loop (--rate) count from the intended send time, so every message that a server
keeps waiting counts. Exit status 1, with a sentence for each reason, when a reply was lost, late or
wrong or a connection was closed that should not have been.`

type cli struct {
	Run      runCmd      `cmd:"" help:"Load servers and report."`
	Check    checkCmd    `cmd:"" help:"Smoke test of one gateway: ready, connect, count, leave, resume, each as a line."`
	Capacity capacityCmd `cmd:"" help:"Raise connections in steps until something gives, and say what gave."`
	Merge    mergeCmd    `cmd:"" help:"Make one report of results from several machines that ran at one time (--start-at)."`
	Million  millionCmd  `cmd:"" help:"Start a gateway, hold a million connections (or --conns), check every heartbeat and count, drain."`
	IdleCost idleCostCmd `cmd:"" help:"Hold ever more connections, and show in one table and one picture what grows."`
	Baseline baselineCmd `cmd:"" help:"Serve the same service with one goroutine per connection, to compare with."`
	Service  serviceCmd  `cmd:"" help:"Serve plain HTTP for sluice serve --app backend: echo what clients say, subscribe them to ?topic=."`
	Compare  compareCmd  `cmd:"" help:"Measure sluice and all baselines under the same load."`
	TLS      tlsCmd      `cmd:"" name:"tls" help:"Measure what TLS costs: sluice, gorilla over crypto/tls, nginx and haproxy before a plain sluice."`
	Faults   faultsCmd   `cmd:"" help:"Kill, stop, delay and empty gateways and Redis under load, and count what was lost or doubled."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

// streams is where a command writes: its result, and messages on the way.
type streams struct{ out, err io.Writer }

// errFailed is a run that was made and found something wrong; it has been reported.
var errFailed = errors.New("the run failed")

func execute(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Name("sluice-bench"), kong.Description(description),
		kong.Vars{"baselines": "One of " + strings.Join(baseline.Names(), ", ") + "."},
		kong.Writers(out, errs), kong.Exit(func(code int) { exit = code }), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	k, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintf(errs, "sluice-bench: %v (see sluice-bench --help)\n", err)
		return 2
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&streams{out, errs})
	switch {
	case errors.Is(err, errFailed):
		return 1
	case err != nil:
		fmt.Fprintf(errs, "sluice-bench: %v\n", err)
		return 1
	}
	return 0
}
