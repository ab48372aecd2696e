package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"sluice/bench"
	"sluice/bench/baseline"
	"sluice/bench/report"
)

const description = `Load, capacity and comparison for WebSocket servers.

Latencies of the open loop (--rate) count from the intended send time, so a server that stalls is charged for every message that it kept
waiting. Exit status 1 and a sentence when anything was lost, late or closed that should not have been.`

type cli struct {
	Run      runCmd      `cmd:"" help:"Load servers and report."`
	Capacity capacityCmd `cmd:"" help:"Raise connections in steps until something gives, and say what gave."`
	Baseline baselineCmd `cmd:"" help:"Serve the same service with one goroutine per connection, to compare with."`
	Compare  compareCmd  `cmd:"" help:"Measure sluice and all baselines under the same load."`
	Faults   faultsCmd   `cmd:"" help:"Kill, stop, delay and empty gateways and Redis under load, and count what was lost or doubled."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

// streams is where a command writes: what was asked for, and what is said on the way.
type streams struct{ out, err io.Writer }

// errFailed is a run that was made and found something wrong; it has been reported.
var errFailed = errors.New("the run failed")

func execute(ctx context.Context, args []string, out, errs io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c, kong.Vars{"baselines": "One of " + strings.Join(baseline.Names(), ", ") + "."}, kong.Name("sluice-bench"), kong.Description(description), kong.UsageOnError(),
		kong.Writers(out, errs), kong.Exit(func(code int) { exit = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}))
	if err != nil {
		fmt.Fprintln(errs, err)
		return 2
	}
	k, err := parser.Parse(args)
	if exit >= 0 { // --help
		return exit
	}
	if err != nil {
		fmt.Fprintf(errs, "sluice-bench: %v (sluice-bench --help tells more)\n", err)
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

// target is what the commands that connect have in common.
type target struct {
	URL         []string      `arg:"" name:"url" help:"ws:// or wss:// URLs; connections are dealt to them in turn."`
	Source      []string      `placeholder:"ADDR" help:"Local addresses to connect from. One has some 28,000 ports for each URL; loopback targets get as many of 127.0.0.0/8 as they need."`
	Header      []string      `sep:"none" placeholder:"NAME:VALUE" help:"Header of the handshake; repeat for more."`
	Subprotocol string        `help:"Subprotocol to ask for."`
	Insecure    bool          `help:"wss: do not check the certificate."`
	Payload     int           `default:"32" help:"Bytes of a message."`
	Timeout     time.Duration `default:"10s" help:"For a connect with its handshake, and for the last replies."`
	ServerPID   int           `name:"server-pid" placeholder:"PID" help:"Measure this process and its children: CPU, memory, descriptors; and the kernel's memory."`
	Quiet       bool          `short:"q" help:"No progress."`
}

func (t *target) spec() (bench.Spec, error) {
	s := bench.Spec{Targets: t.URL, Sources: t.Source, Subprotocol: t.Subprotocol, Insecure: t.Insecure, Payload: t.Payload,
		Timeout: t.Timeout, ServerPID: t.ServerPID, Headers: http.Header{}}
	if t.Payload == 0 {
		s.Payload = -1
	}
	for _, h := range t.Header {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return s, fmt.Errorf("--header %q: want NAME:VALUE", h)
		}
		s.Headers.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return s, nil
}

// wantMore complains of the flags that are zero: in a Spec that is the default, on the command line it was asked for.
func wantMore(zero map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(zero)) {
		if zero[name] {
			return fmt.Errorf("--%s 0: want more than nothing", name)
		}
	}
	return nil
}

type runCmd struct {
	target
	Scenario       string        `short:"s" default:"count" enum:"idle,count,echo,resume,churn,storm,slow" help:"idle: hold; count: every reply's count is checked; echo: every reply is compared; resume: count, leave, come back, compare the total; churn: connect and close; storm: all drop and come back at once; slow: some stop reading."`
	Conns          int           `short:"c" default:"1000" help:"Connections."`
	Ramp           float64       `default:"2000" help:"Connects started per second."`
	Rate           float64       `short:"r" help:"Open loop: messages per second over all (resume, churn: visits), at intended times."`
	Window         int           `short:"w" default:"64" help:"Closed loop: so many messages outstanding over all. Not used with --rate."`
	Duration       time.Duration `short:"d" default:"10s" help:"Of the traffic, after the ramp."`
	Think          time.Duration `help:"Closed loop: pause before the next message takes the place of an answered one."`
	Messages       int           `default:"5" help:"resume: messages per visit."`
	Heartbeats     string        `default:"ignore" enum:"expect,ignore" help:"expect: a heartbeat that does not come is a failure."`
	HeartbeatEvery time.Duration `default:"30s" help:"The server's interval, against which jitter is measured."`
	Verify         bool          `default:"true" negatable:"" help:"Check every count, payload and total."`
	Welcome        bool          `help:"A connection without a welcome frame is a failure."`
	SessionIDs     string        `name:"session-ids" default:"server" enum:"server,client" help:"resume, storm: who makes the session ids. client: for servers that do not tell theirs."`
	Reconnect      bool          `help:"Connections that the server ends come back to their session, and its total is checked."`
	ExpectClose    []int         `placeholder:"CODE" help:"Close codes from the server that are no failure, such as 1001 when it is drained on purpose."`
	Storms         int           `default:"1" help:"storm: how many, one after the other."`
	SlowFraction   float64       `default:"0.1" help:"slow: share of clients that stop reading."`
	Retries        int           `default:"5" help:"Attempts after the first before a connection is given up. A Retry-After is obeyed, up to 30s."`
	Settle         time.Duration `help:"Pause before each measurement of the server (default 1s with --server-pid)."`
	Processes      int           `help:"Processes of this tool (default: as many as descriptors need)."`
	SLO            []string      `name:"slo" placeholder:"p99=5ms" help:"Fail when a latency is above this: p99=5ms, max=1s, handshake.p99=50ms, heartbeat.p99=1s."`
	JSON           string        `name:"json" type:"path" placeholder:"FILE" help:"Write the result as JSON."`
	HTML           string        `name:"html" type:"path" placeholder:"FILE" help:"Write the result as one HTML page with charts."`
}

func (c *runCmd) Run(ctx context.Context, s *streams) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	spec.Scenario, spec.Conns, spec.Ramp, spec.Rate, spec.Window = bench.Scenario(c.Scenario), c.Conns, c.Ramp, c.Rate, c.Window
	spec.Duration, spec.Think, spec.Messages = c.Duration, c.Think, c.Messages
	spec.Heartbeats, spec.HeartbeatEvery, spec.NoVerify, spec.Welcome = c.Heartbeats, c.HeartbeatEvery, !c.Verify, c.Welcome
	spec.SessionIDs, spec.Reconnect, spec.ExpectClose = c.SessionIDs, c.Reconnect, c.ExpectClose
	spec.Storms, spec.SlowFraction, spec.Retries, spec.Settle, spec.Processes = c.Storms, c.SlowFraction, c.Retries, c.Settle, c.Processes
	if c.Retries == 0 {
		spec.Retries = -1
	}
	if err := wantMore(map[string]bool{"conns": c.Conns == 0, "ramp": c.Ramp == 0, "window": c.Window == 0, "duration": c.Duration == 0,
		"messages": c.Messages == 0, "heartbeat-every": c.HeartbeatEvery == 0, "storms": c.Storms == 0, "slow-fraction": c.SlowFraction == 0, "timeout": c.Timeout == 0}); err != nil {
		return err
	}
	for _, text := range c.SLO {
		o, err := bench.ParseObjective(text)
		if err != nil {
			return fmt.Errorf("--slo: %w", err)
		}
		spec.SLO = append(spec.SLO, o)
	}
	done := c.progress(&spec, s)
	r, err := bench.Run(ctx, spec)
	done()
	if err != nil {
		return err
	}
	if err := errors.Join(report.WriteText(s.out, r),
		writeFile(c.JSON, func(w io.Writer) error { return report.WriteJSON(w, r) }),
		writeFile(c.HTML, func(w io.Writer) error { return report.WriteHTML(w, r) })); err != nil {
		return err
	}
	if !r.OK() {
		return errFailed
	}
	return nil
}

// progress sets up what is shown on the way; done clears it away.
func (t *target) progress(spec *bench.Spec, s *streams) (done func()) {
	f, ok := s.err.(*os.File)
	if t.Quiet || !ok {
		return func() {}
	}
	spec.Progress, done = report.ShowProgress(f)
	return done
}

// writeFile writes to a file; to none when the name is empty.
func writeFile(name string, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

type baselineCmd struct {
	Name      string        `arg:"" help:"${baselines}"`
	Listen    string        `default:"127.0.0.1:8000" help:"Address to listen on; port 0 is any."`
	App       string        `default:"count" enum:"count,echo" help:"count: sluice's protocol; echo: messages come back."`
	Heartbeat time.Duration `default:"30s" help:"Between two heartbeats; negative is off."`
}

func (c *baselineCmd) Run(ctx context.Context, s *streams) error {
	return baseline.Serve(ctx, c.Name, c.Listen, baseline.Options{App: c.App, Heartbeat: c.Heartbeat,
		Ready: func(a net.Addr) { fmt.Fprintf(s.out, "listening on %s\n", a) }})
}

type versionCmd struct{}

func (versionCmd) Run(s *streams) error {
	version, revision := "unknown", ""
	if b, ok := debug.ReadBuildInfo(); ok {
		version = b.Main.Version
		for _, kv := range b.Settings {
			if kv.Key == "vcs.revision" {
				revision = " " + kv.Value
			}
		}
	}
	_, err := fmt.Fprintf(s.out, "sluice-bench %s%s\n", version, revision)
	return err
}

type compareCmd struct {
	Sluice string   `type:"path" placeholder:"FILE" help:"The sluice binary (default: beside this program, in ./bin, or in PATH)."`
	Only   []string `placeholder:"NAME" help:"Which baselines; sluice-1 is sluice with one loop (default: all)."`
	Quick  bool     `help:"Two minutes instead of eight, with fewer connections."`
	Out    string   `type:"path" placeholder:"PREFIX" help:"Write PREFIX.json, PREFIX.md, PREFIX.html and PREFIX.svg."`
	Quiet  bool     `short:"q" help:"No progress."`
}

func (c *compareCmd) Run(ctx context.Context, s *streams) error {
	o := bench.CompareOptions{Sluice: c.Sluice, Only: c.Only, Quick: c.Quick, Command: strings.Join(os.Args, " ")}
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
