package sessions

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

// scriptFixture runs commits by hand on one session.
type scriptFixture struct {
	r *redisServer
	c rueidis.Client
}

const scriptKey = "s"

func newScriptFixture(t *testing.T) *scriptFixture {
	r := startRedis(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.addr()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &scriptFixture{r, c}
}

func (g *scriptFixture) try(me string, k commit) (stored, error) {
	return parseStored(g.c.Do(ctx, k.command(g.c.B(), scriptKey, me, "60000", true)))
}

func (g *scriptFixture) commit(t *testing.T, me string, k commit) stored {
	t.Helper()
	s, err := g.try(me, k)
	if err != nil {
		t.Fatalf("commit %+v: %v", k, err)
	}
	return s
}

// own is a commit of a process that knows of no other.
func own(incarnation, base, delta uint64) commit {
	return commit{own: contribution{incarnation: incarnation, base: base, delta: delta}}
}

// hash reads the session, and checks that its total is what its parts add up to.
func (g *scriptFixture) hash(t *testing.T) hash {
	t.Helper()
	m, err := g.c.Do(ctx, g.c.B().Hgetall().Key(scriptKey).Build()).AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	h := hash{}
	for name, v := range m {
		if name == "n" {
			continue
		}
		if h[name], err = parseContribution(v); err != nil {
			t.Fatalf("field %s: %v", name, err)
		}
	}
	if len(m) > 0 && m["n"] != utoa(h.total()) {
		t.Fatalf("n is %s, its parts add up to %d: %v", m["n"], h.total(), h)
	}
	return h
}

// TestCommitScriptNumbers: a commit that is repeated gets the numbers that it got the first time,
// and an old one changes nothing.
func TestCommitScriptNumbers(t *testing.T) {
	g := newScriptFixture(t)
	g.commit(t, "c:a", own(1, 0, 3))
	g.commit(t, "c:b", own(1, 0, 2))
	for _, c := range []struct {
		own   commit
		total uint64
		after uint64
	}{
		{own(1, 0, 3), 5, 3},
		{own(1, 0, 5), 7, 7},
		{own(1, 0, 3), 7, 7}, // nobody waits for it any more
		{own(1, 0, 5), 7, 7},
		{own(2, 5, 1), 8, 8},
		{own(2, 0, 2), 9, 9}, // its process did not know what it had counted before
		{own(1, 0, 5), 9, 9},
		{own(2, 0, 2), 9, 9},
	} {
		if s := g.commit(t, "c:a", c.own); s.total != c.total || s.after != c.after {
			t.Errorf("%+v: total %d, after %d, want %d, %d", c.own.own, s.total, s.after, c.total, c.after)
		}
		g.hash(t)
	}
}

// TestCommitScriptAfterAFlush is the case that totals alone cannot mend: one process' commit was
// stored though it was not told so, and the other one was told a total that includes it.
func TestCommitScriptAfterAFlush(t *testing.T) {
	for _, unheardFirst := range []bool{true, false} {
		g := newScriptFixture(t)
		g.commit(t, "c:unheard", own(1, 0, 5)) // the answer is lost
		other := own(1, 0, 1)
		s := g.commit(t, "c:other", other)
		other.told = 5
		g.r.cli("flushall")
		if unheardFirst {
			g.commit(t, "c:unheard", own(1, 0, 5))
		} else if s := g.commit(t, "c:other", other); !s.lost || len(g.hash(t)) > 0 {
			t.Fatalf("state lost, but the script says %+v", s)
		}
		other.others = s.others
		if s := g.commit(t, "c:other", other); s.total != 6 {
			t.Errorf("unheard first %v: restored to %d, want 6", unheardFirst, s.total)
		}
		if s := g.commit(t, "c:unheard", own(1, 0, 5)); s.total != 6 || s.before != 5 || s.after != 5 {
			t.Errorf("unheard first %v: the repeated commit gives %+v, want 6 in all", unheardFirst, s)
		}
		if h := g.hash(t); len(h) != 2 {
			t.Errorf("%v, want two processes", h)
		}
	}
}

// TestCommitScriptTakenUpAgain: a process forgot what it had counted, and the state was lost;
// what the other one restores and what it counts now are both kept, in either order.
func TestCommitScriptTakenUpAgain(t *testing.T) {
	for _, restoredFirst := range []bool{true, false} {
		g := newScriptFixture(t)
		again := own(2, 0, 3)
		witness := own(1, 0, 1)
		witness.told, witness.others = 10, []field{{"c:a", contribution{1, 0, 10, 10}}}
		if !restoredFirst {
			g.commit(t, "c:a", again)
		}
		g.commit(t, "c:witness", witness)
		if restoredFirst {
			g.commit(t, "c:a", again)
		}
		if h := g.hash(t); h.total() != 14 || h["c:a"].worth() != 13 {
			t.Errorf("restored first %v: %v, want 14", restoredFirst, h)
		}
	}
}

// What is restored expires, and so does what is only touched; a question changes nothing.
func TestCommitScriptSetsTheTTL(t *testing.T) {
	g := newScriptFixture(t)
	restore := commit{told: 4, others: []field{{"c:a", contribution{1, 0, 4, 4}}}}
	g.commit(t, "c:b", restore)
	toLive := func() int {
		ms, err := strconv.Atoi(g.r.cli("pttl", scriptKey))
		if err != nil {
			t.Fatal(err)
		}
		return ms
	}
	if ms := toLive(); ms <= 0 || ms > 60000 {
		t.Errorf("restored, the session has %d ms to live, want up to the 60000 of the TTL", ms)
	}
	g.r.cli("pexpire", scriptKey, "600000")
	if g.commit(t, "c:b", restore); toLive() <= 60000 {
		t.Error("a question set the TTL")
	}
	restore.touch = true
	if g.commit(t, "c:b", restore); toLive() > 60000 {
		t.Error("a touch did not set the TTL")
	}
}

func TestCommitScriptLargeCounts(t *testing.T) {
	g := newScriptFixture(t)
	const large = 1 << 52
	if s := g.commit(t, "c:a", own(1, 0, large)); s.total != large {
		t.Errorf("got %d, want %d", s.total, uint64(large))
	}
	if s := g.commit(t, "c:a", own(1, 0, large+1)); s.total != large+1 || s.after != large+1 {
		t.Errorf("got %+v, want %d", s, uint64(large+1))
	}
	if s := g.commit(t, "c:a", own(maxTotal, large+1, 1)); s.total != large+2 {
		t.Errorf("got %+v, want %d", s, uint64(large+2))
	}
	if h := g.hash(t); h["c:a"].incarnation != maxTotal {
		t.Errorf("got %v, want an incarnation of %d", h, uint64(maxTotal))
	}
}

func TestCommitScriptRefuses(t *testing.T) {
	g := newScriptFixture(t)
	const max = "9007199254740991" // 2^53-1
	for _, c := range []struct {
		hash  []string // fields and values; one alone makes a string of the key
		delta uint64
		want  string
	}{
		{[]string{"text"}, 3, errWrongType},
		{[]string{"n", "many", "c:a", "1:0:1:1"}, 3, errForeign},
		{[]string{"n", "nan", "c:a", "1:0:1:1"}, 3, errForeign},
		{[]string{"n", "inf"}, 3, errForeign},
		{[]string{"n", "0x10"}, 3, errForeign},
		{[]string{"n", "1e3"}, 3, errForeign},
		{[]string{"n", "-1"}, 3, errForeign},
		{[]string{"n", "9007199254740992"}, 3, errForeign},
		{[]string{"n", "18446744073709551615"}, 3, errForeign},
		{[]string{"n", "1", "c:a", "garbage"}, 3, errForeign},
		{[]string{"n", "1", "c:a", "1:1:1764000000"}, 3, errForeign},
		{[]string{"n", "1", "c:a", "1:0:9007199254740992:1"}, 3, errForeign},
		{[]string{"n", "1", "c:a", "1:9007199254740991:1:1"}, 3, errForeign},
		{[]string{"n", "1", "c:a", "1:0:1:1"}, 1 << 53, errLimit},
		{[]string{"n", max, "c:a", "1:0:1:1"}, 2, errLimit},
		{[]string{"n", "9007199254740990", "c:a", "1:0:1:1"}, 3, errLimit},
		{[]string{"n", "9007199254740989", "c:a", "1:0:1:1"}, 3, ""},
		{[]string{"n", "9007199254740990", "c:a", "1:0:1:1"}, 2, ""},
	} {
		g.r.cli("flushall")
		if len(c.hash) == 1 {
			g.r.cli("set", scriptKey, c.hash[0])
		} else {
			g.r.cli(append([]string{"hset", scriptKey}, c.hash...)...)
		}
		before := g.r.cli("dump", scriptKey)
		s, err := g.try("c:a", own(1, 0, c.delta))
		if c.want == "" && err != nil || c.want != "" && (err == nil || errorWord(err.Error(), c.want) == "") {
			t.Errorf("%v: %+v, %v, want %q", c.hash, s, err, c.want)
		}
		if after := g.r.cli("dump", scriptKey); c.want != "" && after != before {
			t.Errorf("%v: a refused commit has written %s", c.hash, g.r.cli("hgetall", scriptKey))
		}
	}
	g.r.cli("flushall")
	g.r.cli("hset", scriptKey, "n", "1", "c:b", "garbage")
	lost := own(1, 0, 1)
	lost.told, lost.others = 5, []field{{"c:b", contribution{1, 0, 5, 5}}}
	if _, err := g.try("c:a", lost); err == nil || errorWord(err.Error(), errForeign) == "" {
		t.Errorf("restored over garbage: %v", err)
	}
	if got := g.r.cli("hget", scriptKey, "c:b"); got != "garbage" {
		t.Errorf("a refused commit has written %s", got)
	}
}

// FuzzParseContribution: what is read is what was written, and nothing else is read.
func FuzzParseContribution(f *testing.F) {
	for _, s := range []string{
		"1:0:5:5",                // one process, five messages
		"2:5:1:6",                // taken up again
		"1:0:9007199254740991:0", // the most there can be
		"1:1:9007199254740991:0", // one more
		"1:0:5", "1:0:5:5:5", "::::", "", "1:0:-5:5", "1:0:0x5:5", "1:0: 5:5", "01:0:5:5",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := parseContribution(s)
		if err != nil {
			return
		}
		again, err := parseContribution(c.String())
		if err != nil || again != c || c.worth() > maxTotal || strings.Trim(s, "0123456789:") != "" {
			t.Errorf("%q is read as %v, and that as %v, %v", s, c, again, err)
		}
	})
}

func TestResumeOfAForeignKey(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	for i, make := range [][]string{
		{"set", "text"}, {"hset", "n", "many"}, {"hset", "a", "b"}, {"hset", "n", "-1"}, {"hset", "n", "9007199254740992"},
		{"hset", "n", "0"}, {"hset", "n", "7", "c:x", "7:7:1764000000"}, {"hset", "n", "7", "b", "7"}} {
		id := testID(i + 1)
		r.cli(append([]string{make[0], s.key(id)}, make[1:]...)...)
		if m := newTestLoop(t, s).join(t, id, true); m.err == nil {
			t.Errorf("%v: resumed at %d, want an error", make, m.total)
		}
		if _, err := s.Lookup(t.Context(), id); err == nil || !contains(err, "redis") {
			t.Errorf("%v: Lookup error %v", make, err)
		}
	}
	if fmt.Sprint(s.Ready()) != "<nil>" {
		t.Errorf("foreign keys made the store unready: %v", s.Ready())
	}
}
