package faults

import (
	"cmp"
	"fmt"
	"syscall"
	"time"
)

// fault is something that goes wrong under load. It leaves everything as it found it, so that the
// run can be finished.
type fault struct {
	name     string
	short    bool
	effect   string            // a metric that the fault must move, or it proves nothing
	slots    int               // connections of a session at a time; 1 if it says nothing
	gateways int               // 2 if it says nothing
	topology topology          // of Redis
	waits    bool              // commits wait for a replica, whose promotion then loses nothing
	load     func(*clientSpec) // changes the usual load
	do       func(r *fixture) error
}

// shape says how many connections a session has, and over how many gateways.
func (f *fault) shape() string {
	return fmt.Sprintf("%d × %d", cmp.Or(f.slots, 1), cmp.Or(f.gateways, 2))
}

// adapt changes the usual load to the fault's.
func (f *fault) adapt(s *clientSpec) {
	if f.slots > 0 {
		s.Sessions, s.Slots = max(2, s.Sessions/f.slots), f.slots
	}
	if f.load != nil {
		f.load(s)
	}
}

const (
	retries = "sluice_redis_commit_retries_total"
	heals   = "sluice_redis_heals_total"
)

// faults are all that are tried, from the harmless to the rude.
var faults = []fault{
	{name: "none", do: func(r *fixture) error { return r.part(1) }},
	{name: "reconnect in flight", short: true, do: reconnectInFlight},
	{name: "two connections on two gateways", effect: retries, slots: 2, do: twoConnections},
	{name: "gateway SIGKILL", short: true, do: killGateways},
	{name: "gateway SIGSTOP", do: func(r *fixture) error { return r.stopped(r.gateways[0].process, 3*time.Second) }},
	{name: "gateway SIGTERM drain", short: true, do: drain},
	{name: "blue/green", do: blueGreen},
	{name: "redis SIGKILL and restart", effect: retries, short: true, do: killRedis},
	{name: "redis SIGSTOP", effect: retries, do: func(r *fixture) error { return r.stopped(r.redis.process, 10*time.Second) }},
	{name: "CLIENT PAUSE", do: func(r *fixture) error { return r.repeat(2, r.command("CLIENT", "PAUSE", "1500", "ALL")) }},
	{name: "CLIENT KILL", effect: retries, do: func(r *fixture) error { return r.repeat(20, r.command("CLIENT", "KILL", "TYPE", "normal")) }},
	{name: "SCRIPT FLUSH", do: func(r *fixture) error { return r.repeat(20, r.command("SCRIPT", "FLUSH")) }},
	{name: "FLUSHALL", effect: heals, short: true, do: flushAll},
	{name: "FLUSHALL, two connections", effect: heals, slots: 2, do: flushAll},
	{name: "replies dropped", effect: retries, short: true, do: dropReplies},
	{name: "200 ms delay", do: delay},
	{name: "redis out of memory", effect: retries, short: true, do: func(r *fixture) error {
		return r.unable([]string{"CONFIG", "SET", "maxmemory", "1"}, []string{"CONFIG", "SET", "maxmemory", "0"})
	}},
	{name: "redis read-only", effect: retries, do: func(r *fixture) error {
		return r.unable([]string{"REPLICAOF", "127.0.0.1", "1"}, []string{"REPLICAOF", "NO", "ONE"})
	}},
	{name: "redis refused", effect: retries, do: func(r *fixture) error { return r.outage(refusing, 3*time.Second) }},
	{name: "redis black-holed", effect: retries, do: func(r *fixture) error { return r.outage(blackHole, 6*time.Second) }},
	{name: "redis black-holed for one gateway", effect: retries, load: restless, do: blackHoleOne},
	{name: "one gateway cut off, the rest goes on", effect: retries, load: hasty, do: cutOffOne},
	{name: "all at random", do: atRandom},
	{name: "all at random, two connections", slots: 2, do: atRandom},
}

// repeat does something n times over the run.
func (r *fixture) repeat(n int, do func() error) error {
	for range n {
		if err := r.part(1 / float64(n+1)); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
	}
	return r.part(1 / float64(n+1))
}

// command is a command to Redis.
func (r *fixture) command(args ...string) func() error {
	return func() error {
		_, err := r.redis.do(args...)
		return err
	}
}

// lasting shortens what only lasts, for the tests of every day.
func (r *fixture) lasting(d time.Duration) time.Duration {
	if r.plan.short {
		return min(d, time.Second)
	}
	return d
}

func (r *fixture) stopped(p *process, d time.Duration) error {
	return r.repeat(1, func() error {
		if err := p.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		defer p.signal(syscall.SIGCONT) //nolint:errcheck // a process that has ended is found out by what comes next
		return r.wait(r.lasting(d))
	})
}

// unable has Redis answer, and refuse to write, between two commands. It is read as before.
func (r *fixture) unable(from, until []string) error {
	return r.repeat(2, func() error {
		if err := r.command(from...)(); err != nil {
			return err
		}
		if err := r.part(0.1); err != nil {
			return err
		}
		return r.command(until...)()
	})
}

func (r *fixture) outage(f flow, d time.Duration) error {
	return r.repeat(1, func() error {
		if err := r.flow(f, 0); err != nil {
			return err
		}
		if err := r.wait(r.lasting(d)); err != nil {
			return err
		}
		return r.flow(passing, 0)
	})
}

// reconnectInFlight cuts all clients again and again, each time with commits on their way: 20 ms
// are longer than a commit takes.
func reconnectInFlight(r *fixture) error {
	if err := r.flow(passing, 20*time.Millisecond); err != nil {
		return err
	}
	if err := r.repeat(10, func() error { return r.tell(order{Do: "cut"}) }); err != nil {
		return err
	}
	return r.flow(passing, 0)
}

// twoConnections counts each session on both gateways at once, and cuts their connections to
// Redis meanwhile.
func twoConnections(r *fixture) error {
	return r.repeat(5, func() error {
		if err := r.flow(refusing, 0); err != nil {
			return err
		}
		return r.flow(passing, 0)
	})
}

// killGateways kills one gateway after the other, while its commits are on their way, and starts
// it again.
func killGateways(r *fixture) error {
	if err := r.flow(passing, 10*time.Millisecond); err != nil {
		return err
	}
	n := 0
	err := r.repeat(6, func() error {
		n++
		return r.crash(n % len(r.gateways))
	})
	if err != nil {
		return err
	}
	return r.flow(passing, 0)
}

// crash kills gateway i, whose clients go to the others at once, and starts another in its place.
func (r *fixture) crash(i int) error {
	r.unknown = true
	r.gateways[i].kill()
	r.gateways[i] = nil
	if len(r.gateways) > 1 { // else the clients find nobody there for a while
		if err := r.retarget(); err != nil {
			return err
		}
	}
	if err := r.startGateway(i); err != nil {
		return err
	}
	return r.retarget()
}

// drain ends one gateway in order, under load, and starts it again.
func drain(r *fixture) error {
	n := 0
	return r.repeat(2, func() error {
		i := n % len(r.gateways)
		n++
		return r.replace(i)
	})
}

// replace drains gateway i, whose clients go to the others, and starts another in its place.
func (r *fixture) replace(i int) error {
	old := r.gateways[i]
	r.gateways[i] = nil
	if err := r.retarget(); err != nil {
		return err
	}
	r.unknown = true
	if err := old.terminate(); err != nil {
		return err
	}
	if err := r.startGateway(i); err != nil {
		return err
	}
	return r.retarget()
}

// blueGreen starts a second gateway on the same Redis, waits until it is ready, sends new clients
// there, and drains the first.
func blueGreen(r *fixture) error {
	blue := true
	return r.repeat(3, func() error {
		from, to := 0, 1
		if !blue {
			from, to = 1, 0
		}
		blue = !blue
		if r.gateways[to] == nil {
			if err := r.startGateway(to); err != nil {
				return err
			}
		}
		green := r.gateways[to]
		if err := eventually("the new gateway is ready", patience, green.readyz); err != nil {
			return err
		}
		old := r.gateways[from]
		r.gateways[from] = nil
		if err := r.retarget(); err != nil {
			return err
		}
		r.unknown = true
		return old.terminate()
	})
}

func killRedis(r *fixture) error {
	return r.repeat(2, func() error {
		r.redis.kill()
		if err := r.part(0.05); err != nil {
			return err
		}
		return r.redis.start()
	})
}

// flushAll empties Redis while nobody leaves, but for a tenth of the sessions, of which nobody is
// connected: they begin again at 0. All others are whole as soon as each of their connections has
// counted once more.
func flushAll(r *fixture) error {
	return r.repeat(2, func() error {
		for _, o := range []order{{Do: "life"}, {Do: "away", Share: 0.1}} {
			if err := r.tell(o); err != nil {
				return err
			}
		}
		if err := r.loses(r.command("FLUSHALL")); err != nil {
			return err
		}
		for _, o := range []order{{Do: "counted", Within: patience}, {Do: "back"}, {Do: "life", Life: r.plan.load.Life}} {
			if err := r.tell(o); err != nil {
				return err
			}
		}
		return nil
	})
}

// loses does what makes Redis forget, and has the client write down when.
func (r *fixture) loses(do func() error) error {
	r.forgot = true
	if r.plan.waits { // Redis may forget, though nothing that was acknowledged
		return do()
	}
	if err := r.tell(order{Do: "losing"}); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return r.tell(order{Do: "lost"})
}

// dropReplies lets commits through and swallows what Redis says to them: the gateways cannot know
// what was applied.
func dropReplies(r *fixture) error {
	return r.repeat(4, func() error {
		if err := r.flow(droppingBack, 0); err != nil {
			return err
		}
		if err := r.part(0.05); err != nil {
			return err
		}
		return r.flow(passing, 0)
	})
}

func delay(r *fixture) error {
	if err := r.flow(passing, 200*time.Millisecond); err != nil {
		return err
	}
	if err := r.part(1); err != nil {
		return err
	}
	return r.flow(passing, 0)
}

// restless clients move more often than they count, so that the gateways hold totals of sessions
// that count elsewhere.
func restless(s *clientSpec) {
	s.Sessions, s.Pause, s.Life = 3*s.Sessions, time.Second, 300*time.Millisecond
}

// blackHoleOne cuts one of two gateways off, while clients go on moving between both.
func blackHoleOne(r *fixture) error {
	return r.repeat(1, func() error {
		if err := r.proxies[0].set(blackHole, 0); err != nil {
			return err
		}
		if err := r.wait(r.lasting(6 * time.Second)); err != nil {
			return err
		}
		return r.proxies[0].set(passing, 0)
	})
}

// hasty clients live for a few messages only: each session has had more connections in seconds
// than its hash may have fields.
func hasty(s *clientSpec) {
	s.Sessions, s.Pause, s.Life = s.Sessions/4, 5*time.Millisecond, 25*time.Millisecond
}

// cutOffOne has one gateway hear nothing of what Redis stored for it, and then not reach Redis at
// all, while its clients have gone to the other one and count there. What it repeats in the end
// must still be known to be a repetition.
func cutOffOne(r *fixture) error {
	return r.repeat(1, func() error {
		if err := r.proxies[0].set(droppingBack, 0); err != nil {
			return err
		}
		if err := r.tell(order{Do: "targets", Targets: []string{r.gateways[1].addr}}); err != nil {
			return err
		}
		if err := r.wait(r.lasting(6 * time.Second)); err != nil {
			return err
		}
		if err := r.proxies[0].set(refusing, 0); err != nil {
			return err
		}
		if err := r.wait(r.lasting(4 * time.Second)); err != nil {
			return err
		}
		if err := r.proxies[0].set(passing, 0); err != nil {
			return err
		}
		return r.retarget()
	})
}
