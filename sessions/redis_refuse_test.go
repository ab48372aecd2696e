package sessions

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// A key that holds something else ends its own connections, with one line in the log, and nothing
// else waits for it.
func TestRedisRefusesOneSession(t *testing.T) {
	r := startRedis(t)
	var log logBuffer
	cfg := steady(r.url())
	cfg.Logger = testLogger(t, &log)
	s := newTestRedis(t, cfg)
	l, id, well := newTestLoop(t, s), NewID(), NewID()
	m, waits, silent := l.join(t, id, false), l.join(t, well, false), l.join(t, id, false)
	m.add(2)
	m.acked(2)
	before := redisPending.Load()
	r.cli("set", s.key(id), "text")
	retries := redisRetries.Get()
	m.add(3)
	l.on(silent.a.Touch) // has nothing to keep alive
	eventually(t, "the attachment ends", func() bool { return get(m, &m.detached) == 1 })
	if err := get(m, &m.finalErr); !errors.Is(err, ErrUnavailable) || !contains(err, "--redis-key-prefix") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Detached with %v, want one line that wraps ErrUnavailable and says what to set", err)
	}
	waits.add(1)
	waits.acked(1)
	if err := s.Ready(); err != nil {
		t.Errorf("one session made the store unready: %v", err)
	}
	if n := redisRetries.Get() - retries; n != 0 {
		t.Errorf("%d retries of what cannot be stored", n)
	}
	eventually(t, "nothing is pending", func() bool {
		unacked := -1
		l.on(func() { unacked = l.Loop.(*redisLoop).unacked })
		return unacked == 0 && redisPending.Load() == before
	})
	if r := l.join(t, id, true); !errors.Is(r.err, ErrUnavailable) {
		t.Errorf("resume: %v, want ErrUnavailable", r.err)
	}
	eventually(t, "a log line", func() bool { return strings.Contains(log.String(), id.String()) })
	if n := strings.Count(log.String(), "session refused"); n != 1 {
		t.Errorf("%d lines about the session, want 1", n)
	}
	ctx := t.Context()
	if err := s.Close(ctx); err != nil {
		t.Errorf("Close: %v, want no wait for what cannot be stored", err)
	}
}

// A connection that goes while its loop has not heard of the refusal yet is detached once, and
// nothing of it stays.
func TestRedisRefusesWhoIsLeaving(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l, id := newTestLoop(t, s), NewID()
	held, pending, refused := attachedOrKept.Load(), redisPending.Load(), redisRefused.Get()
	owned, unowned, silent := l.join(t, id, false), l.join(t, id, false), l.join(t, id, false)
	silent.add(1)
	silent.acked(1)
	r.cli("set", s.key(id), "text")
	busy := make(chan struct{}) // keeps the loop from what is posted to it
	l.post(func() {
		for _, m := range []*member{owned, unowned} {
			m.a.Add()
		}
		l.Loop.(*redisLoop).handOver()
		<-busy
		for _, m := range []*member{owned, unowned} {
			m.a.Add() // read before the loop heard of it
		}
		owned.a.Detach(owned)
		unowned.a.Detach(nil)
		silent.a.Detach(silent)
	})
	eventually(t, "the session is refused", func() bool { return redisRefused.Get() == refused+1 })
	close(busy)
	for _, m := range []*member{owned, silent} {
		eventually(t, "Detached is called", func() bool { return get(m, &m.detached) == 1 })
	}
	if err := get(owned, &owned.finalErr); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Detached with %v, want ErrUnavailable", err)
	}
	eventually(t, "nothing stays", func() bool {
		unacked, queued := -1, -1
		l.on(func() {
			rl, c := l.Loop.(*redisLoop), s.committer(id)
			c.mu.Lock()
			unacked, queued = rl.unacked, len(c.queue)+len(c.parked)+len(rl.round)+len(c.writers)
			c.mu.Unlock()
		})
		return unacked == 0 && queued == 0 && attachedOrKept.Load() == held && redisPending.Load() == pending
	})
	if n, d, u := get(silent, &silent.detached), get(owned, &owned.detached), get(unowned, &unowned.detached); n != 1 || d != 1 || u != 0 {
		t.Errorf("Detached %d, %d and %d times, want 1, 1 and, without an owner, 0", n, d, u)
	}
}

// As many processes as a session may have count in it; the next one is refused, and so is a
// resume there.
func TestRedisBoundsProcessesOfASession(t *testing.T) {
	r := startRedis(t)
	for _, held := range []int{maxProcesses - 2, maxProcesses - 1, maxProcesses, maxProcesses + 1} {
		s := newTestRedis(t, steady(r.url()))
		l, id := newTestLoop(t, s), NewID()
		late := l.join(t, id, false) // attached in time, speaks too late
		args := []string{"hset", s.key(id), "n", fmt.Sprint(held)}
		for i := range held {
			args = append(args, fmt.Sprint(instancePrefix, i), fmt.Sprintf("1:0:1:%d", i+1))
		}
		r.cli(args...)
		full := held >= maxProcesses
		m := l.join(t, id, true)
		if full != errors.Is(m.err, ErrFull) {
			t.Errorf("%d processes: resume %v, want ErrFull: %v", held, m.err, full)
		}
		late.add(1)
		if !full {
			late.acked(1)
			m.add(1)
			m.acked(1)
			continue
		}
		eventually(t, "the late process is refused", func() bool { return get(late, &late.detached) == 1 })
		if !errors.Is(late.finalErr, ErrFull) {
			t.Errorf("%d processes: Detached with %v, want ErrFull", held, late.finalErr)
		}
		if n, err := s.Lookup(t.Context(), id); n != 0 || !errors.Is(err, ErrFull) {
			t.Errorf("Lookup = %d, %v, want ErrFull", n, err)
		}
		if got := r.cli("hlen", s.key(id)); got != fmt.Sprint(held+1) {
			t.Errorf("a hash of %s fields, want %d", got, held+1)
		}
	}
}

// Redis that answers but cannot take writes: counts wait, readiness follows, the log says why in
// one line, and all is stored once it can.
func TestRedisThatCannotWrite(t *testing.T) {
	for _, fault := range []struct {
		name, want string
		on, off    []string
	}{
		{"memory full", "OOM", []string{"config", "set", "maxmemory", "1"}, []string{"config", "set", "maxmemory", "0"}},
		{"a replica", "READONLY", []string{"replicaof", "127.0.0.1", "1"}, []string{"replicaof", "no", "one"}},
		{"too few replicas", "NOREPLICAS", []string{"config", "set", "min-replicas-to-write", "1"}, []string{"config", "set", "min-replicas-to-write", "0"}},
		{"permissions taken", "+hset", []string{"acl", "setuser", "default", "-hset"}, []string{"acl", "setuser", "default", "+hset"}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			t.Parallel()
			r := startRedis(t)
			var log logBuffer
			cfg := steady(r.url())
			cfg.Logger = testLogger(t, &log)
			s := newTestRedis(t, cfg)
			l := newTestLoop(t, s)
			m, other := l.join(t, NewID(), false), l.join(t, NewID(), false)
			m.add(1)
			m.acked(1)
			r.cli(fault.on...)
			m.add(5)
			eventually(t, "not ready", func() bool { return contains(s.Ready(), fault.want) })
			other.add(1)
			eventually(t, "a log line that says why", func() bool {
				_, line, _ := strings.Cut(log.String(), "session store not ready")
				line, _, _ = strings.Cut(line, "\n")
				return strings.Contains(line, fault.want)
			})
			m.acked(1)
			r.cli(fault.off...)
			m.acked(6)
			other.acked(1)
			eventually(t, "ready", func() bool { return s.Ready() == nil })
			eventually(t, "the log says so", func() bool { return strings.Contains(log.String(), "session store ready") })
			if n := strings.Count(log.String(), "\n"); n > 6 {
				t.Errorf("%d log lines", n)
			}
		})
	}
}

// A user with no more than what the documentation names can do everything.
func TestRedisPermissionsSuffice(t *testing.T) {
	r := startRedis(t)
	for user, cache := range map[string]bool{"plain": false, "cached": true} {
		args := []string{"acl", "setuser", user, "on", ">pw", "~sluice:session:*", "resetchannels", "-@all"}
		cfg := steady("redis://" + user + ":pw@" + r.addr())
		cfg.ClientCache = cache
		r.cli(append(args, strings.Fields(cfg.permissions())...)...)
		s := newTestRedis(t, cfg)
		l, id := newTestLoop(t, s), NewID()
		for i := range uint64(12) {
			m := l.join(t, id, i > 0)
			if m.err != nil || m.total != i {
				t.Fatalf("%s: joined at %d, %v, want %d", user, m.total, m.err, i)
			}
			l.on(func() { m.a.Add(); m.a.Detach(m) })
			eventually(t, "Detached", func() bool { return get(m, &m.detached) == 1 })
		}
		heals := redisHeals.Get()
		m := l.join(t, id, true)
		m.add(1)
		m.acked(1)
		r.cli("del", s.key(id))
		m.add(1)
		m.acked(2)
		if redisHeals.Get() == heals {
			t.Errorf("%s: nothing was healed", user)
		}
		if n, err := s.Lookup(t.Context(), id); n != 14 || err != nil {
			t.Errorf("%s: Lookup = %d, %v, want 14", user, n, err)
		}
		if s.Ready() != nil {
			t.Errorf("%s: %v", user, s.Ready())
		}
	}
	documented, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{needed, neededForCache, neededToWait} {
		if !strings.Contains(string(documented), want) {
			t.Errorf("doc.go does not name the permissions %s", want)
		}
	}
}

// Thousands of resumes do not wait for one deadline after the other while Redis hangs.
func TestRedisHangsWhileManyResume(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, quick(r.url()))
	l := newTestLoop(t, s)
	r.signal(syscall.SIGSTOP)
	eventually(t, "not ready", func() bool { return s.Ready() != nil })
	owners := make([]*member, 200*maxResumes)
	l.on(func() {
		for i := range owners {
			owners[i] = &member{t: t, loop: l, name: "resume"}
			l.Attach(NewID(), "", true, owners[i])
		}
	})
	eventually(t, "all are answered", func() bool { // a deadline for each batch would be more than that
		for _, m := range owners {
			if get(m, &m.attached) != 1 {
				return false
			}
		}
		return true
	})
	for _, m := range owners {
		if !errors.Is(m.err, ErrUnavailable) {
			t.Fatalf("resume while Redis hangs: %v", m.err)
		}
	}
	r.signal(syscall.SIGCONT)
	eventually(t, "ready", func() bool { return s.Ready() == nil })
}

// While Redis does not answer, what the cache holds may be less than what another process has
// told a client.
func TestResumeIsNotAnsweredFromTheCacheAlone(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	id := NewID()
	r.cli("hset", s.key(id), "n", "7", "c:x", "1:0:7:7")
	for range 2 { // the first fills the cache
		if f := s.read(t.Context(), []ID{id})[0]; f.total != 7 || f.err != nil {
			t.Fatalf("got %d, %v, want 7", f.total, f.err)
		}
	}
	for {
		s.setHealth(fmt.Errorf("silent: %w", ErrUnavailable))
		f := s.read(t.Context(), []ID{id})[0]
		if s.state.Load().err == nil {
			continue // the watcher came between: Redis is well
		}
		if !errors.Is(f.err, ErrUnavailable) {
			t.Errorf("got %d, %v, want ErrUnavailable", f.total, f.err)
		}
		return
	}
}

// Nor when who asks has given up before the barrier is answered.
func TestResumeThatIsGivenUpIsNotAnsweredFromTheCache(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	id := NewID()
	r.cli("hset", s.key(id), "n", "7", "c:x", "1:0:7:7")
	if f := s.read(t.Context(), []ID{id})[0]; f.total != 7 || f.err != nil {
		t.Fatalf("got %d, %v, want 7", f.total, f.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f := s.read(ctx, []ID{id})[0]; !errors.Is(f.err, ErrUnavailable) {
		t.Errorf("got %d, %v, want ErrUnavailable", f.total, f.err)
	}
}

func TestErrorWord(t *testing.T) {
	for text, want := range map[string]string{
		"OOM command not allowed when used memory > 'maxmemory'.":                                                       "OOM",
		"Error running script (call to f_0): @user_script:74: @user_script: 74: -OOM command not allowed when used mem": "OOM",
		"READONLY You can't write against a read only replica. script: 03, on @user_script:74.":                         "READONLY",
		"BOOM BROOM": "", "": "",
	} {
		if got := errorWord(text, "READONLY", "OOM"); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
