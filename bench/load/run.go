package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Run makes the load that spec describes and reports what it found. An error means that the run
// could not be made; what the run found wrong is in Result.Failures. When ctx ends, Run closes the
// connections and returns the result so far, with Complete false; likewise when a process of the
// load generator dies, which is a failure too. Any goroutine may call it. It starts as many further
// processes as descriptors need (see WorkerCommand).
func Run(ctx context.Context, spec Spec) (*Result, error) {
	spec, err := spec.withDefaults()
	if err != nil {
		return nil, err
	}
	r, err := newRun(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer r.fleet.close()
	n := spec.Processes
	if n == 0 {
		n = processesFor(spec.Conns)
	}
	n = min(n, spec.Conns)
	if err := r.fleet.grow(n, n == 1); err != nil {
		return nil, err
	}
	err = r.phases(ctx)
	r.result.Complete = err == nil
	if err != nil && !errors.Is(err, errInterrupted) && !r.noteDeath(err) {
		return nil, err
	}
	if err := r.close(); err != nil {
		return nil, err
	}
	return r.finish(), nil
}

// deathError is a process of the load generator that ended before its time.
type deathError struct {
	which, of int
	why       string
}

func (e *deathError) Error() string {
	return fmt.Sprintf("process %d of %d of the load generator ended: %s", e.which, e.of, e.why)
}

// noteDeath puts a death into the result. It reports whether err is a death after which there is
// something to report: before the ramp there is nothing.
func (r *run) noteDeath(err error) bool {
	var d *deathError
	if r.began.IsZero() || !errors.As(err, &d) {
		return false
	}
	r.result.Complete = false
	r.result.Tool.Died++
	l := r.fleet.workers[d.which-1]
	r.result.Failures = append(r.result.Failures, fmt.Sprintf("%v: its %s connections went with it, "+
		"and what it had not reported is missing here.", d, units.Number(l.last.Open)))
	return true
}

// errInterrupted says that the context has ended.
var errInterrupted = errors.New("interrupted")

// run is one run as the parent sees it. One goroutine.
type run struct {
	spec    Spec
	fleet   *fleet
	result  *Result
	hists   map[string]*hist
	ticker  *time.Ticker
	reports int // of workers, since the last point

	clients  int           // given to workers so far
	began    time.Time     // of the run, for the timeline: just before the ramp
	at       time.Duration // when the workers begin the ramp or the traffic at hand, on CLOCK_MONOTONIC
	recovery float64       // seconds of the storm at hand, of the worker that took longest
	lost     span          // from the first to the last connection lost
	phase    string
	entered  time.Time // the phase
	length   time.Duration
	interval hist // messages since the last point
	point    Point
	server   procfs.Usage
}

func newRun(ctx context.Context, spec Spec) (*run, error) {
	f, err := newFleet(ctx, &spec)
	if err != nil {
		return nil, err
	}
	r := &run{spec: spec, fleet: f, hists: map[string]*hist{}}
	for _, name := range []string{"connect", "handshake", "message", "heartbeat", "lag"} {
		r.hists[name] = &hist{}
	}
	r.result = &Result{Spec: spec, Started: time.Now(), Machine: procfs.Describe(), Failures: []string{}}
	if spec.ServerPID != 0 {
		u, err := procfs.Sample(spec.ServerPID)
		if err != nil {
			return nil, err
		}
		r.result.Server = &ServerUsage{Before: u}
		r.server = u
	}
	return r, nil
}

// phases is the run: ramp, measure, traffic, measure.
func (r *run) phases(ctx context.Context) error {
	r.ticker = time.NewTicker(reportEvery)
	r.enter("start", 0)
	if err := r.await(ctx, "ready"); err != nil {
		return err
	}
	r.tellPhase("before")
	r.began = time.Now()
	r.enter("ramp", time.Duration(float64(r.spec.Conns)/r.spec.Ramp*float64(time.Second)))
	if err := r.ramp(ctx, r.even(r.spec.Conns)); err != nil {
		return err
	}
	if r.fleet.sum().Ramped == 0 { // nothing to load; judge says why
		return nil
	}
	if err := r.measure(ctx, "idle"); err != nil {
		return err
	}
	traffic := r.traffic
	switch r.spec.Scenario {
	case Storm:
		traffic = r.storms
	case Fanout:
		traffic = r.fanout
	}
	if err := traffic(ctx, r.spec.Duration); err != nil {
		return err
	}
	return r.measure(ctx, "after")
}

// soon is a moment by which all workers will have read their command.
func soon() time.Duration { return monotonic() + 20*time.Millisecond }

// even deals n connections to the workers.
func (r *run) even(n int) []int {
	shares := make([]int, len(r.fleet.workers))
	for i := range shares {
		shares[i] = (n - i + len(shares) - 1) / len(shares)
	}
	return shares
}

// ramp opens shares[i] more connections in worker i and waits until each is open or given up.
func (r *run) ramp(ctx context.Context, shares []int) error {
	total := 0
	for _, n := range shares {
		total += n
	}
	r.at, r.result.RampSeconds = soon(), 0
	r.fleet.tell(func(i int, l *link) command {
		c := command{Do: "ramp", At: r.at + time.Duration(float64(i)/r.spec.Ramp*float64(time.Second)),
			First: r.clients, Conns: shares[i], Rate: r.spec.Ramp * float64(shares[i]) / float64(total)}
		r.clients += shares[i]
		return c
	})
	err := r.await(ctx, "ramped")
	if err != nil {
		r.result.RampSeconds = r.soFar()
	}
	return err
}

// trim closes connections until conns of open ones are left.
func (r *run) trim(ctx context.Context, conns, open int) error {
	r.enter("trim", 0)
	keep := conns
	r.fleet.tell(func(i int, l *link) command {
		n := int(l.last.Open) * conns / open
		if i == len(r.fleet.workers)-1 {
			n = min(keep, int(l.last.Open))
		}
		keep -= n
		return command{Do: "trim", Conns: n}
	})
	return r.await(ctx, "trimmed")
}

// soFar is how many seconds of the ramp or the traffic at hand are over when it is cut short.
func (r *run) soFar() float64 { return max(monotonic()-r.at, 0).Seconds() }

// traffic makes traffic for d and waits for the last reply.
func (r *run) traffic(ctx context.Context, d time.Duration) error {
	workers := len(r.fleet.workers)
	r.at = soon()
	units := max(int(d.Seconds()*r.spec.Rate+0.5), 1)
	r.enter("traffic", d)
	r.fleet.tell(func(i int, l *link) command {
		c := command{Do: "traffic", At: r.at, Duration: d}
		if r.spec.Rate > 0 {
			// Worker i sends every workers-th message of the schedule.
			c.Rate, c.Units = r.spec.Rate/float64(workers), int64((units-i+workers-1)/workers)
			c.Offset = float64(i) / r.spec.Rate
		} else {
			c.Window = (r.spec.Window - i + workers - 1) / workers
		}
		return c
	})
	err := r.await(ctx, "drained")
	r.result.TrafficSeconds = d.Seconds()
	if err != nil {
		r.result.TrafficSeconds = min(r.soFar(), d.Seconds())
	}
	return err
}

func (r *run) storms(ctx context.Context, _ time.Duration) error {
	r.at = monotonic()
	defer func() { r.result.TrafficSeconds = r.soFar() }()
	for range r.spec.Storms {
		r.enter("traffic", 0)
		r.recovery = 0
		r.fleet.tell(func(int, *link) command { return command{Do: "storm"} })
		if err := r.await(ctx, "recovered"); err != nil {
			return err
		}
		r.result.RecoverySeconds = append(r.result.RecoverySeconds, r.recovery)
	}
	return nil
}

// close has all workers say goodbye and waits for their results.
func (r *run) close() error {
	r.enter("closing", 0)
	r.fleet.tell(func(int, *link) command { return command{Do: "close"} })
	// Every connection has its time-out for the server's Close; beyond that a worker hangs.
	ctx, cancel := context.WithTimeout(context.Background(), 2*r.spec.Timeout+20*time.Second)
	defer cancel()
	for r.fleet.alive() > 0 {
		err := r.awaitOf(ctx, "result", r.fleet.alive())
		if errors.Is(err, errInterrupted) {
			r.result.Complete = false
			r.result.Failures = append(r.result.Failures,
				fmt.Sprintf("%d of %d processes of the load generator did not close their connections within %v.",
					r.fleet.alive(), len(r.fleet.workers), 2*r.spec.Timeout+20*time.Second))
			break
		}
		if err != nil && !r.noteDeath(err) {
			return err
		}
	}
	r.tellPhase("closed")
	return nil
}

// await handles what the workers tell until all have told kind.
func (r *run) await(ctx context.Context, kind string) error {
	return r.awaitOf(ctx, kind, len(r.fleet.workers))
}

// awaitOf waits until n workers have told kind.
func (r *run) awaitOf(ctx context.Context, kind string, n int) error {
	for told := 0; told < n; {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-r.ticker.C:
			r.tickIfSilent()
		case e := <-r.fleet.events:
			if err := r.handle(&e); err != nil {
				return err
			}
			if e.Kind == kind {
				told++
			}
		}
	}
	return nil
}

// pause lets time go by.
func (r *run) pause(ctx context.Context, d time.Duration) error {
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-end.C:
			return nil
		case <-r.ticker.C:
			r.tickIfSilent()
		case e := <-r.fleet.events:
			if err := r.handle(&e); err != nil {
				return err
			}
		}
	}
}

// handle takes one event into the books.
func (r *run) handle(e *event) error {
	l := r.fleet.workers[e.worker]
	if l.over { // it has failed, and now ends too
		return nil
	}
	if e.Kind == "failed" {
		l.over = true
		return &deathError{e.worker + 1, len(r.fleet.workers), e.Error}
	}
	open := e.Counters.Open
	if r.phase == "closing" && e.Kind != "closing" {
		open = l.last.Open // how many were open when closing began
	}
	l.last = e.Counters
	l.last.Open = open
	if e.Cost != nil {
		l.costs[e.Kind] = e.Cost
	}
	r.result.WrongReplies = mergeWrong(r.result.WrongReplies, e.Wrong)
	for name, b := range e.Hists {
		h, err := decodeHist(b)
		if err != nil {
			return err
		}
		r.hists[name].add(&h)
		if name == "message" {
			r.interval.add(&h)
		}
	}
	switch e.Kind {
	case "ramped":
		r.result.RampSeconds = max(r.result.RampSeconds, (e.At - r.at).Seconds())
	case "progress":
		// A point is made of one report of each worker: on a clock of its own it would show old
		// reports of some of them.
		if r.reports++; r.reports >= len(r.fleet.workers) {
			r.tick(time.Now())
		}
	case "stopped":
		r.result.SendSeconds = max(r.result.SendSeconds, (e.At - r.at).Seconds())
	case "drained":
		r.result.ReplySeconds = max(r.result.ReplySeconds, (e.At - r.at).Seconds())
	case "recovered":
		r.recovery = max(r.recovery, e.Seconds)
	case "result":
		l.over = true
		r.lost.over(e.Lost)
		r.result.DrainSeconds = (r.lost.To - r.lost.From).Seconds()
	}
	return nil
}

// measure lets things settle and samples the server.
func (r *run) measure(ctx context.Context, phase string) error {
	if err := r.pause(ctx, r.spec.Settle); err != nil {
		return err
	}
	if s := r.result.Server; s != nil && !s.gone {
		if r.spec.Scenario == Idle { // beats are counted between the samples: get a fresh report
			if err := r.await(ctx, "progress"); err != nil {
				return err
			}
		}
		u, err := procfs.Sample(r.spec.ServerPID)
		beats := r.fleet.sum().Beats
		switch {
		case err != nil:
			s.gone = true
			r.result.Failures = append(r.result.Failures,
				fmt.Sprintf("the server process %d ended during the run.", r.spec.ServerPID))
		case phase == "idle":
			s.Idle, s.beats = u, -beats
		default:
			s.After, s.beats = u, s.beats+beats
		}
	}
	r.tellPhase(phase)
	return nil
}

func (r *run) tellPhase(phase string) {
	if r.spec.OnPhase != nil {
		r.spec.OnPhase(phase)
	}
}

func (r *run) enter(phase string, length time.Duration) {
	r.phase, r.length, r.entered = phase, length, time.Now()
}
