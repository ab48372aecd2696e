package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// WorkerCommand is the hidden first argument with which the running program is started again for each further
// process of the load generator. A program that calls Run must then do nothing but
// bench.Serve(os.Stdin, os.Stdout).
const WorkerCommand = "bench-worker"

// spareDescriptors is what a process keeps for everything but its connections.
const spareDescriptors = 128

func descriptorLimit() uint64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return r.Max // the Go runtime raises the soft limit to it
}

// processesFor is how many processes it takes to hold conns connections.
func processesFor(conns int) int {
	each := connsPerProcess()
	return max((conns+each-1)/each, 1)
}

func connsPerProcess() int {
	limit := int(min(descriptorLimit(), 1<<30))
	return max(limit-spareDescriptors, 16)
}

// fleet is the workers of a run and what they have told.
type fleet struct {
	spec    *Spec
	job     job
	workers []*link
	events  chan event
	reading sync.WaitGroup
}

// link is one worker, in this process or another.
type link struct {
	in       io.WriteCloser
	commands *json.Encoder
	cmd      *exec.Cmd // nil for a worker in this process
	stderr   *Tail
	conns    int // given to it so far
	last     Counters
	costs    map[string]*cost
	over     bool
}

func newFleet(ctx context.Context, s *Spec) (*fleet, error) {
	f := &fleet{spec: s, job: job{Spec: *s}, events: make(chan event, 1024)}
	for _, t := range s.Targets {
		addr, err := resolve(ctx, t)
		if err != nil {
			return nil, err
		}
		f.job.Addrs = append(f.job.Addrs, addr)
	}
	var err error
	f.job.Sources, err = sourcesFor(s, f.job.Addrs)
	return f, err
}

// resolve looks a target's host up, once for the whole run. IPv4 comes first: its loopback has more than one address.
func resolve(ctx context.Context, raw string) (netip.AddrPort, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %q: %w", raw, err)
	}
	port := map[string]int{"ws": 80, "wss": 443}[u.Scheme]
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
			return netip.AddrPort{}, fmt.Errorf("target %q: port %q", raw, p)
		}
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("target %q: look up the host: %w", raw, err)
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() && !best.Is4() {
			best = ip
		}
	}
	return netip.AddrPortFrom(best, uint16(port)), nil
}

// checkSource finds out now what would else be said of every connection: that a is not this machine's, or not of the targets' kind.
func checkSource(a netip.Addr, targets []netip.AddrPort) error {
	for _, t := range targets {
		if t.Addr().Unmap().Is4() != a.Unmap().Is4() {
			return fmt.Errorf("source %v: the target %v cannot be reached from it: one is IPv4 and the other IPv6", a, t)
		}
	}
	ln, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return fmt.Errorf("source %v: %w (is it an address of this machine?)", a, err)
	}
	return ln.Close()
}

// sourcesFor is the local addresses to connect from. One address has some 28,000 ports for each target; 127.0.0.0/8
// has 16 million addresses. Loopback sources get less than half of their ports each: the kernel looks through all ports of one
// parity before it tries the other, so from 14,116 connections on every connect costs it half a millisecond.
// Scenarios that close connections need several times the ports, because a closed one keeps its port for a minute (TIME_WAIT).
func sourcesFor(s *Spec, addrs []netip.AddrPort) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, raw := range s.Sources {
		a, err := netip.ParseAddr(raw)
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", raw, err)
		}
		if err := checkSource(a, addrs); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	if len(all) > 0 {
		return all, nil
	}
	for _, a := range addrs {
		if !a.Addr().Is4() || !a.Addr().IsLoopback() {
			return nil, nil
		}
	}
	each := (s.Conns + len(addrs) - 1) / len(addrs)
	n := 1 + (each-1)/max(portsPerSource()*2/5, 1)
	switch s.Scenario {
	case Churn, Resume, Storm:
		n += 15
	}
	if n == 1 {
		return nil, nil
	}
	for i := range n {
		k := i + 1
		all = append(all, netip.AddrFrom4([4]byte{127, byte(k / 62500), byte(k / 250 % 250), byte(k%250 + 1)}))
	}
	return all, nil
}

// portsPerSource is the size of the kernel's range of ephemeral ports.
func portsPerSource() int {
	b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if f := strings.Fields(string(b)); len(f) == 2 {
		low, _ := strconv.Atoi(f[0])
		high, _ := strconv.Atoi(f[1])
		if high > low {
			return high - low + 1
		}
	}
	return 28_232
}

// grow starts workers until there are n. Only one that stays the only one is in this process: the others' pipes need the
// descriptors that its connections would take.
func (f *fleet) grow(n int, inProcess bool) error {
	for len(f.workers) < n {
		l, out, err := f.spawn(inProcess)
		if err != nil {
			return err
		}
		index := len(f.workers)
		f.workers = append(f.workers, l)
		f.reading.Add(1)
		go f.read(index, l, out)
		_ = l.commands.Encode(f.job) // see tell
	}
	return nil
}

func (f *fleet) spawn(inProcess bool) (*link, io.Reader, error) {
	l := &link{stderr: &Tail{}, costs: map[string]*cost{}}
	if inProcess {
		commandsIn, commandsOut := io.Pipe()
		eventsIn, eventsOut := io.Pipe()
		l.in, l.commands = commandsOut, json.NewEncoder(commandsOut)
		go func() {
			err := Serve(commandsIn, eventsOut)
			_ = commandsIn.CloseWithError(io.ErrClosedPipe)
			_ = eventsOut.CloseWithError(err)
		}()
		return l, eventsIn, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("start another process of the load generator: %w", err)
	}
	l.cmd = exec.Command(self, WorkerCommand)
	// Its own group: Ctrl-C is for the parent, who ends the run in order. And it never outlives the parent.
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	l.cmd.Stderr = l.stderr
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start another process of the load generator: %s %s: %w", self, WorkerCommand, err)
	}
	l.commands = json.NewEncoder(l.in)
	return l, out, nil
}

// read passes on what one worker says, and that it ended.
func (f *fleet) read(index int, l *link, out io.Reader) {
	defer f.reading.Done()
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var e event
		err := lines.Decode(&e)
		if err == nil {
			e.worker = index
			f.events <- e
			if e.Kind == "result" {
				break
			}
			continue
		}
		why := err.Error()
		if l.cmd != nil {
			if werr := l.cmd.Wait(); werr != nil {
				why = werr.Error()
			}
			if words := l.stderr.String(); words != "" {
				why += ": " + words
			}
		}
		f.events <- event{Kind: "failed", Error: why, worker: index}
		return
	}
	if l.cmd != nil {
		_ = l.cmd.Wait()
	}
}

// tell sends every worker its command. One that does not listen has ended; read says so, and why.
func (f *fleet) tell(make func(index int, l *link) command) {
	for i, l := range f.workers {
		if !l.over {
			_ = l.commands.Encode(make(i, l))
		}
	}
}

// close ends what is left of the workers: they end by themselves when nobody speaks to them, and are killed when they do not.
func (f *fleet) close() {
	for _, l := range f.workers {
		_ = l.in.Close()
		if l.cmd != nil && !l.over {
			_ = l.cmd.Process.Kill()
		}
	}
	done := make(chan struct{})
	go func() { f.reading.Wait(); close(done) }()
	for {
		select {
		case <-f.events:
		case <-done:
			return
		}
	}
}

// alive is how many workers have neither told their result nor died.
func (f *fleet) alive() (n int) {
	for _, l := range f.workers {
		if !l.over {
			n++
		}
	}
	return n
}

// sum is the counters of all workers.
func (f *fleet) sum() Counters {
	n := Counters{Reasons: map[string]int64{}, Closes: map[string]int64{}, Faults: map[string]int64{}}
	for _, l := range f.workers {
		n.add(&l.last)
	}
	return n
}

// costAt adds up what the workers used by a moment of the run; nil when not all have told.
func (f *fleet) costAt(kind string) *cost {
	var sum cost
	for _, l := range f.workers {
		c := l.costs[kind]
		if c == nil {
			return nil
		}
		sum.CPU += c.CPU
		sum.Burnt += c.Burnt
		sum.Anon += c.Anon
		sum.Heap += c.Heap
	}
	return &sum
}
