// Package million opens very many connections to a gateway that it starts, on one machine, and
// checks that none is lost, that no heartbeat is missed and that every count is right. It says
// first whether the machine has what that needs.
package million

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"sluice/bench/launch"
	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Options says what to do. The zero value of every field is a sensible default.
type Options struct {
	Sluice    string        // the gateway's binary; see launch.FindSluice
	Args      []string      // further arguments of `sluice serve`
	Conns     int           // default 1,000,000
	Heartbeat time.Duration // default 30 s
	Hold      time.Duration // with nothing but heartbeats; default two of them
	Traffic   time.Duration // counted messages; default 30 s
	Rate      float64       // of these, a second; default 5,000
	// Timeout is for one handshake, and for the last replies; default 20 s.
	Timeout time.Duration
	// RampLatency is the bound on p90 of handshakes; default 50 ms.
	RampLatency time.Duration
	retries     int  // of a connect; default 20
	Anyway      bool // run also when the preflight says that it will not do

	Log      func(line string)   // when set, is told what happens
	Progress func(load.Progress) // see load.Spec
}

// withDefaults fills in the defaults and refuses what cannot be.
func (o Options) withDefaults() (Options, error) {
	o.Conns = cmp.Or(o.Conns, 1_000_000)
	o.Heartbeat = cmp.Or(o.Heartbeat, 30*time.Second)
	o.Hold = cmp.Or(o.Hold, 2*o.Heartbeat)
	o.Traffic = cmp.Or(o.Traffic, 30*time.Second)
	o.Rate = cmp.Or(o.Rate, 5000)
	o.Timeout = cmp.Or(o.Timeout, 20*time.Second)
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.Conns < 1 || o.Heartbeat < 0 || o.Hold < 0 || o.Traffic < 0 || o.Rate < 0 || o.Timeout < 0 {
		return o, fmt.Errorf("%d connections, heartbeat %v, hold %v, traffic %v, rate %g, timeout %v: "+
			"must be positive", o.Conns, o.Heartbeat, o.Hold, o.Traffic, o.Rate, o.Timeout)
	}
	return o, nil
}

// Report is what a run found. It marshals to JSON.
type Report struct {
	Conns     int           `json:"conns"`
	Heartbeat time.Duration `json:"heartbeat_ns"`
	Hold      time.Duration `json:"hold_ns"`
	Started   time.Time     `json:"started"`
	Checks    []Check       `json:"checks"`  // of the preflight
	Command   []string      `json:"command"` // the gateway's
	// Counted is how many connections the gateway itself said it had, when all were open.
	Counted int64 `json:"counted"`
	// ExitSeconds is from SIGTERM to the gateway's end.
	ExitSeconds float64      `json:"exit_seconds"`
	Load        *load.Result `json:"load"` // nil when nothing was tried
	Failures    []string     `json:"failures"`
}

// OK reports whether nothing was wrong.
func (r *Report) OK() bool { return len(r.Failures) == 0 }

const (
	startWithin = 30 * time.Second
	// drainWithin is how long the gateway may take for all goodbyes, and exitWithin how long we
	// wait for it: a machine that is too slow is reported, not cut short.
	drainWithin = 2 * time.Minute
	exitWithin  = 3 * time.Minute
)

// Run makes the run. When the preflight fails, or the gateway does not start, the report says so
// and has no Load. An error means that nothing could be reported.
func Run(ctx context.Context, o Options) (*Report, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	sluice, err := launch.FindSluice(o.Sluice, "--sluice")
	if err != nil {
		return nil, err
	}
	r := &Report{Conns: o.Conns, Heartbeat: o.Heartbeat, Hold: o.Hold, Started: time.Now(),
		Checks: preflight(o.Conns, o.Heartbeat, readMachine()), Failures: []string{}}
	for _, c := range r.Checks {
		o.Log(c.String())
	}
	if reach := Reach(r.Checks); reach < o.Conns && !o.Anyway {
		r.fail("this machine holds some %s connections: try --conns %d, or --anyway",
			units.Number(reach), reach)
		return r, nil
	}
	g, err := startGateway(ctx, sluice, o)
	if err != nil {
		r.fail("%v", err)
		return r, nil
	}
	defer func() { _ = g.Stop(0) }()
	r.Command = g.command
	o.Log(fmt.Sprintf("gateway: process %d on %s", g.PID(), g.addr))
	if r.Load, err = load.Run(ctx, r.spec(o, g)); err != nil {
		return nil, errors.Join(err, errors.New(g.OutputNote()))
	}
	r.finish(g)
	return r, nil
}

// gateway is a `sluice serve`.
type gateway struct {
	*launch.Process
	command     []string
	addr, admin string
	told        time.Time // when it was told to end
}

func startGateway(ctx context.Context, sluice string, o Options) (*gateway, error) {
	ports, err := launch.FreePorts(2)
	if err != nil {
		return nil, err
	}
	g := &gateway{addr: ports[0], admin: ports[1]}
	args := append([]string{"serve", "--listen", g.addr, "--admin", g.admin,
		"--max-conns", strconv.Itoa(o.Conns), "--max-sessions", strconv.Itoa(max(o.Conns, 1000)),
		"--heartbeat", o.Heartbeat.String(), "--drain-timeout", drainWithin.String(),
		"--log-level", "warn", "--log-format", "text"}, o.Args...)
	g.command = append([]string{sluice}, args...)
	cmd := exec.Command(sluice, args...)
	cmd.Env = launch.FairEnvironment()
	if g.Process, err = launch.Start(cmd); err != nil {
		return nil, fmt.Errorf("start the gateway: %w", err)
	}
	if err := g.AwaitHealth(ctx, g.addr, startWithin); err != nil {
		_ = g.Stop(0)
		return nil, fmt.Errorf("start the gateway: %w", err)
	}
	return g, nil
}

// spec is the load.
func (r *Report) spec(o Options, g *gateway) load.Spec {
	return load.Spec{
		Targets: []string{"ws://" + g.addr + "/ws/chat/"}, Scenario: load.Count, Conns: o.Conns,
		AutoRamp: true, RampLatency: o.RampLatency, Retries: cmp.Or(o.retries, 20), Timeout: o.Timeout, Welcome: true,
		Hold: o.Hold, Heartbeats: "expect", HeartbeatEvery: o.Heartbeat,
		// A schedule that is kept late is not what this is about: latencies show it.
		Rate: o.Rate, Duration: o.Traffic, AllowBehind: true,
		ExpectClose: []int{1001}, AwaitClose: drainWithin,
		ServerPID: g.PID(), Progress: o.Progress,
		OnPhase: func(phase string) {
			switch phase {
			case "idle":
				r.Counted = g.connections()
			case "after":
				o.Log("gateway: SIGTERM")
				g.told = time.Now()
				g.Signal(syscall.SIGTERM)
			}
		},
	}
}

// connections is how many connections the gateway says it has; -1 when it does not say.
func (g *gateway) connections() int64 {
	page, err := launch.Get(context.Background(), "http://"+g.admin+"/metrics")
	if err != nil {
		return -1
	}
	return int64(launch.Sample(page, "sluice_connections"))
}

// finish waits for the gateway's end and judges.
func (r *Report) finish(g *gateway) {
	n := &r.Load.Counters
	r.Failures = append(r.Failures, r.Load.Failures...)
	if n.Ramped < int64(r.Conns) && n.Abandoned == 0 && r.Load.Complete {
		r.fail("%s of %s connections were opened.", units.Number(n.Ramped), units.Number(r.Conns))
	}
	if !r.Load.Complete || n.Ramped == 0 {
		return
	}
	if r.Counted != n.Ramped {
		r.fail("the gateway counted %s connections when %s were open.",
			units.Number(r.Counted), units.Number(n.Ramped))
	}
	if n.Byes != n.Ramped {
		r.fail("%s clients were told bye, of %s.", units.Number(n.Byes), units.Number(n.Ramped))
	}
	if closed := n.Closes["1001"]; closed != n.Ramped {
		r.fail("%s clients were closed with 1001, of %s: %s.", units.Number(closed),
			units.Number(n.Ramped), load.ListCloses(n.Closes))
	}
	select {
	case <-g.Ended():
	case <-time.After(exitWithin):
		r.fail("the gateway did not end within %v of SIGTERM.", exitWithin)
		return
	}
	r.ExitSeconds = time.Since(g.told).Seconds()
	if err := g.Wait(); err != nil {
		r.fail("the gateway ended with %v%s.", err, g.OutputNote())
	}
}

func (r *Report) fail(format string, args ...any) {
	r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
}

// Machine is the machine that this ran on.
func (r *Report) Machine() procfs.Machine {
	if r.Load != nil {
		return r.Load.Machine
	}
	return procfs.Describe()
}
