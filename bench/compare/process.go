package compare

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/bench/baseline"
	"sluice/bench/launch"
)

const (
	startWithin = time.Minute // compiling the floor included
	stopWithin  = 10 * time.Second
)

// findPrograms fills in the two binaries.
func (o *Options) findPrograms() (err error) {
	if o.Self == "" {
		if o.Self, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program, to start the baselines: %w", err)
		}
	}
	o.Sluice, err = launch.FindSluice(o.Sluice, "--sluice")
	return err
}

// server is a server under test.
type server struct {
	url        string
	pid        int // 0: not known
	stop       func()
	lastOutput func() string
	inside     func(ctx context.Context) (inside, error)
}

// serve starts the named server, or finds the one that runs already.
func (o Options) serve(ctx context.Context, name string, heartbeat time.Duration) (*server, error) {
	if s, ok := o.running[name]; ok {
		return &server{url: s.url, pid: s.pid, stop: func() {}, lastOutput: func() string { return "" },
			inside: func(context.Context) (inside, error) { return inside{}, nil }}, nil
	}
	p, err := o.start(ctx, name, heartbeat)
	if err != nil {
		return nil, err
	}
	return &server{url: "ws://" + p.addr + "/ws/chat/", pid: p.PID(), stop: p.stop,
		lastOutput: p.OutputNote, inside: p.inside}, nil
}

// running is a server that was running before the comparison.
type running struct {
	url string
	pid int
}

// parseURLs fills in running and names.
func (o *Options) parseURLs(taken []string) error {
	o.running, o.names = map[string]running{}, nil
	for _, raw := range o.URLs {
		name, rest, ok := strings.Cut(raw, "=")
		var s running
		var pid string
		s.url, pid, _ = strings.Cut(rest, ",pid=")
		u, err := url.Parse(s.url)
		if !ok || name == "" || err != nil || u.Host == "" || u.Scheme != "ws" && u.Scheme != "wss" {
			return fmt.Errorf("url %q: must be NAME=ws://host:port/path or NAME=ws://host:port/path,pid=N", raw)
		}
		if pid != "" {
			if s.pid, err = strconv.Atoi(pid); err != nil || s.pid < 1 {
				return fmt.Errorf("url %q: pid %q is not a process", raw, pid)
			}
		}
		if _, twice := o.running[name]; twice || name == Sluice || slices.Contains(taken, name) {
			return fmt.Errorf("url %q: the name %q is taken", raw, name)
		}
		o.running[name] = s
		o.names = append(o.names, name)
	}
	return nil
}

// process is a server that the comparison started.
type process struct {
	*launch.Process
	name, addr, admin string
}

// start runs the named server and returns when it answers.
func (o Options) start(ctx context.Context, name string, heartbeat time.Duration) (*process, error) {
	ports, err := launch.FreePorts(2)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, addr: ports[0], admin: ports[1]}
	cmd := o.command(p, heartbeat)
	cmd.Env = launch.FairEnvironment()
	if p.Process, err = launch.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.AwaitHealth(ctx, p.addr, startWithin); err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return p, nil
}

func (o Options) command(p *process, heartbeat time.Duration) *exec.Cmd {
	switch p.name {
	case Sluice, OneLoop:
		cmd := exec.Command(o.Sluice, "serve", "--listen", p.addr, "--admin", p.admin,
			"--app", o.App, "--heartbeat", heartbeat.String(), "--log-level", "warn")
		if p.name == OneLoop {
			cmd.Args = append(cmd.Args, "--loops", "1")
		}
		return cmd
	}
	return exec.Command(o.Self, "baseline", p.name, "--listen", p.addr, "--app", o.App,
		"--heartbeat", heartbeat.String())
}

func (p *process) stop() { _ = p.Stop(stopWithin) }

// inside is what only the process itself can tell; 0 is what it does not.
type inside struct {
	goroutines, gcPauses, gcPauseMax float64 // the latter two in microseconds
}

// inside asks a running server.
func (p *process) inside(ctx context.Context) (inside, error) {
	switch p.name {
	case baseline.Floor:
		return inside{}, nil
	case Sluice, OneLoop:
		b, err := launch.Get(ctx, "http://"+p.admin+"/metrics")
		if err != nil {
			return inside{}, fmt.Errorf("ask sluice for its metrics: %w", err)
		}
		return inside{
			goroutines: launch.Sample(b, "go_goroutines"),
			gcPauses:   launch.Sample(b, "go_gc_duration_seconds_sum") * 1e6,
			gcPauseMax: launch.Sample(b, `go_gc_duration_seconds{quantile="1"}`) * 1e6,
		}, nil
	}
	b, err := launch.Get(ctx, "http://"+p.addr+"/stats")
	if err != nil {
		return inside{}, fmt.Errorf("ask %s for its statistics: %w", p.name, err)
	}
	var st baseline.Stats
	if err := json.Unmarshal(b, &st); err != nil {
		return inside{}, fmt.Errorf("read the statistics of %s: %w", p.name, err)
	}
	return inside{float64(st.Goroutines), float64(st.GCPauseTotalNS) / 1e3, float64(st.GCPauseMaxNS) / 1e3}, nil
}
