// Command faults puts gateways, Redis and the network between them through what goes wrong in production, under load, and
// proves that no acknowledged message was lost and none counted twice. See faults.go for what is done and check.go for
// what must hold.
//
//	go run ./scripts/faults                        all faults, a table; status 1 when a promise was not kept
//	go run ./scripts/faults --fault FLUSHALL --runs 10 --seconds 20
//	go run ./scripts/faults --outage 60s           a Redis that is gone for a minute
//	go run ./scripts/faults --storm 15000          all clients come back at once
//	go run ./scripts/faults --throughput           messages per second
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"sluice/bench"
)

type cli struct {
	Fault   string `placeholder:"NAME" help:"One fault only."`
	Runs    int    `default:"3" help:"Runs of each fault."`
	Seconds int    `default:"6" help:"Load of each run; a fault that lasts adds to it."`
	Bin     string `type:"existingfile" placeholder:"FILE" help:"The gateway; by default it is built."`
	Keep    bool   `help:"Keep the journals and logs of good runs too."`

	Outage     time.Duration `xor:"mode" placeholder:"TIME" help:"Instead: take Redis away for this long, under load."`
	Storm      int           `xor:"mode" placeholder:"N" help:"Instead: reconnect N idle sessions at once, with and without the client-side cache."`
	Throughput bool          `xor:"mode" help:"Instead: measure acknowledged messages per second."`
	Rate       float64       `default:"60000" help:"With --throughput: the fixed rate."`
	Conns      int           `default:"2000" help:"With --throughput: connections."`
}

// errBroken is a promise that was not kept; it has been reported.
var errBroken = errors.New("promises were broken")

func main() {
	if hidden(os.Args) {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once; its children die with it
	var c cli
	k := kong.Parse(&c, kong.Name("faults"), kong.UsageOnError(),
		kong.Description("Kill, stop, delay and flush under load, and count what was lost or doubled."))
	err := c.run(ctx, os.Stdout)
	if errors.Is(err, errBroken) {
		k.Exit(1)
	}
	k.FatalIfErrorf(err)
}

// hidden runs this program as one of its own parts when it was started as that.
func hidden(args []string) bool {
	if len(args) != 2 {
		return false
	}
	serve := map[string]func(io.Reader, io.Writer) error{clientCommand: serveClient, bench.WorkerCommand: bench.Serve}[args[1]]
	if serve == nil {
		return false
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func (c *cli) run(ctx context.Context, out io.Writer) error {
	bin := c.Bin
	if bin == "" {
		dir, err := os.MkdirTemp("", "sluice-faults-bin-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if bin, err = buildGateway(ctx, dir); err != nil {
			return err
		}
	}
	switch {
	case c.Outage > 0:
		return outage(ctx, out, bin, c.Outage)
	case c.Storm > 0:
		return storm(ctx, out, bin, c.Storm)
	case c.Throughput:
		return throughput(ctx, out, bin, c.Rate, c.Conns, time.Duration(c.Seconds)*time.Second)
	}
	list, err := named(c.Fault)
	if err != nil {
		return err
	}
	return runAll(ctx, out, list, c.Runs, plan{bin: bin, seconds: time.Duration(c.Seconds) * time.Second, load: usualLoad}, c.Keep)
}

// buildGateway builds cmd/sluice into dir, with the race detector when this program has it.
func buildGateway(ctx context.Context, dir string, flags ...string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", bin}, flags...), "sluice/cmd/sluice")...)
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, b)
	}
	return bin, nil
}
