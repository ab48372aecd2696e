package faults

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const killed = "FLUSHALL, gateways killed too"

// losses are what makes Redis forget what it confirmed, and the move of slots, with which it must
// not.
var losses = []fault{
	{name: "FLUSHALL, clients come and go", effect: heals, do: func(r *fixture) error {
		return r.repeat(4, func() error { return r.loses(r.command("FLUSHALL")) })
	}},
	{name: killed, effect: heals, do: flushAndKill},
	{name: "restart from an older copy", effect: heals, do: olderCopy},
	{name: "eviction", effect: heals, do: evict},
	{name: "Sentinel failover, asked for", topology: sentinel, do: sentinelFailover},
	{name: "Sentinel failover to a replica that lags", effect: heals, topology: sentinel, do: laggingReplica},
	{name: "Cluster failover to a replica that lags", effect: heals, topology: cluster, do: laggingReplica},
	{name: "Sentinel failover, asked for, with WAIT", topology: sentinel, waits: true, do: sentinelFailover},
	{name: "Sentinel failover to a replica that lags, with WAIT", topology: sentinel, waits: true, do: laggingReplica},
	{name: "Cluster failover, asked for", topology: cluster, do: clusterFailover},
	{name: "Cluster, the master in a minority", effect: heals, topology: cluster, do: minority},
	{name: "Cluster, the master in a minority, with WAIT", effect: retries, topology: cluster, waits: true, do: minority},
	{name: "Cluster, the master in a minority, nobody connected", topology: cluster, do: minorityAtRest},
	{name: "slot migration", topology: cluster, do: moveSlots},
}

// lossFaults are the losses for sessions of one, three and forty connections on one to three
// gateways.
func lossFaults() (all []fault) {
	for _, f := range losses {
		for _, slots := range []int{1, 3, 40} {
			for gateways := 1; gateways <= 3; gateways++ {
				f := f
				f.slots, f.gateways, f.load = slots, gateways, roaming
				if f.name == killed && gateways == 1 {
					f.effect = "" // what the gateway counted went with it
				}
				f.short = f.topology == standalone && slots == 3 && gateways == 2 && strings.HasPrefix(f.name, "FLUSHALL, clients")
				all = append(all, f)
			}
		}
	}
	return all
}

// roaming connections go to another gateway with each life, however many a session has.
func roaming(s *clientSpec) { s.Roam = true }

// flushAndKill empties Redis while a gateway that knew a part of it is killed.
func flushAndKill(r *fixture) error {
	n := 0
	return r.repeat(3, func() error {
		n++
		if err := r.loses(r.command("FLUSHALL")); err != nil {
			return err
		}
		return r.crash(n % len(r.gateways))
	})
}

// olderCopy restarts Redis from a copy of its files that was made a moment before.
func olderCopy(r *fixture) error {
	old := filepath.Join(r.dir, "old")
	return r.repeat(2, func() error {
		if err := r.redis.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := exec.CommandContext(r.ctx, "cp", "-r", r.redis.dir, old).Run()
		if serr := r.redis.signal(syscall.SIGCONT); err == nil {
			err = serr
		}
		if err != nil {
			return fmt.Errorf("copy Redis' files: %w", err)
		}
		if err := r.part(0.2); err != nil {
			return err
		}
		if err := r.tell(order{Do: "counted", Within: patience}); err != nil { // there is more to lose
			return err
		}
		return r.loses(func() error {
			r.redis.kill()
			if err := exec.CommandContext(r.ctx, "sh", "-c", `rm -rf "$1" && mv "$0" "$1"`, old, r.redis.dir).Run(); err != nil {
				return fmt.Errorf("put the copy back: %w", err)
			}
			return r.redis.start()
		})
	})
}

// evict takes memory from Redis until it has evicted a quarter of its sessions.
func evict(r *fixture) error {
	return r.repeat(3, func() error {
		return r.loses(func() error {
			size, err := r.redis.number("DBSIZE")
			if err != nil {
				return err
			}
			if err := r.command("CONFIG", "SET", "maxmemory-policy", "allkeys-random")(); err != nil {
				return err
			}
			if err := r.command("CONFIG", "RESETSTAT")(); err != nil {
				return err
			}
			for evicted := 0; 4*evicted < size; {
				used, err := r.redis.info("memory", "used_memory")
				if err != nil {
					return err
				}
				if err := r.command("CONFIG", "SET", "maxmemory", fmt.Sprint(used-4096))(); err != nil {
					return err
				}
				if evicted, err = r.redis.info("stats", "evicted_keys"); err != nil {
					return err
				}
				if err := r.command("CONFIG", "SET", "maxmemory", "0")(); err != nil {
					return err
				}
				if r.ctx.Err() != nil {
					return r.ctx.Err()
				}
			}
			return r.command("CONFIG", "SET", "maxmemory-policy", "noeviction")()
		})
	})
}

// number is the integer that a command answers.
func (r *redisServer) number(args ...string) (int, error) {
	text, err := r.do(args...)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// info is one number of a section of INFO.
func (r *redisServer) info(section, name string) (int, error) {
	text, err := r.do("INFO", section)
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\r")
	return strconv.Atoi(value)
}

// master is the server that has a replica, which is the last one.
func (r *fixture) master() (master, replica *redisServer) {
	return r.store.servers[0], r.store.servers[len(r.store.servers)-1]
}

// promoted waits until a server is master, and as a member of a cluster has its slots.
func (r *fixture) promoted(s *redisServer) error {
	return eventually("the replica is master", patience, func() bool { return r.isMaster(s) })
}

func (r *fixture) isMaster(s *redisServer) bool {
	if r.store.topology == cluster && !r.store.servers[1].says("CLUSTER", s.addr+"@", "NODES") {
		return false
	}
	return s.says("ROLE", "master")
}

// sentinelFailover has Sentinel promote the replica while the master goes on taking writes: these
// are lost.
func sentinelFailover(r *fixture) error {
	return r.repeat(1, func() error {
		master, replica := r.master()
		return r.loses(func() error {
			err := eventually("Sentinel fails over", patience, func() bool {
				_, err := r.store.askSentinel("SENTINEL", "FAILOVER", "main") // it refuses while the replica is slow to answer
				return err == nil
			})
			if err != nil {
				return err
			}
			if err := r.promoted(replica); err != nil {
				return err
			}
			return eventually("the old master takes no writes", patience, func() bool { return master.says("ROLE", "slave") })
		})
	})
}

// written waits until the gateways write to a server.
func (r *fixture) written(s *redisServer) error {
	return eventually("the gateways write to the new master", patience, func() bool {
		return s.says("INFO", "cmdstat_evalsha:", "commandstats")
	})
}

// clusterFailover has the replica take the master's place in order, and back. Not once more: Redis
// 7.0 counts a server's votes from its last election when it is asked again within seconds, and it
// is master for a moment, by an old epoch, and forgets what it confirmed.
func clusterFailover(r *fixture) error {
	n := 0
	return r.repeat(2, func() error {
		master, replica := r.master()
		if n++; n%2 == 0 {
			master, replica = replica, master
		}
		err := eventually("the replica follows", patience, func() bool { return master.says("INFO", "state=online", "replication") })
		if err != nil {
			return err
		}
		return eventually("the replica is master", patience, func() bool {
			_, err := replica.do("CLUSTER", "FAILOVER") // it gives up after five seconds
			for end := time.Now().Add(6 * time.Second); err == nil && time.Now().Before(end); {
				if r.isMaster(replica) {
					return true
				}
				err = r.wait(10 * time.Millisecond)
			}
			return r.isMaster(replica)
		})
	})
}

// laggingReplica cuts the replica off from its master, has the load go on for a while, and kills
// the master. Where commits wait for a replica it comes back as one: nothing could be acknowledged.
func laggingReplica(r *fixture) error {
	return r.repeat(1, func() error {
		master, replica := r.master()
		if err := master.dropReplicas(); err != nil {
			return err
		}
		if err := r.wait(time.Second); err != nil {
			return err
		}
		return r.loses(func() error {
			master.kill()
			if err := r.promoted(replica); err != nil {
				return err
			}
			if r.plan.waits {
				if err := master.start(); err != nil {
					return err
				}
				err := eventually("the old master follows", patience, func() bool {
					_, err := master.do("REPLICAOF", "127.0.0.1", replica.port()) // it refuses while it loads
					return err == nil
				})
				if err != nil {
					return err
				}
			}
			return r.written(replica)
		})
	})
}

// dropReplicas cuts a master's replicas off, until feedReplicas.
func (r *redisServer) dropReplicas() error {
	if _, err := r.do("ACL", "SETUSER", "default", "-psync", "-sync"); err != nil {
		return err
	}
	_, err := r.do("CLIENT", "KILL", "TYPE", "replica")
	return err
}

func (r *redisServer) feedReplicas() error {
	_, err := r.do("ACL", "SETUSER", "default", "+psync", "+sync")
	return err
}

// minority cuts the first master off from all other servers, though not from the gateways. For a
// while it goes on taking writes, which are lost; then it refuses, and its replica has its place.
func minority(r *fixture) error {
	return r.repeat(1, func() error {
		err := r.loses(func() error {
			if err := r.isolate(); err != nil {
				return err
			}
			_, replica := r.master()
			return r.written(replica)
		})
		if err != nil {
			return err
		}
		if err := r.part(1); err != nil {
			return err
		}
		return r.reunite()
	})
}

// minorityAtRest does the same while nobody is connected, so that nothing is lost. Then all come
// back to one gateway, which hears of the new master. The others were asked for all sessions a
// moment before: they still have what the old one told them, and it answers.
func minorityAtRest(r *fixture) error {
	return r.repeat(1, func() error {
		if err := r.tell(order{Do: "away", Share: 1}); err != nil {
			return err
		}
		totals, err := r.store.totals()
		if err != nil {
			return err
		}
		last := r.gateways[len(r.gateways)-1]
		for _, g := range r.gateways[:len(r.gateways)-1] {
			for id := range totals {
				if err := g.visit(id); err != nil {
					return err
				}
			}
		}
		if err := r.isolate(); err != nil {
			return err
		}
		for _, o := range []order{{Do: "targets", Targets: []string{last.addr}}, {Do: "back"}} {
			if err := r.tell(o); err != nil {
				return err
			}
		}
		if err := r.wait(300 * time.Millisecond); err != nil { // the others look around every few seconds
			return err
		}
		if err := r.retarget(); err != nil {
			return err
		}
		if err := r.part(1); err != nil {
			return err
		}
		return r.reunite()
	})
}

// isolate cuts the first master off until another has its place.
func (r *fixture) isolate() error {
	master, replica := r.master()
	if err := master.dropReplicas(); err != nil {
		return err
	}
	if err := r.store.split(0, true); err != nil {
		return err
	}
	return r.promoted(replica)
}

// reunite has it follow the new one.
func (r *fixture) reunite() error {
	master, replica := r.master()
	if !master.says("ROLE", "master") || !master.says("CLUSTER", "cluster_state:fail", "INFO") {
		return errors.New("the old master is not in a minority")
	}
	if err := master.feedReplicas(); err != nil {
		return err
	}
	if err := r.store.split(0, false); err != nil {
		return err
	}
	return replica.followed(2)
}

// moveSlots moves the slots of all sessions from the first master to the second, and back, one
// after the other and as redis-cli does. Redis loses nothing by it.
func moveSlots(r *fixture) error {
	n := 0
	return r.repeat(2, func() error {
		from, to := r.store.servers[0], r.store.servers[1]
		if n++; n%2 == 0 {
			from, to = to, from
		}
		keys, err := from.sessions()
		if err != nil {
			return err
		}
		moved := map[string]bool{}
		for _, key := range keys {
			slot, err := from.do("CLUSTER", "KEYSLOT", key)
			if err != nil {
				return err
			}
			if moved[slot] {
				continue
			}
			moved[slot] = true
			if err := r.moveSlot(from, to, slot); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r *fixture) moveSlot(from, to *redisServer, slot string) error {
	source, err := from.do("CLUSTER", "MYID")
	if err != nil {
		return err
	}
	target, err := to.do("CLUSTER", "MYID")
	if err != nil {
		return err
	}
	if _, err := to.do("CLUSTER", "SETSLOT", slot, "IMPORTING", source); err != nil {
		return err
	}
	if _, err := from.do("CLUSTER", "SETSLOT", slot, "MIGRATING", target); err != nil {
		return err
	}
	for {
		keys, err := from.list("CLUSTER", "GETKEYSINSLOT", slot, "100")
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			if _, err := from.do("MIGRATE", "127.0.0.1", to.port(), key, "0", "5000"); err != nil {
				return err
			}
			if err := r.wait(5 * time.Millisecond); err != nil { // commits find the slot half moved
				return err
			}
		}
	}
	for _, s := range []*redisServer{to, from} {
		if _, err := s.do("CLUSTER", "SETSLOT", slot, "NODE", target); err != nil {
			return err
		}
	}
	return nil
}

// sessions are the keys of all sessions on a server.
func (r *redisServer) sessions() ([]string, error) { return r.list("KEYS", keyPrefix+"*") }
