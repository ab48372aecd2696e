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
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sluice/bench"
	"sluice/bench/baseline"
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
	return errors.New("find the sluice binary: it is neither beside this program nor in ./bin nor in PATH (run make, or set --sluice)")
}

// process is a server under test.
type process struct {
	name, addr, admin string
	cmd               *exec.Cmd
	output            bench.Tail
	ended             chan struct{} // closed when it has been waited for
	exit              error         // valid then
}

// start runs the named server and returns when it answers.
func (o Options) start(ctx context.Context, name string, heartbeat time.Duration) (*process, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, addr: ports[0], admin: ports[1], ended: make(chan struct{})}
	switch name {
	case Sluice, OneLoop:
		p.cmd = exec.Command(o.Sluice, "serve", "--listen", p.addr, "--admin", p.admin, "--heartbeat", heartbeat.String(), "--log-level", "warn")
		if name == OneLoop {
			p.cmd.Args = append(p.cmd.Args, "--loops", "1")
		}
	default:
		p.cmd = exec.Command(o.Self, "baseline", name, "--listen", p.addr, "--app", baseline.Count, "--heartbeat", heartbeat.String())
	}
	p.cmd.Env = fairEnvironment(os.Environ())
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = time.Second
	// Should this program be killed, its servers must not stay.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := p.awaitReady(ctx); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// run is the life of the process. It keeps its thread, because a child gets
// its Pdeathsig when the thread that made it ends.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.exit = p.cmd.Wait()
		close(p.ended)
	}
}

// fairEnvironment is ours without what would tune one server's runtime or change sluice's settings.
func fairEnvironment(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return strings.HasPrefix(name, "SLUICE_") || slices.Contains([]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "REDIS_URL"}, name)
	})
}

// freePorts finds n loopback addresses that nobody listens on. Their ports are below those that the kernel gives to clients, of which
// some could come between here and the server's own listen.
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
		case <-p.ended:
			return fmt.Errorf("start %s: it ended: %v%s", p.name, p.exit, p.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("start %s: it did not answer /healthz on %s: %w%s", p.name, p.addr, ctx.Err(), p.lastWords())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the process and waits for it: politely, and then not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return
	case <-time.After(stopWithin):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// lastWords is the end of what the process wrote, for an error message.
func (p *process) lastWords() string {
	if s := p.output.String(); s != "" {
		return "\nits last words: " + s
	}
	return ""
}

// inside is what only the process itself knows; 0 is what it does not tell.
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

// loadAverage is the machine's, of the last minute, or -1 when it is not known.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return -1
	}
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return -1
	}
	return v
}
