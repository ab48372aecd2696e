package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

// atRandom does one thing after the other, of those that a store with durable writes must
// survive, also while the one before is not yet over its consequences. What it did is printed
// when a promise is broken: the order is in the fixture's log.
func atRandom(r *fixture) error {
	moments := func(f func() error, after func() error) error {
		if err := f(); err != nil {
			return err
		}
		if err := r.wait(rand.N(600 * time.Millisecond)); err != nil {
			return err
		}
		return after()
	}
	all := func(f flow, d time.Duration) func() error { return func() error { return r.flow(f, d) } }
	one := func(i int, f flow) func() error { return func() error { return r.proxies[i].set(f, 0) } }
	sign := func(p *process, s syscall.Signal) func() error { return func() error { return p.signal(s) } }
	pass := all(passing, 0)
	events := []struct {
		name string
		do   func(i int) error
	}{
		{"cut the clients", func(int) error { return r.tell(order{Do: "cut"}) }},
		{"kill a gateway", func(i int) error { return r.crash(i) }},
		{"kill Redis", func(int) error { r.redis.kill(); return moments(func() error { return nil }, r.redis.start) }},
		{"stop Redis", func(int) error {
			return moments(sign(r.redis.process, syscall.SIGSTOP), sign(r.redis.process, syscall.SIGCONT))
		}},
		{"stop a gateway", func(i int) error {
			return moments(sign(r.gateways[i].process, syscall.SIGSTOP), sign(r.gateways[i].process, syscall.SIGCONT))
		}},
		{"drop replies", func(int) error { return moments(all(droppingBack, 0), pass) }},
		{"drop one's replies", func(i int) error { return moments(one(i, droppingBack), one(i, passing)) }},
		{"black hole", func(int) error { return moments(all(blackHole, 0), pass) }},
		{"black hole for one", func(i int) error { return moments(one(i, blackHole), one(i, passing)) }},
		{"refuse one", func(i int) error { return moments(one(i, refusing), one(i, passing)) }},
		{"delay", func(int) error { return moments(all(passing, 100*time.Millisecond), pass) }},
		{"kill Redis' clients", func(int) error { return r.command("CLIENT", "KILL", "TYPE", "normal")() }},
		{"flush the scripts", func(int) error { return r.command("SCRIPT", "FLUSH")() }},
	}
	log, err := os.Create(r.dir + "/events")
	if err != nil {
		return err
	}
	defer log.Close()
	for end := time.Now().Add(2 * r.plan.seconds); time.Now().Before(end); {
		e, i := events[rand.N(len(events))], rand.N(len(r.gateways))
		fmt.Fprintf(log, "%s %s (gateway %d)\n", time.Now().Format(time.RFC3339Nano), e.name, i)
		if err := e.do(i); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		if err := r.wait(rand.N(300 * time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}
