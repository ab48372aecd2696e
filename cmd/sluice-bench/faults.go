package main

import (
	"context"
	"errors"
	"os"
	"time"

	"sluice/bench/faults"
	"sluice/bench/launch"
)

type faultsCmd struct {
	Fault      string        `placeholder:"NAME" help:"One fault only."`
	Runs       int           `default:"3" help:"Runs of each fault."`
	Load       time.Duration `default:"6s" help:"Load of each run; a fault that lasts adds to it."`
	Bin        string        `type:"existingfile" placeholder:"FILE" help:"The gateway (default: sluice beside this program, in ./bin or in PATH)."`
	Keep       bool          `help:"Keep the journals and logs of good runs too."`
	Outage     time.Duration `xor:"mode" placeholder:"TIME" help:"Instead: take Redis away for this long."`
	Storm      int           `xor:"mode" placeholder:"N" help:"Instead: N idle sessions reconnect at once, with and without the client-side cache."`
	Throughput bool          `xor:"mode" help:"Instead: measure acknowledged messages per second."`
	Services   bool          `xor:"mode" help:"Instead: a service behind two gateways, with topics in Redis; count messages and publications that were lost, doubled or reordered."`
	Replica    bool          `help:"With --throughput: Redis has a replica, which is not waited for, and waited for (--redis-wait-replicas)."`
	Rate       float64       `default:"60000" help:"With --throughput: the fixed rate."`
	Conns      int           `default:"2000" help:"With --throughput: connections."`
}

func (c *faultsCmd) Run(ctx context.Context, s *streams) error {
	bin, err := launch.FindSluice(c.Bin, "--bin")
	if err != nil {
		return err
	}
	switch {
	case c.Outage > 0:
		err = faults.Outage(ctx, s.out, bin, c.Outage)
	case c.Storm > 0:
		err = faults.Storm(ctx, s.out, bin, c.Storm)
	case c.Throughput:
		err = faults.Throughput(ctx, s.out, bin, c.Rate, c.Conns, c.Load, c.Replica)
	default:
		o := faults.Options{Fault: c.Fault, Runs: c.Runs, Load: c.Load, Bin: bin, Keep: c.Keep}
		run := faults.Run
		if c.Services {
			run = faults.Services
			self, err := os.Executable()
			if err != nil {
				return err
			}
			o.Service = []string{self, "service"}
		}
		err = run(ctx, s.out, o)
	}
	if errors.Is(err, faults.ErrBroken) {
		return errFailed
	}
	return err
}
