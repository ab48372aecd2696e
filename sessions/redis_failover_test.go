package sessions

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// startSentinel starts a Sentinel that watches a master and its replica, and returns all three.
func startSentinel(t testing.TB) (sentinel, master, replica *redisServer) {
	t.Helper()
	master = startRedis(t)
	replica = startRedis(t, "--replicaof", host+" "+master.port, "--repl-diskless-sync-delay", "0", "--replica-announce-ip", host)
	sentinel = &redisServer{t: t, dir: t.TempDir(), port: freePort(t)}
	conf := filepath.Join(sentinel.dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nsentinel monitor main %s %s 1\nsentinel down-after-milliseconds main 1000\n", sentinel.port, host, master.port)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel.command(conf, "--sentinel", "--bind", host)
	t.Cleanup(sentinel.kill)
	eventually(t, "the replica follows", func() bool { return strings.Contains(master.cli("info", "replication"), "state=online") })
	eventually(t, "the Sentinel knows the replica", func() bool {
		return strings.Contains(sentinel.cli("info", "sentinel"), "status=ok") && strings.Contains(sentinel.cli("sentinel", "replicas", "main"), "master-link-status\nok")
	})
	return sentinel, master, replica
}

// Clients go on counting while Sentinel makes the replica the master, asked to or because the
// master is dead. Each message is acknowledged once, in order, and the new master holds them all:
// what it had not received from the old one comes back from those who were told.
func TestRedisSentinelFailover(t *testing.T) {
	for _, fault := range []struct {
		name string
		do   func(sentinel, master *redisServer)
	}{
		{"asked for", func(sentinel, _ *redisServer) { sentinel.cli("sentinel", "failover", "main") }},
		{"master killed", func(_, master *redisServer) { master.kill() }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			sentinel, master, replica := startSentinel(t)
			s := newTestRedis(t, quick(sentinel.url()+"?master_set=main"))
			loops := []*testLoop{newTestLoop(t, s), newTestLoop(t, s)}
			const sessions = 20
			members, ids := make([]*member, sessions), make([]ID, sessions)
			for i := range members {
				ids[i] = NewID()
				members[i] = loops[i%2].join(t, ids[i], false)
			}
			stop, sent := make(chan struct{}), make([]int, sessions)
			var wg sync.WaitGroup
			for i, m := range members {
				wg.Go(func() {
					for {
						m.add(1)
						sent[i]++
						eventually(t, "acknowledged", func() bool { // through the failover
							m.mu.Lock()
							defer m.mu.Unlock()
							return len(m.numbers) == sent[i]
						})
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			eventually(t, "the replica is master", func() bool {
				// Sentinel cuts the connections of whom it promotes, which may be this one.
				if info, err := replica.ask("info", "replication"); err != nil || strings.Contains(info, "role:master") {
					return err == nil
				}
				fault.do(sentinel, master) // again and again: Sentinel refuses while the replica is slow to answer it
				return false
			})
			eventually(t, "the store writes to it", func() bool { return strings.Contains(replica.cli("info", "commandstats"), "cmdstat_evalsha:") })
			close(stop)
			wg.Wait()
			for _, m := range members {
				m.loop.on(m.a.Touch) // a session that was not counted since then is restored too
			}
			for i, id := range ids {
				if got := get(members[i], &members[i].numbers); got[len(got)-1] != uint64(sent[i]) {
					t.Errorf("session %d: the last of %d messages has number %d", i, sent[i], got[len(got)-1])
				}
				want := fmt.Sprint(sent[i])
				eventually(t, "session "+fmt.Sprint(i)+" is whole at "+want, func() bool { return replica.cli("hget", s.key(id), "n") == want })
			}
			eventually(t, "ready", func() bool { return s.Ready() == nil })
		})
	}
}
