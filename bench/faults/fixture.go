package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// fixture is what one run needs: a Redis, gateways with a proxy each before it, and the client.
type fixture struct {
	ctx   context.Context
	plan  plan
	dir   string
	store *deployment
	redis *redisServer // the first of its servers

	proxies  []*proxy
	gateways []*gatewayProcess
	client   *clientProcess

	received float64            // by gateways that have ended and could be asked before
	unknown  bool               // a gateway ended that could not
	forgot   bool               // the store was made to forget
	counters map[string]float64 // the metrics of all gateways at the end, added up
}

// plan is how a fixture is to be built.
type plan struct {
	bin      string
	gateways int
	topology topology
	waits    bool     // commits wait for a replica
	flags    []string // of the gateways, besides those that all have
	load     clientSpec
	seconds  time.Duration // of load
	effect   string        // a metric that cannot be 0 at the end if the fault was felt
	bare     bool          // no proxies: to measure
	short    bool          // in the tests of every day: less patience with faults that only last
}

func newFixture(ctx context.Context, p plan) (*fixture, error) {
	r := &fixture{ctx: ctx, plan: p}
	if err := r.start(); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *fixture) start() (err error) {
	p := r.plan
	if r.dir, err = os.MkdirTemp("", "sluice-faults-"); err != nil {
		return err
	}
	if r.store, err = startDeployment(r.dir, p.topology); err != nil {
		return err
	}
	r.redis = r.store.servers[0]
	for i := range p.gateways {
		proxy, err := startProxy(r.redis.addr)
		if err != nil {
			return err
		}
		r.proxies = append(r.proxies, proxy)
		r.gateways = append(r.gateways, nil)
		if err := r.startGateway(i); err != nil {
			return err
		}
	}
	if p.load.Sessions == 0 {
		return nil
	}
	p.load.Journal = filepath.Join(r.dir, "journal")
	p.load.Targets = r.targets()
	if p.topology == cluster { // what is done to its first master must be felt
		if p.load.First, err = r.store.idOnFirst(); err != nil {
			return err
		}
	}
	r.client, err = startClient(p.load, filepath.Join(r.dir, "client.log"))
	if err != nil {
		return err
	}
	// Ctrl-C ends what the harness waits for, and so the run.
	context.AfterFunc(r.ctx, func() { _ = r.client.signal(syscall.SIGKILL) })
	return nil
}

func (r *fixture) close() {
	if r.client != nil {
		r.client.kill()
	}
	for i, g := range r.gateways {
		if g != nil {
			g.kill()
		}
		r.proxies[i].close()
	}
	if r.store != nil {
		r.store.stop()
	}
}

// startGateway starts the gateway behind proxy i.
func (r *fixture) startGateway(i int) error {
	log := filepath.Join(r.dir, fmt.Sprintf("gateway%d-%d.log", i, time.Now().UnixNano()))
	url := "redis://" + r.proxies[i].addr + "/0"
	if r.plan.bare || r.plan.topology != standalone {
		url = r.store.url
	}
	flags := r.plan.flags
	if r.plan.waits {
		flags = append(slices.Clip(flags), "--redis-wait-replicas=1")
	}
	g, err := startGateway(r.plan.bin, url, log, flags...)
	if err != nil {
		return err
	}
	r.gateways[i] = g
	return nil
}

// targets are the addresses of the gateways that run.
func (r *fixture) targets() (all []string) {
	for _, g := range r.gateways {
		if g != nil {
			all = append(all, g.addr)
		}
	}
	return all
}

func (r *fixture) tell(o order) error {
	_, err := r.client.tell(o)
	return err
}

// retarget tells the client which gateways there are.
func (r *fixture) retarget() error { return r.tell(order{Do: "targets", Targets: r.targets()}) }

// wait lets the load go on for a while.
func (r *fixture) wait(d time.Duration) error {
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// part waits for a share of the run's time.
func (r *fixture) part(share float64) error {
	return r.wait(time.Duration(float64(r.plan.seconds) * share))
}

// flow sets all proxies.
func (r *fixture) flow(f flow, delay time.Duration) (err error) {
	for _, p := range r.proxies {
		err = errors.Join(err, p.set(f, delay))
	}
	return err
}

// finish ends the load and judges the run.
func (r *fixture) finish() (*ledger, error) {
	if err := r.tell(order{Do: "finish", Within: 2 * patience}); err != nil {
		return nil, err
	}
	received, err := r.quiet()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(r.dir, "journal"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l, err := checkJournal(f, r.plan.waits)
	if err != nil {
		return nil, err
	}
	totals, err := r.store.totals()
	if err != nil {
		return nil, err
	}
	stored := l.settle(totals)
	if !r.unknown {
		l.reconcile(stored, received)
	}
	return l, r.healthy()
}

// quiet waits until no gateway has anything left to store, and says how many messages they
// received.
func (r *fixture) quiet() (received uint64, err error) {
	sum := 0.0
	err = eventually("the gateways have stored everything", patience, func() bool {
		sum, r.counters = r.received, map[string]float64{}
		for _, g := range r.gateways {
			if g == nil {
				continue
			}
			m, merr := g.metrics()
			if merr != nil || m["sluice_redis_pending_messages"] != 0 || m["sluice_connections"] != 0 {
				return false
			}
			sum += m["sluice_messages_received_total"]
			for name, value := range m {
				r.counters[name] += value
			}
		}
		return true
	})
	return uint64(sum), err
}

// healthy looks for what must not happen whatever is done to a gateway's neighbours.
func (r *fixture) healthy() (err error) {
	logs, _ := filepath.Glob(filepath.Join(r.dir, "gateway*.log"))
	words := []string{"DATA RACE", "panic:", "fatal error:"}
	if !r.forgot {
		words = append(words, "lost a session's state") // it had not: a commit was misjudged
	}
	for _, name := range logs {
		b, rerr := os.ReadFile(name)
		if rerr != nil {
			return rerr
		}
		for _, word := range words {
			if i := bytes.Index(b, []byte(word)); i >= 0 {
				err = errors.Join(err, fmt.Errorf("a gateway said: %s", b[i:min(len(b), i+3000)]))
			}
		}
	}
	for _, g := range r.gateways {
		if g != nil {
			err = errors.Join(err, g.dead())
		}
	}
	if e := r.plan.effect; e != "" && r.counters[e] == 0 {
		err = errors.Join(err, fmt.Errorf("the fault did nothing: %s is 0 at the end", e))
	}
	return err
}
