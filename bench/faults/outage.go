package faults

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

const (
	// recoverWithin is how soon after Redis is back everything that waited must be acknowledged.
	recoverWithin = 5 * time.Second
	// outageMemory is what the gateway may grow by in an outage, and outageCreep what it may
	// still grow by once all connections hold as much as they may. The first is the bound of
	// sessions' pending messages, of two loops.
	outageMemory, outageCreep = 64 << 20, 8 << 20
)

// outageLoad fills the bound of each connection (256) in a few seconds, and goes on until 400 are
// in flight: those beyond the bound wait in the sockets, because the gateway stops reading.
var outageLoad = clientSpec{Sessions: 200, Slots: 1, Pause: 100 * time.Millisecond, Window: 400}

// Outage takes Redis away for d under load, once by killing it and once by stopping it.
func Outage(ctx context.Context, out io.Writer, bin string, d time.Duration) error {
	fmt.Fprintf(out, "| Redis gone for %v | acknowledged meanwhile | disconnects | gateway before | at %v | highest | at the end | first acknowledgement after | all pending after | lost | doubled |\n",
		d, settleAfter(d))
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	bad := false
	for _, how := range []struct {
		name    string
		off, on func(r *redisServer) error
	}{
		{"SIGKILL", func(r *redisServer) error { r.kill(); return nil }, (*redisServer).start},
		{"SIGSTOP", func(r *redisServer) error { return r.signal(syscall.SIGSTOP) }, func(r *redisServer) error { return r.signal(syscall.SIGCONT) }},
	} {
		o := outageRun{d: d}
		dir, err := o.run(ctx, bin, how.off, how.on)
		if o.ledger != nil {
			fmt.Fprintf(out, "| %s | %d | %d | %.1f MiB | %.1f MiB | %.1f MiB | %.1f MiB | %d ms | %d ms | %d | %d |\n", how.name, o.acknowledged, o.disconnects,
				mib(o.before), mib(o.settled), mib(o.highest), mib(o.last), o.first.Milliseconds(), o.all.Milliseconds(), o.ledger.lost, o.ledger.doubled)
			o.broken = append(o.broken, o.ledger.findings...)
		}
		if err != nil {
			o.broken = append(o.broken, err.Error())
		}
		for _, text := range o.broken {
			fmt.Fprintf(out, "%s: %s\n", how.name, text)
		}
		if len(o.broken) > 0 {
			bad = true
			fmt.Fprintf(out, "%s: the journal and the logs are in %s\n", how.name, dir)
		} else {
			os.RemoveAll(dir)
		}
	}
	if bad {
		return ErrBroken
	}
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// settleAfter is when in an outage all bounds have been reached.
func settleAfter(d time.Duration) time.Duration { return min(15*time.Second, d/2) }

// outageRun is one outage and what it showed.
type outageRun struct {
	d                              time.Duration
	acknowledged, disconnects      int64
	before, settled, highest, last int64 // resident memory, bytes
	first, all                     time.Duration
	ledger                         *ledger
	broken                         []string
}

func (o *outageRun) breaks(format string, args ...any) {
	o.broken = append(o.broken, fmt.Sprintf(format, args...))
}

func (o *outageRun) run(ctx context.Context, bin string, off, on func(*redisServer) error) (dir string, err error) {
	r, err := newFixture(ctx, plan{bin: bin, gateways: 1, load: outageLoad})
	if err != nil {
		return "", err
	}
	defer r.close()
	if err := r.wait(3 * time.Second); err != nil {
		return r.dir, err
	}
	g := r.gateways[0]
	if o.before, err = g.rss(); err != nil {
		return r.dir, err
	}
	if err := off(r.redis); err != nil {
		return r.dir, err
	}
	if err := o.endure(r, g); err != nil {
		return r.dir, err
	}
	if err := o.recover(r, g, on); err != nil {
		return r.dir, err
	}
	o.ledger, err = r.finish()
	return r.dir, err
}

// endure is the time without Redis.
func (o *outageRun) endure(r *fixture, g *gatewayProcess) error {
	began := time.Now()
	if err := r.wait(time.Second); err != nil { // what had been confirmed reaches the client
		return err
	}
	before, err := r.client.tell(order{Do: "stats"})
	if err != nil {
		return err
	}
	for time.Since(began) < o.d {
		if err := r.wait(500 * time.Millisecond); err != nil {
			return err
		}
		if o.last, err = g.rss(); err != nil {
			return err
		}
		o.highest = max(o.highest, o.last)
		if time.Since(began) < settleAfter(o.d) {
			o.settled = o.highest
		}
	}
	if g.readyz() {
		o.breaks("/readyz says ready after %v without Redis", o.d)
	}
	after, err := r.client.tell(order{Do: "stats"})
	if err != nil {
		return err
	}
	o.acknowledged, o.disconnects = after.Acked-before.Acked, after.Over
	if o.acknowledged > 0 {
		o.breaks("%d acknowledgements without Redis", o.acknowledged)
	}
	if o.disconnects > 0 || after.Open != int64(r.plan.load.Sessions) {
		o.breaks("%d connections were ended, %d of %d are open", o.disconnects, after.Open, r.plan.load.Sessions)
	}
	if o.highest-o.before > outageMemory || o.last-o.settled > outageCreep {
		o.breaks("memory: %.1f MiB before, %.1f MiB when all bounds were reached, %.1f MiB at the end; want at most %d MiB more than before, and %d MiB more after the bounds",
			mib(o.before), mib(o.settled), mib(o.last), outageMemory>>20, outageCreep>>20)
	}
	return nil
}

// recover brings Redis back. The client's clock runs from before that; what Redis took to start
// is not the gateway's.
func (o *outageRun) recover(r *fixture, g *gatewayProcess, on func(*redisServer) error) error {
	type result struct {
		report
		err error
	}
	asked, results := time.Now(), make(chan result, 1)
	go func() {
		answer, err := r.client.tell(order{Do: "caught-up", Within: patience})
		results <- result{answer, err}
	}()
	if err := on(r.redis); err != nil {
		return err
	}
	started := time.Since(asked)
	answer := <-results
	if answer.err != nil {
		return answer.err
	}
	if answer.First < 0 || answer.All < 0 {
		o.first, o.all = answer.First, answer.All
		o.breaks("not everything was acknowledged %v after Redis was back", patience)
		return nil
	}
	o.first, o.all = max(0, answer.First-started), max(0, answer.All-started)
	if o.all > recoverWithin {
		o.breaks("it took %v until everything was acknowledged, want at most %v", o.all, recoverWithin)
	}
	return eventually("the gateway is ready again", patience, g.readyz)
}
