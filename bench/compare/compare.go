// Package compare puts the same load on sluice, on the goroutine-per-connection baselines and on
// any other servers in turn, each of ours in a fresh process, in several rounds whose order
// rotates, so that what changes on the machine in between affects all of them.
//
// It reports medians with their spread, and says where sluice loses.
package compare

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"sluice/bench/baseline"
	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Sluice is the name of the server that the others are compared with.
const Sluice = "sluice"

// OneLoop is sluice with one event loop, like for like with the floor, which is a program of one
// thread. It takes part where the floor is compared with: in the steps with the most connections.
const OneLoop = "sluice-1"

// None, in Options.Only, stands for no baseline.
const None = "none"

// Options of a comparison. The zero value is the full one, of all servers.
type Options struct {
	Sluice string // the sluice binary; "" looks beside this program, in ./bin and in PATH
	// Self is a program that knows `baseline NAME --listen A --app APP --heartbeat D`; "" is
	// this one.
	Self    string
	Only    []string // which baselines, and OneLoop; nil is all
	URLs    []string // servers that run already: NAME=ws://… or NAME=ws://…,pid=N
	App     string   // what all of them serve: baseline.Count (default) or baseline.Echo
	Quick   bool     // two minutes instead of eight, at fewer connections
	Command string   // the user's command line, for the report
	// Log, when set, is called with a line at a time about the progress, by the goroutine that
	// called Run.
	Log func(line string)

	running map[string]running // from URLs
	names   []string           // of URLs, in their order

	// For tests; nil is trial, the load average, what Quick says, and load.Run.
	try  func(ctx context.Context, r *Report, name string, s Step, round int) error
	busy func() float64
	plan *Plan
	load func(context.Context, load.Spec) (*load.Result, error)
}

// Plan is what is measured. Rounds beyond a step's first are left out when Limit would be passed;
// the report shows how many there were.
type Plan struct {
	Steps  []Step        `json:"steps"`
	Limit  time.Duration `json:"limit_ns"`
	Settle time.Duration `json:"settle_ns"` // before the server's memory is sampled
}

// Step is one kind of load on a fresh server.
type Step struct {
	Kind     Kind          `json:"kind"`
	Conns    int           `json:"conns"`
	Rounds   int           `json:"rounds"`
	Duration time.Duration `json:"duration_ns"` // of the traffic
	Window   int           `json:"window"`      // Closed: messages outstanding
	Rate     float64       `json:"rate"`        // Open: messages per second
}

// Kind of a step.
type Kind string

// The kinds: each ramps up as fast as the server accepts, and measures memory idle and after the
// traffic.
const (
	// Closed keeps a window of messages outstanding: CPU per handshake and per message, throughput.
	Closed Kind = "closed"
	Open   Kind = "open"  // messages on a fixed schedule: latencies, memory at several sizes
	Beats  Kind = "beats" // nothing but heartbeats, one a second for each connection
)

const payload = 32 // bytes of a message

// beatEvery is the heartbeat interval of a Beats step; elsewhere it is the usual one.
const (
	beatEvery  = time.Second
	usualBeats = 30 * time.Second
)

func fullPlan() *Plan {
	return &Plan{
		Limit: 8*time.Minute + 30*time.Second, Settle: time.Second,
		Steps: []Step{
			{Kind: Closed, Conns: 10_000, Rounds: 3, Duration: 3 * time.Second, Window: 64},
			{Kind: Open, Conns: 19_000, Rounds: 2, Duration: 4 * time.Second, Rate: 20_000},
			{Kind: Beats, Conns: 5_000, Rounds: 1, Duration: 4 * time.Second},
			{Kind: Open, Conns: 5_000, Rounds: 1, Duration: 2 * time.Second, Rate: 20_000},
			{Kind: Open, Conns: 1_000, Rounds: 1, Duration: 2 * time.Second, Rate: 20_000},
		},
	}
}

func quickPlan() *Plan {
	return &Plan{
		Limit: 110 * time.Second, Settle: 500 * time.Millisecond,
		Steps: []Step{
			{Kind: Closed, Conns: 2_000, Rounds: 2, Duration: time.Second, Window: 64},
			{Kind: Open, Conns: 5_000, Rounds: 1, Duration: 1500 * time.Millisecond, Rate: 15_000},
			{Kind: Beats, Conns: 2_000, Rounds: 1, Duration: 2 * time.Second},
		},
	}
}

func (o Options) withDefaults() (Options, error) {
	if o.plan == nil {
		o.plan = fullPlan()
		if o.Quick {
			o.plan = quickPlan()
		}
	}
	if o.load == nil {
		o.load = load.Run
	}
	if o.busy == nil {
		o.busy = procfs.LoadAverage
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.App == "" {
		o.App = baseline.Count
	}
	if o.App != baseline.Count && o.App != baseline.Echo {
		return o, fmt.Errorf("app %q is not known (use %s or %s)", o.App, baseline.Count, baseline.Echo)
	}
	known := append([]string{OneLoop}, baseline.Names()...)
	if o.Only == nil {
		o.Only = known
	}
	if slices.Equal(o.Only, []string{None}) {
		o.Only = []string{}
	}
	for _, name := range o.Only {
		if !slices.Contains(known, name) {
			return o, fmt.Errorf("baseline %q is not known (use some of %v, %s, or %s alone)",
				name, baseline.Names(), OneLoop, None)
		}
	}
	if err := o.parseURLs(known); err != nil {
		return o, err
	}
	err := o.findPrograms()
	if o.try == nil {
		o.try = o.trial // a copy of o: all else must be set
	}
	return o, err
}

// Run makes the comparison. Any goroutine may call it; it starts processes and ends all of them
// before it returns. When ctx ends it returns what was measured until then, together with ctx's
// error. A server that cannot be measured is no error but a line in Report.Troubles, unless it is
// sluice itself.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Report{Started: time.Now(), Command: o.Command, Quick: o.Quick, App: o.App, Plan: *o.plan,
		Load: o.busy(), Running: o.names}
	if busy := float64(runtime.NumCPU()) / 2; r.Load > busy {
		r.Troubles = append(r.Troubles, fmt.Sprintf("the machine was not idle: its load average was %.1f "+
			"before the comparison began, so spreads are wide and latencies are not the servers' alone",
			r.Load))
	}
	servers := []string{Sluice}
	for _, name := range o.Only {
		if name == baseline.Floor {
			if err := baseline.FloorAvailable(); err != nil {
				r.Troubles = append(r.Troubles, "floor was left out: "+err.Error())
				continue
			}
		}
		servers = append(servers, name)
	}
	servers = append(servers, o.names...)
	err = o.rounds(ctx, r, servers)
	r.Seconds = time.Since(r.Started).Seconds()
	r.summarise(servers)
	if _, ok := r.server(Sluice); err == nil && !ok {
		err = errors.New("compare: sluice could not be measured; what went wrong is in the report")
	}
	return r, err
}

// rounds runs every step's rounds, first rounds first.
func (o Options) rounds(ctx context.Context, r *Report, servers []string) error {
	most, total, done := 0, 0, 0
	for _, s := range o.plan.Steps {
		most = max(most, s.Rounds)
		total += s.Rounds * len(servers)
	}
	took := make([]time.Duration, len(o.plan.Steps))
	for round := range most {
		for i, s := range o.plan.Steps {
			if round >= s.Rounds {
				continue
			}
			if round > 0 && time.Since(r.Started)+took[i] > o.plan.Limit {
				r.Troubles = append(r.Troubles, fmt.Sprintf(
					"round %d at %s connections (%s) was left out: time was up",
					round+1, units.Number(s.Conns), s.Kind))
				continue
			}
			began := time.Now()
			for n := range servers {
				name := servers[(n+round+i)%len(servers)] // none is always first
				done++
				if !o.takesPart(name, s) {
					continue
				}
				o.Log(fmt.Sprintf("[%d/%d] %s: %s connections, %s, round %d of %d",
					done, total, name, units.Number(s.Conns), s.Kind, round+1, s.Rounds))
				if err := o.try(ctx, r, name, s, round); err != nil {
					return err
				}
			}
			took[i] = time.Since(began)
		}
	}
	return nil
}

// takesPart reports whether a server is measured in a step.
func (o Options) takesPart(name string, s Step) bool {
	if _, ok := o.running[name]; ok {
		return s.Kind != Beats // its interval is its own
	}
	return name != OneLoop || s.Conns == o.plan.main(s.Kind)
}

// trial measures one server. It fails only when ctx ends or sluice does not start.
func (o Options) trial(ctx context.Context, r *Report, name string, s Step, round int) error {
	beats := usualBeats
	if s.Kind == Beats {
		beats = beatEvery
	}
	server, err := o.serve(ctx, name, beats)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if name == Sluice { // the others would be compared with nothing
			return err
		}
		r.trouble(name, s, err)
		return nil
	}
	defer server.stop()
	spec := load.Spec{
		Targets: []string{server.url}, Scenario: load.Scenario(o.App),
		Conns: s.Conns, Ramp: 1e6, Duration: s.Duration, Window: s.Window, Rate: s.Rate, Payload: payload,
		ServerPID: server.pid, Settle: o.plan.Settle,
	}
	if s.Kind == Beats {
		spec.Scenario, spec.HeartbeatEvery = load.Idle, beatEvery
	}
	var in inside
	spec.OnPhase = func(phase string) {
		if phase == "after" {
			in, err = server.inside(ctx)
		}
	}
	result, runErr := o.load(ctx, spec)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if runErr != nil {
		r.trouble(name, s, fmt.Errorf("%w%s", runErr, server.lastOutput()))
		return nil
	}
	if err != nil {
		r.trouble(name, s, err)
	}
	for _, f := range result.Failures {
		r.trouble(name, s, errors.New(f))
	}
	if u := result.Server; u != nil && u.MemoryUnknown != "" && s.Conns == o.plan.main(s.Kind) && s.Kind == Closed {
		r.trouble(name, s, errors.New("its memory is not known: "+u.MemoryUnknown))
	}
	r.Machine = result.Machine
	r.Trials = append(r.Trials, newTrial(name, s, round, result, in))
	return nil
}

func (r *Report) trouble(name string, s Step, err error) {
	r.Troubles = append(r.Troubles, fmt.Sprintf("%s at %s connections (%s): %v",
		name, units.Number(s.Conns), s.Kind, err))
}
