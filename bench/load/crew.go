package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sluice/bench/procfs"
	"sluice/bench/reactor"
	"sluice/bench/units"
	"sluice/bench/wsclient"
)

// spareDescriptors is what a table keeps for everything but connections.
const spareDescriptors = 128

// connsPerTable is how many connections one descriptor table holds.
func connsPerTable() int {
	limit := int(min(procfs.OwnFDLimit(), 1<<30))
	return max(limit-spareDescriptors, 16)
}

// loopsFor is how many loops it takes to hold conns connections.
func loopsFor(conns int) int {
	each := connsPerTable()
	return max((conns+each-1)/each, 1)
}

// plan is what all workers of a run share. None of them changes it.
type plan struct {
	spec      Spec
	addrs     []netip.AddrPort // of Spec.Targets, resolved once
	sources   []netip.Addr
	key       wsclient.Key
	targets   []*wsclient.Target
	secure    []*tls.Config // of those that are wss://
	template  *template     // custom: of messages and replies
	latencies *latencies
	start     time.Time // the zero of all times
	events    chan event
}

// now is the time since the plan was made, as all workers measure it.
func (p *plan) now() time.Duration { return time.Since(p.start) }

// crew is the workers of a run and what they have told. One goroutine.
type crew struct {
	plan
	workers   []*member
	ownTables bool
}

// member is one worker as the crew sees it.
type member struct {
	*worker
	last Counters
	told bool // its result
}

func newCrew(ctx context.Context, s *Spec) (*crew, error) {
	c := &crew{plan: plan{spec: *s, key: wsclient.NewKey(), latencies: &latencies{}, start: time.Now(),
		events: make(chan event, 4096)}}
	for _, raw := range s.Targets {
		addr, err := resolve(ctx, raw)
		if err != nil {
			return nil, err
		}
		c.addrs = append(c.addrs, addr)
	}
	for _, raw := range s.urls() {
		t, err := wsclient.NewTarget(raw, c.key, s.Headers, s.Subprotocol)
		if err != nil {
			return nil, err
		}
		c.targets = append(c.targets, t)
		c.secure = append(c.secure, &tls.Config{ServerName: t.URL.Hostname(),
			InsecureSkipVerify: s.Insecure, MinVersion: tls.VersionTLS12, CurvePreferences: s.Curves})
	}
	var err error
	if c.template, err = newTemplate(s); err != nil {
		return nil, err
	}
	c.sources, err = sourcesFor(s, c.addrs)
	// The process's own table serves as long as all connections fit into it.
	c.ownTables = loopsFor(s.Conns) > 1 || s.ownTables
	return c, err
}

// errNoTables says that the connections need more descriptors than there are.
type errNoTables struct{ cause error }

func (e errNoTables) Error() string {
	return fmt.Sprintf("more than %s connections need a descriptor table for each loop, which is not "+
		"allowed here: %v (raise the limit of descriptors instead, ulimit -n)",
		units.Number(connsPerTable()), e.cause)
}

// grow starts workers until there are n.
func (c *crew) grow(n int) error {
	for len(c.workers) < n {
		w, err := startWorker(&c.plan, len(c.workers), c.ownTables)
		if err != nil {
			if split := reactor.CanSplit(); c.ownTables && split != nil {
				return errNoTables{split}
			}
			return fmt.Errorf("load generator: %w", err)
		}
		c.workers = append(c.workers, &member{worker: w})
	}
	return nil
}

// room is how many connections the workers can hold.
func (c *crew) room() int {
	if c.ownTables {
		return len(c.workers) * connsPerTable()
	}
	return connsPerTable()
}

// tell sends every worker its command.
func (c *crew) tell(command func(i int, m *member) command) {
	for i, m := range c.workers {
		m.send(command(i, m))
	}
}

// send has a worker obey a command.
func (m *member) send(c command) { m.loop.Post(func() { m.obey(c) }) }

// close ends what is left of the workers.
func (c *crew) close() error {
	for _, m := range c.workers {
		m.loop.Post(m.loop.Close)
	}
	var errs []error
	for _, m := range c.workers {
		for ended := false; !ended; {
			select {
			case <-c.events: // a worker that ends may still have to tell something
			case <-m.loop.Stopped():
				ended = true
			}
		}
		errs = append(errs, m.loop.Wait())
	}
	return errors.Join(errs...)
}

// working is how many workers have not told their result.
func (c *crew) working() (n int) {
	for _, m := range c.workers {
		if !m.told {
			n++
		}
	}
	return n
}

// sum is the counters of all workers.
func (c *crew) sum() Counters {
	n := newCounters()
	for _, m := range c.workers {
		n.add(&m.last)
	}
	return n
}
