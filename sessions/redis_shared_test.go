package sessions

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The connections of a process on one session commit as one: what all of them counted while a
// commit was under way is in the next, and Redis holds one field for the process. Each is told its
// own numbers.
func TestRedisConnectionsOfASessionCommitAsOne(t *testing.T) {
	const conns, messages = 50, 4 // on each of two loops
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	id := NewID()
	loops := []*testLoop{newTestLoop(t, s), newTestLoop(t, s)}
	var all []*member
	for _, l := range loops {
		for range conns {
			all = append(all, l.join(t, id, len(all) > 0))
		}
	}
	r.signal(syscall.SIGSTOP)
	for i, l := range loops {
		l.on(func() {
			for range messages {
				for _, m := range all[i*conns : (i+1)*conns] {
					m.a.Add()
				}
			}
		})
	}
	r.signal(syscall.SIGCONT)
	var numbers []uint64
	for _, m := range all {
		m.acked(messages)
		numbers = append(numbers, get(m, &m.numbers)...)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i+1) {
			t.Fatalf("the numbers given out are %d, want each of 1 to %d once", numbers, len(all)*messages)
		}
	}
	// A writer for each connection would need 100 commits.
	commits := 0
	for line := range strings.Lines(r.cli("info", "commandstats")) {
		if calls, ok := strings.CutPrefix(line, "cmdstat_hset:calls="); ok { // the script's, once
			calls, _, _ = strings.Cut(calls, ",")
			commits, _ = strconv.Atoi(calls)
		}
	}
	if commits < 1 || commits > 10 {
		t.Errorf("%d commits for %d messages, want a few", commits, len(numbers))
	}
	if n := r.cli("hlen", s.key(id)); n != "2" {
		t.Errorf("%s fields, want the total and one for the process", n)
	}
}
