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

// CapacitySpec says how to look for the limit. The zero value of every field but Spec.Targets is a
// sensible default.
type CapacitySpec struct {
	// Spec has the targets, the scenario (count, echo or custom), the payload, the server's pid and
	// the like. Spec.Conns is the most to try; default 1,000,000.
	Spec  Spec
	Step  int           // connections added in a step; default 5000
	Probe time.Duration // of the traffic at the end of each step; default 2 s
	Rate  float64       // messages per second of that traffic; default 1000
	Limit time.Duration // p99 of that traffic beyond which a step fails; default 100 ms
}

// Capacity is what the search found.
type Capacity struct {
	Spec    Spec           `json:"spec"`
	Machine procfs.Machine `json:"machine"`
	Started time.Time      `json:"started"`
	Held    int            `json:"held"` // the most connections at which a step passed
	// LimitedBy is what made the next larger step fail: descriptors, ports, memory, cpu, refusals,
	// losses, wrong replies, no replies or latency; or none or interrupted.
	LimitedBy string         `json:"limited_by"`
	Why       string         `json:"why"`   // a sentence
	Steps     []CapacityStep `json:"steps"` // in the order in which they were made
}

// OK reports whether the search found a server that works: one that held connections and gave no
// wrong reply.
func (c *Capacity) OK() bool { return c.Held > 0 && !hopeless(c.LimitedBy) }

// hopeless reports whether fewer connections would not make a step pass.
func hopeless(limitedBy string) bool {
	return limitedBy == "wrong replies" || limitedBy == "no replies"
}

// CapacityStep is one step.
type CapacityStep struct {
	Conns       int              `json:"conns"` // asked for
	Open        int64            `json:"open"`
	RampSeconds float64          `json:"ramp_seconds"`
	Message     Latency          `json:"message"`
	CPU         float64          `json:"cpu"`           // share of the machine's CPU time in use, 0 to 1
	Available   int64            `json:"mem_available"` // bytes, machine-wide
	Server      procfs.Usage     `json:"server"`        // with ServerPID
	Reasons     map[string]int64 `json:"reasons"`       // attempts that failed in this step
	LimitedBy   string           `json:"limited_by"`    // what made it fail; "" when it passed
}

// precision is how close, as a share, the search comes to the limit.
const precision = 0.02

// FindCapacity raises the number of connections in steps until one fails, and then halves the
// distance between the last step that passed and the first that failed until they are within 2 %.
// What made a step fail is named by what there is evidence of, in this order: descriptors, ports,
// refusals, losses, wrong or no replies, memory, then latency, which is called cpu when the machine
// had none to spare. When ctx ends it returns what it has. Any goroutine may call it.
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
		return nil, fmt.Errorf("step %d, limit %v: must be positive", c.Step, c.Limit)
	}
	if !spec.replies() || spec.visits() || spec.Scenario == Idle || spec.Scenario == Storm {
		return nil, fmt.Errorf("scenario %s: the capacity is measured with replies: "+
			"use count, echo or custom", spec.Scenario)
	}
	r, err := newRun(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer r.end()
	found := &Capacity{Spec: spec, Machine: r.result.Machine, Started: r.result.Started}
	r.began = time.Now()
	err = c.search(ctx, r, found)
	var tables errNoTables
	if errors.As(err, &tables) {
		found.LimitedBy, found.Why, err = "descriptors", "The load generator: "+tables.Error()+".", nil
	}
	if errors.Is(err, errInterrupted) {
		found.LimitedBy, found.Why, err = "interrupted", "The search was interrupted.", nil
	}
	if err != nil {
		return found, err
	}
	return found, r.close()
}

// search makes steps until the limit is found.
func (c *CapacitySpec) search(ctx context.Context, r *run, found *Capacity) error {
	most, failed := r.spec.Conns, 0
	for conns := min(c.Step, most); ; {
		step, why, err := c.step(ctx, r, conns)
		if err != nil {
			return err
		}
		found.Steps = append(found.Steps, *step)
		if step.LimitedBy == "" {
			found.Held = conns
		} else {
			failed, found.LimitedBy, found.Why = conns, step.LimitedBy, why
		}
		switch {
		case failed == 0 && conns == most:
			found.LimitedBy = "none"
			found.Why = fmt.Sprintf("Every step up to %s connections passed.", units.Number(most))
			return nil
		case failed == 0:
			conns = min(conns+c.Step, most)
			continue
		case hopeless(step.LimitedBy), step.Open == 0,
			failed-found.Held <= max(int(precision*float64(failed)), c.Step/100, 1):
			return nil
		}
		conns = (found.Held + failed) / 2
	}
}

// step opens or closes connections until there are conns, and probes the server with traffic. It
// says why the step failed.
func (c *CapacitySpec) step(ctx context.Context, r *run, conns int) (step *CapacityStep, why string, err error) {
	before := r.crew.sum()
	step = &CapacityStep{Conns: conns}
	busy, all := procfs.CPUTimes()
	if err := c.resize(ctx, r, conns, int(before.Open)); err != nil {
		return nil, "", err
	}
	step.RampSeconds = r.result.RampSeconds
	r.crew.latencies.message.forget()
	if err := r.traffic(ctx, c.Probe); err != nil {
		return nil, "", err
	}
	step.Message = r.crew.latencies.message.summary()
	busyNow, allNow := procfs.CPUTimes()
	step.CPU = ratio(busyNow-busy, allNow-all)
	step.Available = procfs.Available()
	if r.spec.ServerPID != 0 {
		if step.Server, err = procfs.Sample(r.spec.measured()...); err != nil {
			step.Server = procfs.Usage{} // it has ended, which the losses say
		}
	}
	now := r.crew.sum()
	step.Open = now.Open
	step.Reasons = map[string]int64{}
	for why, count := range now.Reasons {
		if d := count - before.Reasons[why]; d > 0 {
			step.Reasons[why] = d
		}
	}
	step.LimitedBy, why = c.judge(r, step, &before, &now)
	return step, why, nil
}

// resize makes open connections into conns.
func (c *CapacitySpec) resize(ctx context.Context, r *run, conns, open int) error {
	r.result.RampSeconds = 0
	if open > conns {
		return r.trim(ctx, conns, open)
	}
	if err := r.crew.grow(max(len(r.crew.workers), r.spec.Loops, loopsFor(conns))); err != nil {
		return err
	}
	most := r.spec.Conns
	defer func() { r.spec.Conns = most }()
	r.spec.Conns, r.length = conns, 0
	r.enter("ramp", 0)
	n := conns - open
	shares := make([]int, len(r.crew.workers))
	for i, l := range r.crew.workers {
		shares[i] = min(n, connsPerTable()-int(l.last.Open))
		n -= shares[i]
	}
	return r.ramp(ctx, shares)
}

// judge names what made a step fail; "" when it passed.
func (c *CapacitySpec) judge(r *run, s *CapacityStep, before, now *Counters) (what, why string) {
	at := "at " + units.Number(s.Conns) + " connections"
	for reason := range s.Reasons {
		switch {
		case strings.HasPrefix(reason, "no local port left"):
			return "ports", fmt.Sprintf(
				"The load generator ran out of local ports %s: give more --source addresses.", at)
		case strings.HasPrefix(reason, "no descriptor left"):
			return "descriptors", fmt.Sprintf("The load generator ran out of descriptors %s.", at)
		}
	}
	refused := now.Abandoned - before.Abandoned
	lost := now.Lost - before.Lost
	if limit := procfs.FDLimit(r.spec.ServerPID); refused+lost > 0 && limit > 0 &&
		s.Server.Processes == 1 && s.Server.FDs > limit*95/100 {
		return "descriptors", fmt.Sprintf("The server has %s of its %s descriptors open %s.",
			units.Number(s.Server.FDs), units.Number(limit), at)
	}
	wrong := now.Corrupt + now.Duplicated + now.Overcount - before.Corrupt - before.Duplicated - before.Overcount
	missing := now.Missing - before.Missing
	switch {
	case refused > 0:
		return "refusals", fmt.Sprintf("%s connections could not be opened %s: %s.",
			units.Number(refused), at, ListCounts(s.Reasons))
	case lost > 0:
		return "losses", fmt.Sprintf("%s connections were lost %s: %s.",
			units.Number(lost), at, now.endings())
	case wrong > 0:
		return "wrong replies", fmt.Sprintf("%s replies were wrong %s%s.", units.Number(wrong), at,
			cmp.Or(r.result.example(wrongCorrupt), r.result.example(wrongOvercount), r.result.example(wrongTwice)))
	case now.Replies == before.Replies:
		return "no replies", fmt.Sprintf("None of %s messages got a right reply %s%s.",
			units.Number(now.Sent-before.Sent), at, r.result.example(NotExpected))
	case s.Available > 0 && s.Available < r.result.Machine.MemoryB/20:
		return "memory", fmt.Sprintf("Only %s of the machine's %s of memory is left %s.",
			units.Bytes(float64(s.Available)), units.Bytes(float64(r.result.Machine.MemoryB)), at)
	}
	late := time.Duration(s.Message.P99US) * time.Microsecond
	if late <= c.Limit && missing == 0 {
		return "", ""
	}
	slow := fmt.Sprintf("p99 was %s at %s messages a second",
		units.Micros(float64(s.Message.P99US)), units.Compact(c.Rate))
	if missing > 0 {
		slow += fmt.Sprintf(" and %d got no reply", missing)
	}
	if s.CPU > 0.95 {
		return "cpu", fmt.Sprintf("The machine's %d CPUs were %.0f %% busy %s: %s.",
			r.result.Machine.CPUs, 100*s.CPU, at, slow)
	}
	return "latency", fmt.Sprintf("The server was late %s: %s; at most %v is allowed.", at, slow, c.Limit)
}
