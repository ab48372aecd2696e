package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"sluice/bench/launch"
	"sluice/bench/procfs"
)

// WorkerCommand is the hidden first argument with which the running program is started again for
// each further process of the load generator. A program that calls Run must then do nothing but
// Serve(os.Stdin, os.Stdout).
const WorkerCommand = "bench-worker"

// spareDescriptors is what a process keeps for everything but its connections.
const spareDescriptors = 128

// processesFor is how many processes it takes to hold conns connections.
func processesFor(conns int) int {
	each := connsPerProcess()
	return max((conns+each-1)/each, 1)
}

func connsPerProcess() int {
	limit := int(min(procfs.OwnFDLimit(), 1<<30))
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
	process  *launch.Process // nil for a worker in this process
	stderr   *launch.Tail
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

// grow starts workers until there are n. Only one that stays the only one is in this process: the
// others' pipes need the descriptors that its connections would take.
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

func (f *fleet) spawn(inProcess bool) (*link, io.ReadCloser, error) {
	l := &link{stderr: &launch.Tail{}, costs: map[string]*cost{}}
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
	cmd := exec.Command(self, WorkerCommand)
	cmd.Stderr = l.stderr
	if l.in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	// Not cmd.StdoutPipe: waiting for the process would close it before it has been read.
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start another process of the load generator: %w", err)
	}
	defer stdout.Close() // the child has its own
	cmd.Stdout = stdout
	if l.process, err = launch.Start(cmd); err != nil {
		_ = out.Close()
		return nil, nil, fmt.Errorf("another process of the load generator: %w", err)
	}
	l.commands = json.NewEncoder(l.in)
	return l, out, nil
}

// read passes on what one worker says, and that it ended.
func (f *fleet) read(index int, l *link, out io.ReadCloser) {
	defer f.reading.Done()
	defer out.Close()
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
		if l.process != nil {
			if werr := l.process.Wait(); werr != nil {
				why = werr.Error()
			}
			if words := l.stderr.String(); words != "" {
				why += ": " + words
			}
		}
		f.events <- event{Kind: "failed", Error: why, worker: index}
		return
	}
	if l.process != nil {
		_ = l.process.Wait()
	}
}

// tell sends every worker its command. When a worker does not read it has ended; read reports
// that, and why.
func (f *fleet) tell(make func(index int, l *link) command) {
	for i, l := range f.workers {
		if !l.over {
			_ = l.commands.Encode(make(i, l))
		}
	}
}

// close ends what is left of the workers: they end when their input does, and are killed when they
// do not.
func (f *fleet) close() {
	for _, l := range f.workers {
		_ = l.in.Close()
		if l.process != nil && !l.over {
			l.process.Signal(syscall.SIGKILL)
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
	n := newCounters()
	for _, l := range f.workers {
		n.add(&l.last)
	}
	return n
}

// costAt adds up what the workers had used by a moment of the run; nil when not all have told.
func (f *fleet) costAt(kind string) *cost {
	var sum cost
	for _, l := range f.workers {
		c := l.costs[kind]
		if c == nil {
			return nil
		}
		sum.CPU += c.CPU
		sum.Anon += c.Anon
		sum.Heap += c.Heap
	}
	return &sum
}
