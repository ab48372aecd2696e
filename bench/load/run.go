package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"time"

	"sluice/bench/procfs"
	"sluice/bench/units"
)

// Run makes the load that spec describes and reports what it found. An error means that the run
// could not be made; what the run found wrong is in Result.Failures. When ctx ends, Run closes the
// connections and returns the result so far, with Complete false. Any goroutine may call it. It
// runs as many event loops as descriptors need, each on a thread with a descriptor table of its own
// when one table is not enough.
func Run(ctx context.Context, spec Spec) (*Result, error) {
	spec, err := spec.withDefaults()
	if err != nil {
		return nil, err
	}
	r, err := newRun(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer r.end()
	if err := r.crew.grow(min(cmp.Or(spec.Loops, loopsFor(spec.Conns)), spec.Conns)); err != nil {
		return nil, err
	}
	if room := r.crew.room(); room < spec.Conns {
		return nil, fmt.Errorf("%s connections do not fit into %d loops, which hold %s",
			units.Number(spec.Conns), len(r.crew.workers), units.Number(room))
	}
	err = r.phases(ctx)
	r.result.Complete = err == nil
	if err != nil && !errors.Is(err, errInterrupted) {
		return nil, err
	}
	if err := r.close(); err != nil {
		return nil, err
	}
	return r.finish(), nil
}

// errInterrupted says that the context has ended.
var errInterrupted = errors.New("interrupted")

// run is one run as the parent sees it. One goroutine.
type run struct {
	spec    Spec
	crew    *crew
	result  *Result
	ticker  *time.Ticker
	reports int // of workers, since the last point

	clients  int           // given to workers so far
	queue    []func()      // ramp: workers that begin when others have started all of theirs
	began    time.Time     // of the run, for the timeline: just before the ramp
	at       time.Duration // when the workers begin the ramp or the traffic at hand
	width    float64       // of the pace, from worker to worker
	recovery float64       // seconds of the storm at hand, of the worker that took longest
	lost     span          // from the first to the last connection lost
	phase    string
	entered  time.Time // the phase
	length   time.Duration
	point    Point
	totals   totals
	meter    meter
	costs    map[string]cost
	usage    phaseStart
	restore  func()
}

// totals are sums up to the last point of the timeline.
type totals struct {
	beats, dialNS, attempts int64
	server                  procfs.Usage
	tool                    time.Duration
}

func newRun(ctx context.Context, spec Spec) (*run, error) {
	c, err := newCrew(ctx, &spec)
	if err != nil {
		return nil, err
	}
	// The heap grows little, so collecting at half more instead of twice costs nothing and keeps
	// the tool small.
	percent := debug.SetGCPercent(50)
	r := &run{spec: spec, crew: c, costs: map[string]cost{}, ticker: time.NewTicker(reportEvery),
		restore: func() { debug.SetGCPercent(percent) }}
	r.result = &Result{Spec: spec, Started: time.Now(), Machine: procfs.Describe(), Failures: []string{}}
	if spec.ServerPID != 0 {
		u, err := procfs.Sample(spec.measured()...)
		if err != nil {
			r.end()
			return nil, err
		}
		r.result.Server = &ServerUsage{Before: u}
		r.totals.server = u
	}
	return r, nil
}

// end gives everything back.
func (r *run) end() {
	r.ticker.Stop()
	_ = r.crew.close() // what ended a loop early has been reported
	r.restore()
}

// phases is the run: ramp, measure, hold, traffic, measure.
func (r *run) phases(ctx context.Context) error {
	if err := r.awaitStart(ctx); err != nil {
		return err
	}
	r.tellPhase("before")
	r.costs["ready"] = r.meter.read()
	r.began = time.Now()
	r.totals.tool = processCPU()
	length := time.Duration(float64(r.spec.Conns) / r.spec.Ramp * float64(time.Second))
	if r.spec.AutoRamp {
		length = 0
	}
	r.enter("ramp", length)
	if err := r.ramp(ctx, r.even(r.spec.Conns)); err != nil {
		return err
	}
	r.costs["ramped"] = r.meter.read()
	if r.crew.sum().Ramped == 0 { // nothing to load; judge says why
		return nil
	}
	if err := r.measure(ctx, "idle"); err != nil {
		return err
	}
	if r.spec.Hold > 0 {
		r.enter("hold", r.spec.Hold)
		if err := r.pause(ctx, r.spec.Hold); err != nil {
			return err
		}
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
	r.costs["drained"] = r.meter.read()
	if err := r.measure(ctx, "after"); err != nil {
		return err
	}
	return r.awaitClose(ctx)
}

// awaitStart waits for the time at which all machines of a run begin.
func (r *run) awaitStart(ctx context.Context) error {
	until := time.Until(r.spec.StartAt)
	if r.spec.StartAt.IsZero() {
		return nil
	}
	if until < 0 {
		return fmt.Errorf("start at %s: it was %v ago", r.spec.StartAt.Format(time.RFC3339),
			-until.Round(time.Millisecond))
	}
	r.enter("waiting", until)
	if err := r.pause(ctx, until); err != nil {
		return fmt.Errorf("start at %s: %w", r.spec.StartAt.Format(time.RFC3339), err)
	}
	return nil
}

// awaitClose waits until the server has closed all connections.
func (r *run) awaitClose(ctx context.Context) error {
	if r.spec.AwaitClose == 0 {
		return nil
	}
	r.enter("server closes", r.spec.AwaitClose)
	r.crew.tell(func(int, *member) command { return command{Do: "await"} })
	within, cancel := context.WithTimeout(ctx, r.spec.AwaitClose)
	defer cancel()
	err := r.await(within, "gone")
	if errors.Is(err, errInterrupted) && ctx.Err() == nil {
		r.result.Failures = append(r.result.Failures, fmt.Sprintf(
			"%s connections were open %v after the server was to close them.",
			units.Number(r.crew.sum().Open), r.spec.AwaitClose))
		return nil
	}
	return err
}

// soon is a moment by which all workers will have read their command.
func (r *run) soon() time.Duration { return r.crew.now() + 20*time.Millisecond }

// even deals n connections to the workers.
func (r *run) even(n int) []int {
	shares := make([]int, len(r.crew.workers))
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
	r.at, r.result.RampSeconds = r.soon(), 0
	commands := make([]command, len(shares))
	for i := range shares {
		commands[i] = command{Do: "ramp", At: r.at, First: r.clients, Conns: shares[i]}
		r.clients += shares[i]
	}
	if r.spec.AutoRamp {
		r.takeTurns(commands)
	} else {
		for i, c := range commands {
			c.At += time.Duration(float64(i) / r.spec.Ramp * float64(time.Second))
			c.Rate = max(r.spec.Ramp*float64(c.Conns)/float64(total), math.SmallestNonzeroFloat64)
			r.crew.workers[i].send(c)
		}
	}
	err := r.await(ctx, "ramped")
	if err != nil {
		r.result.RampSeconds = r.soFar()
	}
	return err
}

// takeTurns has the workers ramp one after the other, as many at a time as have a processor when
// the server has as many. One that makes all connects meets them in larger batches than fifty that
// make some each.
func (r *run) takeTurns(commands []command) {
	r.width = 0
	for i, c := range commands {
		r.queue = append(r.queue, func() {
			c.Width = r.width
			r.crew.workers[i].send(c)
		})
	}
	for range max(runtime.NumCPU()/2, 1) {
		r.nextTurn()
	}
}

func (r *run) nextTurn() {
	if len(r.queue) > 0 {
		r.queue[0]()
		r.queue = r.queue[1:]
	}
}

// trim closes connections until conns of open ones are left.
func (r *run) trim(ctx context.Context, conns, open int) error {
	r.enter("trim", 0)
	keep := conns
	r.crew.tell(func(i int, l *member) command {
		n := int(l.last.Open) * conns / open
		if i == len(r.crew.workers)-1 {
			n = min(keep, int(l.last.Open))
		}
		keep -= n
		return command{Do: "trim", Conns: n}
	})
	return r.await(ctx, "trimmed")
}

// soFar is how many seconds of the ramp or the traffic at hand are over when it is cut short.
func (r *run) soFar() float64 { return max(r.crew.now()-r.at, 0).Seconds() }

// traffic makes traffic for d and waits for the last reply.
func (r *run) traffic(ctx context.Context, d time.Duration) error {
	workers := len(r.crew.workers)
	r.at = r.soon()
	units := max(int(d.Seconds()*r.spec.Rate+0.5), 1)
	r.enter("traffic", d)
	r.crew.tell(func(i int, l *member) command {
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
	r.at = r.crew.now()
	defer func() { r.result.TrafficSeconds = r.soFar() }()
	for range r.spec.Storms {
		r.enter("traffic", 0)
		r.recovery = 0
		r.crew.tell(func(int, *member) command { return command{Do: "storm"} })
		if err := r.await(ctx, "recovered"); err != nil {
			return err
		}
		r.result.RecoverySeconds = append(r.result.RecoverySeconds, r.recovery)
	}
	return nil
}

// close has all workers say goodbye and waits for their results.
func (r *run) close() error {
	r.queue = nil
	r.enter("closing", 0)
	r.crew.tell(func(int, *member) command { return command{Do: "close"} })
	// Every connection has its time-out for the server's Close; beyond that a worker hangs.
	within := 2*r.spec.Timeout + 20*time.Second
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := r.await(ctx, "result")
	if errors.Is(err, errInterrupted) {
		r.result.Complete = false
		r.result.Failures = append(r.result.Failures, fmt.Sprintf(
			"%d of %d loops of the load generator did not close their connections within %v.",
			r.crew.working(), len(r.crew.workers), within))
		err = nil
	}
	r.enter("closed", 0)
	r.tellPhase("closed")
	return err
}

// await handles what the workers tell until all have told kind.
func (r *run) await(ctx context.Context, kind string) error {
	for told := 0; told < len(r.crew.workers); {
		select {
		case <-ctx.Done():
			return errInterrupted
		case <-r.ticker.C:
			r.tickIfSilent()
		case e := <-r.crew.events:
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
		case e := <-r.crew.events:
			if err := r.handle(&e); err != nil {
				return err
			}
		}
	}
}

// handle takes one event into the books.
func (r *run) handle(e *event) error {
	m := r.crew.workers[e.worker]
	if e.Kind == "failed" {
		return fmt.Errorf("loop %d of %d of the load generator ended: %w",
			e.worker+1, len(r.crew.workers), e.err)
	}
	open := e.Counters.Open
	if r.phase == "closing" && e.Kind != "closing" {
		open = m.last.Open // how many were open when closing began
	}
	m.last = e.Counters
	m.last.Open = open
	r.result.WrongReplies = mergeWrong(r.result.WrongReplies, e.Wrong)
	switch e.Kind {
	case "started":
		r.width = e.Width
		r.nextTurn()
	case "ramped":
		r.result.RampSeconds = max(r.result.RampSeconds, (e.At - r.at).Seconds())
	case "progress":
		// A point is made of one report of each worker: on a clock of its own it would show old
		// reports of some of them.
		if r.reports++; r.reports >= len(r.crew.workers) {
			r.tick(time.Now())
		}
	case "stopped":
		r.result.SendSeconds = max(r.result.SendSeconds, (e.At - r.at).Seconds())
	case "drained":
		r.result.ReplySeconds = max(r.result.ReplySeconds, (e.At - r.at).Seconds())
	case "recovered":
		r.recovery = max(r.recovery, e.Seconds)
	case "result":
		m.told = true
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
		u, err := procfs.Sample(r.spec.measured()...)
		beats := r.crew.sum().Beats
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
	r.endPhase(phase)
	r.phase, r.length, r.entered = phase, length, time.Now()
}
