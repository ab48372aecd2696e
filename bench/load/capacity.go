package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sluice/bench/procfs"
	"sluice/bench/units"
)

// CapacitySpec says how to look for the limit. The zero value of every field but Spec.Targets is a sensible default.
type CapacitySpec struct {
	Spec  Spec          // targets, payload, server pid and the like; Conns is the most to try, default 1,000,000
	Step  int           // connections added in a step; default 5000
	Probe time.Duration // of the traffic at the end of each step; default 2 s
	Rate  float64       // messages per second of that traffic; default 1000
	Limit time.Duration // p99 of that traffic beyond which latency has given; default 100 ms
}

// Capacity is what the search found.
type Capacity struct {
	Spec    Spec           `json:"spec"`
	Machine procfs.Machine `json:"machine"`
	Held    int            `json:"held"` // connections of the last step in which nothing gave
	Gave    string         `json:"gave"` // descriptors, ports, memory, cpu, refusals, losses, latency, the load generator, nothing or interrupted
	Why     string         `json:"why"`  // a sentence
	Steps   []CapacityStep `json:"steps"`
}

// CapacityStep is one step.
type CapacityStep struct {
	Conns       int              `json:"conns"` // wanted
	Open        int64            `json:"open"`  // had
	RampSeconds float64          `json:"ramp_seconds"`
	Message     Latency          `json:"message"`
	CPU         float64          `json:"cpu"`           // share of the machine's CPU time that was in use, 0 to 1
	Available   int64            `json:"mem_available"` // bytes, machine-wide
	Server      procfs.Usage     `json:"server"`        // with ServerPID
	Reasons     map[string]int64 `json:"reasons"`       // attempts that failed in this step
}

// FindCapacity raises the number of connections in steps until something gives. What gives is named by what there is
// evidence of, in this order: descriptors, ports, refusals, losses, memory, then latency, which is called cpu when
// the machine had none to spare. When ctx ends it returns what it has.
func FindCapacity(ctx context.Context, c CapacitySpec) (*Capacity, error) {
	c.Step = cmp.Or(c.Step, 5000)
	c.Probe = cmp.Or(c.Probe, 2*time.Second)
	c.Rate = cmp.Or(c.Rate, 1000)
	c.Limit = cmp.Or(c.Limit, 100*time.Millisecond)
	c.Spec.Conns = cmp.Or(c.Spec.Conns, 1_000_000)
	c.Spec.Retries = cmp.Or(c.Spec.Retries, 2)
	c.Spec.Rate, c.Spec.Duration = c.Rate, c.Probe
	spec, err := c.Spec.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.Step < 1 || c.Limit < 0 {
		return nil, fmt.Errorf("step %d, limit %v: want positive numbers", c.Step, c.Limit)
	}
	r, err := newRun(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer r.fleet.close()
	found := &Capacity{Spec: spec, Machine: r.result.Machine}
	r.ticker, r.began = time.NewTicker(reportEvery), time.Now()
	defer r.ticker.Stop()

	err = c.climb(ctx, r, found)
	var died *deathError
	if errors.As(err, &died) {
		found.Gave, found.Why = "the load generator", died.Error()+"."
	}
	if errors.Is(err, errInterrupted) {
		found.Gave, found.Why, err = "interrupted", "The search was interrupted.", nil
	}
	if err != nil {
		return found, err
	}
	return found, r.close()
}

// climb makes steps until something gives.
func (c *CapacitySpec) climb(ctx context.Context, r *run, found *Capacity) error {
	before := newCounters()
	for conns := 0; conns < r.spec.Conns; {
		n := min(c.Step, r.spec.Conns-conns)
		conns += n
		step, err := c.step(ctx, r, conns, n)
		if err != nil {
			return err
		}
		now := r.fleet.sum()
		step.Open = now.Open
		step.Reasons = map[string]int64{}
		for why, count := range now.Reasons {
			if d := count - before.Reasons[why]; d > 0 {
				step.Reasons[why] = d
			}
		}
		found.Steps = append(found.Steps, *step)
		if found.Gave, found.Why = c.gave(r, step, &before, &now); found.Gave != "" {
			return nil
		}
		found.Held = conns
		before = now.clone()
	}
	found.Gave, found.Why = "nothing", fmt.Sprintf("Nothing gave up to %s connections.", units.Number(r.spec.Conns))
	return nil
}

// step adds n connections to make conns, and probes the server with traffic.
func (c *CapacitySpec) step(ctx context.Context, r *run, conns, n int) (*CapacityStep, error) {
	have := len(r.fleet.workers)
	if err := r.fleet.grow(max(have, processesFor(conns)), processesFor(c.most()) == 1); err != nil {
		return nil, err
	}
	if err := r.awaitOf(ctx, "ready", len(r.fleet.workers)-have); err != nil {
		return nil, err
	}
	step := &CapacityStep{Conns: conns}
	busy, all := procfs.CPUTimes()
	r.spec.Conns, r.length = conns, 0
	r.enter("ramp", 0)
	shares := make([]int, len(r.fleet.workers))
	for i, l := range r.fleet.workers {
		shares[i] = min(n, connsPerProcess()-l.conns)
		n -= shares[i]
	}
	err := r.ramp(ctx, shares)
	r.spec.Conns = c.most()
	if err != nil {
		return nil, err
	}
	step.RampSeconds = r.result.RampSeconds
	r.hists["message"] = &hist{}
	if err := r.traffic(ctx, c.Probe); err != nil {
		return nil, err
	}
	step.Message = r.hists["message"].summary()
	busyNow, allNow := procfs.CPUTimes()
	step.CPU = ratio(busyNow-busy, allNow-all)
	step.Available = procfs.Available()
	if r.spec.ServerPID != 0 {
		if step.Server, err = procfs.Sample(r.spec.ServerPID); err != nil {
			step.Server = procfs.Usage{} // it has ended, which the losses say
		}
	}
	return step, nil
}

func (c *CapacitySpec) most() int {
	if c.Spec.Conns == 0 {
		return 1_000_000
	}
	return c.Spec.Conns
}

// gave names what gave in a step; "" when nothing did.
func (c *CapacitySpec) gave(r *run, s *CapacityStep, before, now *Counters) (what, why string) {
	at := "at " + units.Number(s.Conns) + " connections"
	for reason := range s.Reasons {
		switch {
		case strings.HasPrefix(reason, "no local port left"):
			return "ports", fmt.Sprintf("The load generator ran out of local ports %s: give more --source addresses.", at)
		case strings.HasPrefix(reason, "no descriptor left"):
			return "descriptors", fmt.Sprintf("The load generator ran out of descriptors %s.", at)
		}
	}
	refused := now.Abandoned - before.Abandoned
	lost := now.Lost - before.Lost
	if limit := procfs.FDLimit(r.spec.ServerPID); refused+lost > 0 && limit > 0 && s.Server.Processes == 1 && s.Server.FDs > limit*95/100 {
		return "descriptors", fmt.Sprintf("The server has %s of its %s descriptors open %s.", units.Number(s.Server.FDs), units.Number(limit), at)
	}
	switch {
	case refused > 0:
		return "refusals", fmt.Sprintf("%s connections could not be opened %s: %s.", units.Number(refused), at, ListCounts(s.Reasons))
	case lost > 0:
		return "losses", fmt.Sprintf("%s connections were lost %s: %s.", units.Number(lost), at, now.endings())
	case s.Available > 0 && s.Available < r.result.Machine.MemoryB/20:
		return "memory", fmt.Sprintf("Only %s of the machine's %s of memory is left %s.", units.Bytes(float64(s.Available)), units.Bytes(float64(r.result.Machine.MemoryB)), at)
	}
	late := time.Duration(s.Message.P99US) * time.Microsecond
	missing := now.Missing - before.Missing
	if late <= c.Limit && missing == 0 {
		return "", ""
	}
	slow := fmt.Sprintf("p99 was %v at %g messages a second", late, c.Rate)
	if missing > 0 {
		slow += fmt.Sprintf(" and %d got no reply", missing)
	}
	if s.CPU > 0.95 {
		return "cpu", fmt.Sprintf("The machine's %d CPUs were %.0f %% busy %s: %s.", r.result.Machine.CPUs, 100*s.CPU, at, slow)
	}
	return "latency", fmt.Sprintf("The server was late %s: %s, and at most %v was allowed.", at, slow, c.Limit)
}
