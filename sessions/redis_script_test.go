package sessions

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// scriptRig runs commits by hand on one session.
type scriptRig struct {
	*world
	r *redisServer
}

func newScriptRig(t *testing.T, script *commitScript) *scriptRig {
	r := startRedis(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.addr()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &scriptRig{&world{c: c, script: script, key: "s"}, r}
}

func (g *scriptRig) commit(t *testing.T, k commit) stored {
	t.Helper()
	k.key = g.key
	s, err := parseStored(g.c.Do(t.Context(), k.command(g.c.B(), g.script, "60000", true)))
	if err != nil {
		t.Fatalf("commit %+v: %v", k, err)
	}
	return s
}

// fields is the hash's size; it also checks that the total is what its parts add up to.
func (g *scriptRig) fields(t *testing.T) int {
	t.Helper()
	m, err := g.c.Do(t.Context(), g.c.B().Hgetall().Key(g.key).Build()).AsStrMap()
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for field, v := range m {
		if field != "n" && field != "x" {
			v, _, _ = strings.Cut(v, ":")
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				t.Fatalf("field %s: %v", field, err)
			}
			sum += n
		}
	}
	if m["n"] != utoa(sum) {
		t.Fatalf("n is %s, its parts add up to %d: %v", m["n"], sum, m)
	}
	return len(m)
}

func TestCommitScriptFoldsFinishedWriters(t *testing.T) {
	g := newScriptRig(t, newCommitScript(4, 0, 64))
	live := commit{writer: newWriterID(), count: 1}
	live.told, live.known = 1, g.commit(t, live).total
	for i := range 100 {
		k := commit{writer: newWriterID(), count: 2, final: true, known: uint64(1 + 2*i)}
		if s := g.commit(t, k); s.total != uint64(3+2*i) || s.healed || s.lost {
			t.Fatalf("writer %d: %+v", i, s)
		}
		if n := g.fields(t); n > 6 {
			t.Fatalf("after %d writers the hash has %d fields", i+1, n)
		}
	}
	live.count = 3
	if s := g.commit(t, live); s.lost || s.total != 203 || s.at != 203 {
		t.Errorf("a writer that lived through the folds: %+v, want 203", s)
	}
	// All of it comes back from what this writer was told, though Redis forgets all.
	live.told, live.known, live.others = 3, 203, g.commit(t, live).others
	g.r.cli("flushall")
	live.count = 4
	if s := g.commit(t, live); !s.lost {
		t.Fatalf("state lost, but the script says %+v", s)
	}
	live.heal = true
	if s := g.commit(t, live); s.total != 204 || !s.healed {
		t.Errorf("healed to %+v, want 204", s)
	}
	g.fields(t)
}

func TestCommitScriptKeepsYoungFinishedWriters(t *testing.T) {
	g := newScriptRig(t, newCommitScript(4, time.Minute, 64))
	var all []commit
	for i := range 30 {
		k := commit{writer: newWriterID(), count: 2, final: true, known: uint64(2 * i)}
		g.commit(t, k)
		all = append(all, k)
	}
	for _, k := range all { // each arrives once more
		if s := g.commit(t, k); s.total != 60 {
			t.Fatalf("a repeated final commit: %+v, want 60", s)
		}
	}
}

func TestCommitScriptBoundsTheHash(t *testing.T) {
	const hard = 8
	g := newScriptRig(t, newCommitScript(4, time.Minute, hard))
	writers := make([]commit, 30)
	for i := range writers {
		writers[i] = commit{writer: newWriterID(), count: 1, known: uint64(i)}
		s := g.commit(t, writers[i])
		writers[i].told, writers[i].known, writers[i].others = 1, s.total, s.others
		if n := g.fields(t); n > hard+2 {
			t.Fatalf("%d living writers: %d fields, want at most %d", i+1, n, hard+2)
		}
	}
	total := uint64(30)
	for i := range writers { // the oldest were folded alive, and count on
		k := &writers[i]
		k.count = 2
		s := g.commit(t, *k)
		if s.lost {
			k.heal = true
			s = g.commit(t, *k)
		}
		total++
		if s.total != total || s.at != total {
			t.Fatalf("writer %d: %+v, want %d", i, s, total)
		}
		g.fields(t)
	}
}

// TestCommitScriptTwoWritersAfterAFlush is the case that totals alone cannot mend: one writer's commit was
// stored though it never heard so, and the other one was told a total that includes it.
func TestCommitScriptTwoWritersAfterAFlush(t *testing.T) {
	for _, unheardFirst := range []bool{true, false} {
		g := newScriptRig(t, newCommitScript(foldAbove, foldAfter, foldHard))
		unheard := commit{writer: newWriterID(), count: 5}
		g.commit(t, unheard) // the answer is lost
		other := commit{writer: newWriterID(), count: 1}
		s := g.commit(t, other)
		other.told, other.known, other.others, other.heal = 1, s.total, s.others, true
		g.r.cli("flushall")
		second := unheard
		if unheardFirst {
			g.commit(t, unheard)
		}
		if s := g.commit(t, other); s.total != 6 {
			t.Errorf("unheard first %v: healed to %d, want 6", unheardFirst, s.total)
		}
		if s := g.commit(t, second); s.total != 6 || s.count != 5 {
			t.Errorf("unheard first %v: the repeated commit gives %+v, want 6 in all", unheardFirst, s)
		}
		if n := g.fields(t); n != 3 {
			t.Errorf("%d fields, want n and two writers", n)
		}
	}
}

func TestCommitScriptLargeCounts(t *testing.T) {
	g := newScriptRig(t, newCommitScript(foldAbove, foldAfter, foldHard))
	const large = 1 << 52
	k := commit{writer: newWriterID(), count: large}
	if s := g.commit(t, k); s.total != large {
		t.Errorf("got %d, want %d", s.total, uint64(large))
	}
	k.told, k.known, k.count = large, large, large+1
	if s := g.commit(t, k); s.total != large+1 || s.at != large+1 {
		t.Errorf("got %+v, want %d", s, uint64(large+1))
	}
	g.fields(t)
}

func TestResumeOfAForeignKey(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, quick(r.url()))
	for i, make := range [][]string{{"set", "text"}, {"hset", "n", "many"}, {"hset", "a", "b"}, {"hset", "n", "-1"}} {
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
