package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// patience is how long anything may take that should be done in a moment on an idle machine.
const patience = 30 * time.Second

// somePort draws a port below those that the kernel gives to clients, so that a server can leave
// it and find it free again.
func somePort() int { return 20_000 + rand.N(12_000) }

// process is a child that dies with the harness, however that ends.
type process struct {
	cmd  *exec.Cmd
	log  string // file with its standard error
	done chan struct{}
	err  error // before done is closed: how it ended
}

func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stderr = f
	if cmd.Stdout == nil {
		cmd.Stdout = f
	}
	// Its own group: Ctrl-C is for the harness, which ends its children one by one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// kill ends it as a crash does, and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// terminate sends SIGTERM and waits for the end, which must be a clean one.
func (p *process) terminate() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		return fmt.Errorf("%s did not end within %v of SIGTERM", p.cmd.Path, patience)
	}
	if p.err != nil {
		return fmt.Errorf("%s after SIGTERM: %w", p.cmd.Path, p.err)
	}
	return nil
}

// dead says that a process has ended, with its last words.
func (p *process) dead() error {
	select {
	case <-p.done:
		b, _ := os.ReadFile(p.log)
		return fmt.Errorf("%s ended (%v): %s", p.cmd.Path, p.err, b[max(0, len(b)-2000):])
	default:
		return nil
	}
}

// gatewayProcess is a sluice serve.
type gatewayProcess struct {
	*process
	addr, admin string
}

// startGateway starts one that counts, on free ports, and returns when it is ready for clients.
func startGateway(bin, redisURL, log string, flags ...string) (*gatewayProcess, error) {
	return startServe(bin, log, []string{"SLUICE_REDIS_URL=" + redisURL},
		append([]string{"--session-store", "redis"}, flags...)...)
}

// startServe starts a gateway on free ports and returns when it is ready for clients.
func startServe(bin, log string, env []string, flags ...string) (*gatewayProcess, error) {
	cmd := exec.Command(bin, append([]string{"serve", "--listen", "127.0.0.1:0",
		"--admin", "127.0.0.1:0", "--log-format", "json"}, flags...)...)
	cmd.Env = append(os.Environ(), env...)
	_ = os.Remove(log)
	p, err := startProcess(cmd, log)
	if err != nil {
		return nil, err
	}
	g := &gatewayProcess{process: p}
	err = eventually("the gateway is ready", patience, func() bool {
		if err := p.dead(); err != nil {
			return true
		}
		f, err := os.Open(log)
		if err != nil {
			return false
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line struct{ Msg, Listen, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "ready" {
				g.addr, g.admin = line.Listen, line.Admin
			}
		}
		return g.addr != ""
	})
	if err = errors.Join(err, p.dead()); err != nil {
		p.kill()
		return nil, err
	}
	return g, nil
}

var adminClient = http.Client{Timeout: patience}

// readyz reports whether the gateway says that it is ready.
func (g *gatewayProcess) readyz() bool {
	r, err := adminClient.Get("http://" + g.admin + "/readyz")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}

// metrics reads all of them.
func (g *gatewayProcess) metrics() (map[string]float64, error) {
	r, err := adminClient.Get("http://" + g.admin + "/metrics")
	if err != nil {
		return nil, fmt.Errorf("read the gateway's metrics: %w", err)
	}
	defer r.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if v, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				values[name] = v
			}
		}
	}
	if _, ok := values["sluice_messages_received_total"]; !ok {
		return nil, errors.New("the gateway's metrics do not say how many messages it received")
	}
	return values, nil
}

// rss is its resident memory in bytes.
func (g *gatewayProcess) rss() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	var kib int64
	_, err = fmt.Sscan(rest, &kib)
	return kib << 10, err
}

// clientProcess is this program again, as the client.
type clientProcess struct {
	*process
	orders  *json.Encoder
	reports *json.Decoder
}

func startClient(spec clientSpec, log string) (*clientProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, ClientCommand)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not StdoutPipe, which Wait closes under its reader.
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.Stdout = w
	p, err := startProcess(cmd, log)
	if err != nil {
		out.Close()
		return nil, err
	}
	c := &clientProcess{process: p, orders: json.NewEncoder(in), reports: json.NewDecoder(out)}
	return c, c.orders.Encode(spec)
}

// tell gives an order and waits until it is done.
func (c *clientProcess) tell(o order) (r report, err error) {
	if err = c.orders.Encode(o); err == nil {
		err = c.reports.Decode(&r)
	}
	if err != nil {
		return r, fmt.Errorf("client: %s: %w", o.Do, errors.Join(err, c.dead()))
	}
	if r.Error != "" {
		return r, fmt.Errorf("client: %s: %s", o.Do, r.Error)
	}
	return r, nil
}
