package main

import (
	"context"
	"errors"
	"io"
	"time"

	"sluice/bench"
	"sluice/bench/report"
)

type capacityCmd struct {
	target
	Max   int           `default:"1000000" help:"Connections to try at most."`
	Step  int           `default:"5000" help:"Connections added in a step, until one fails; then the distance is halved."`
	Ramp  float64       `default:"5000" help:"Connects started per second."`
	Rate  float64       `default:"1000" help:"Messages per second of the probe after each step."`
	Probe time.Duration `default:"2s" help:"How long each probe is."`
	Limit time.Duration `default:"100ms" help:"A step fails when the probe's p99 is above this."`
	Echo  bool          `help:"The server echoes; without this, with --message or --expect it replies so, and else it counts."`
}

func (c *capacityCmd) Run(ctx context.Context, s *streams) error {
	if err := mustNotBeZero(map[string]bool{"max": c.Max == 0, "step": c.Step == 0, "ramp": c.Ramp == 0,
		"rate": c.Rate == 0, "probe": c.Probe == 0, "limit": c.Limit == 0,
		"timeout": c.Timeout == 0}); err != nil {
		return err
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	spec.Conns, spec.Ramp = c.Max, c.Ramp
	if c.Echo {
		spec.Scenario = bench.Echo
	}
	done := c.progress(&spec, s)
	found, err := bench.FindCapacity(ctx, bench.CapacitySpec{
		Spec: spec, Step: c.Step, Probe: c.Probe, Rate: c.Rate, Limit: c.Limit})
	done()
	if found == nil {
		return err
	}
	return errors.Join(err, c.write(s, found.OK(), pages{
		text: func(w io.Writer) error { return report.WriteCapacityText(w, found) },
		json: func(w io.Writer) error { return report.WriteCapacityJSON(w, found) },
		html: func(w io.Writer) error { return report.WriteCapacityHTML(w, found) }}))
}
