package sessions

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startReplica starts a replica of a server and waits until it follows.
func startReplica(t testing.TB, of *redisServer) *redisServer {
	t.Helper()
	of.cli("config", "set", "repl-diskless-sync-delay", "0")
	r := startRedis(t, append([]string{"--replica-announce-ip", host}, of.args...)...)
	if len(of.args) > 0 { // of a cluster
		r.cli("cluster", "meet", host, of.port)
		id := of.cli("cluster", "myid")
		eventually(t, "it may follow", func() bool {
			out, err := r.ask("cluster", "replicate", id)
			return err == nil && out == "OK"
		})
	} else {
		r.cli("replicaof", host, of.port)
	}
	eventually(t, "the replica follows", func() bool {
		return strings.Contains(of.cli("info", "replication"), "state=online")
	})
	return r
}

// What the replica has not received is stored, and repeated, and not acknowledged. The repeated
// commit has nothing new to write, and must wait all the same.
func TestWaitReplicas(t *testing.T) {
	master := startRedis(t)
	replica := startReplica(t, master)
	cfg := quick(master.url())
	cfg.WaitReplicas = 1
	s := newTestRedis(t, cfg)
	eventually(t, "ready", func() bool { return s.Ready() == nil })
	l, id := newTestLoop(t, s), NewID()
	m := l.join(t, id, false)
	m.add(2)
	m.acked(2)
	if got := replica.cli("hget", s.key(id), "n"); got != "2" {
		t.Errorf("2 are acknowledged and the replica holds %q", got)
	}
	retries := redisRetries.Get()
	replica.signal(syscall.SIGSTOP)
	m.add(1)
	eventually(t, "the commit is repeated", func() bool { return redisRetries.Get() >= retries+3 })
	if got := master.cli("hget", s.key(id), "n"); got != "3" {
		t.Errorf("the master holds %q, want 3", got)
	}
	if n := len(get(m, &m.numbers)); n != 2 {
		t.Errorf("%d acknowledged, and the replica has 2", n)
	}
	eventually(t, "not ready", func() bool { return s.Ready() != nil })
	replica.signal(syscall.SIGCONT)
	m.acked(3)
	if total, err := m.leave(); total != 3 || err != nil {
		t.Errorf("Detached with %d, %v, want 3", total, err)
	}
	eventually(t, "ready again", func() bool { return s.Ready() == nil })
	replica.kill()
	eventually(t, "too few replicas are named", func() bool {
		return contains(s.Ready(), "0 replicas, commits wait for 1 (--redis-wait-replicas)")
	})
	if r := l.join(t, id, true); r.err != nil || r.total != 3 {
		t.Errorf("resumed at %d, %v: what is stored can be read without replicas", r.total, r.err)
	}
}

// On a Cluster each commit waits at the server that has its slot, also while the slot moves, and
// after it has.
func TestWaitReplicasOnACluster(t *testing.T) {
	nodes := startCluster(t)
	from, to, alone := nodes[0], nodes[1], nodes[2]
	for _, n := range []*redisServer{from, to} {
		startReplica(t, n)
	}
	cfg := quick(from.url())
	cfg.WaitReplicas, cfg.DetachDeadline = 1, 100*time.Millisecond
	s := newTestRedis(t, cfg)
	l := newTestLoop(t, s)
	on := func(last int) (id ID, slot string) { // one whose slot is at most last, of this server's
		for number := 0; ; {
			id = NewID()
			slot = from.cli("cluster", "keyslot", s.key(id))
			if fmt.Sscan(slot, &number); number <= last && number > last-5461 {
				return id, slot
			}
		}
	}
	id, slot := on(5460)
	m := l.join(t, id, false)
	m.add(5)
	m.acked(5)
	fromID, toID := from.cli("cluster", "myid"), to.cli("cluster", "myid")
	to.cli("cluster", "setslot", slot, "importing", fromID)
	from.cli("cluster", "setslot", slot, "migrating", toID)
	from.cli("migrate", host, to.port, s.key(id), "0", "5000")
	m.add(2)
	m.acked(7)
	for _, n := range []*redisServer{to, from} {
		n.cli("cluster", "setslot", slot, "node", toID)
	}
	m.add(1)
	m.acked(8)
	if got := to.cli("hget", s.key(id), "n"); got != "8" {
		t.Errorf("the new owner holds %q, want 8", got)
	}
	other, _ := on(16382)
	n := l.join(t, other, false)
	n.add(1)
	eventually(t, "it is stored", func() bool { return alone.cli("hget", s.key(other), "n") == "1" })
	if _, err := n.leave(); !errors.Is(err, ErrUnavailable) || len(get(n, &n.numbers)) != 0 {
		t.Errorf("acknowledged, or left with %v, where there is no replica", err)
	}
	m.add(1)
	m.acked(9)
}
