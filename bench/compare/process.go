package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
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
func (o *Options) findPrograms() error {
	self, err := os.Executable()
	if err != nil && o.Self == "" {
		return fmt.Errorf("find this program, to start the baselines: %w", err)
	}
	if o.Self == "" {
		o.Self = self
	}
	if o.Sluice != "" {
		return nil
	}
	for _, path := range []string{filepath.Join(filepath.Dir(self), "sluice"), "bin/sluice", "sluice"} {
		if found, err := exec.LookPath(path); err == nil || errors.Is(err, exec.ErrDot) {
			o.Sluice = found
			return nil
		}
	}
	return errors.New("find the sluice binary: it is neither beside this program nor in ./bin nor in PATH " +
		"(run make, or set --sluice)")
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
		lastOutput: p.lastOutput, inside: p.inside}, nil
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
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, addr: ports[0], admin: ports[1]}
	cmd := o.command(p, heartbeat)
	cmd.Env = fairEnvironment(os.Environ())
	if p.Process, err = launch.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.stop()
		return nil, err
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

// fairEnvironment is ours without what would tune one server's runtime or change sluice's
// settings.
func fairEnvironment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return strings.HasPrefix(name, "SLUICE_") ||
			slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "REDIS_URL"}, name)
	})
}

// freePorts finds n loopback addresses that nobody listens on. Their ports are below those that the
// kernel gives to clients, or a client could take one before the server listens.
func freePorts(n int) (addrs []string, err error) {
	for tried := 0; len(addrs) < n; tried++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.N(12_000)))
		if err != nil {
			if tried < 100 {
				continue
			}
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// client makes a connection for each request, so that none is open while memory is measured.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d", url, resp.StatusCode)
	}
	return b, err
}

func (p *process) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		if _, err := get(ctx, "http://"+p.addr+"/healthz"); err == nil {
			return nil
		}
		select {
		case <-p.Ended():
			return fmt.Errorf("start %s: it ended: %v%s", p.name, p.Wait(), p.lastOutput())
		case <-ctx.Done():
			return fmt.Errorf("start %s: it did not answer /healthz on %s: %w%s",
				p.name, p.addr, ctx.Err(), p.lastOutput())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) stop() { _ = p.Stop(stopWithin) }

// lastOutput is the end of what the process wrote, for an error message.
func (p *process) lastOutput() string {
	if s := p.LastOutput(); s != "" {
		return "\nthe last it wrote: " + s
	}
	return ""
}

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
		b, err := get(ctx, "http://"+p.admin+"/metrics")
		if err != nil {
			return inside{}, fmt.Errorf("ask sluice for its metrics: %w", err)
		}
		return inside{
			goroutines: sample(b, "go_goroutines"),
			gcPauses:   sample(b, "go_gc_duration_seconds_sum") * 1e6,
			gcPauseMax: sample(b, `go_gc_duration_seconds{quantile="1"}`) * 1e6,
		}, nil
	}
	b, err := get(ctx, "http://"+p.addr+"/stats")
	if err != nil {
		return inside{}, fmt.Errorf("ask %s for its statistics: %w", p.name, err)
	}
	var st baseline.Stats
	if err := json.Unmarshal(b, &st); err != nil {
		return inside{}, fmt.Errorf("read the statistics of %s: %w", p.name, err)
	}
	return inside{float64(st.Goroutines), float64(st.GCPauseTotalNS) / 1e3, float64(st.GCPauseMaxNS) / 1e3}, nil
}

// sample is the value of one series of a Prometheus text page, or 0.
func sample(page []byte, series string) float64 {
	for line := range bytes.Lines(page) {
		if rest, ok := bytes.CutPrefix(line, []byte(series+" ")); ok {
			v, _ := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
			return v
		}
	}
	return 0
}
