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
	const most = 8 // fields: the total and seven writers
	g := newScriptRig(t, newCommitScript(4, time.Minute, most))
	var writers []commit
	for i := range 10 {
		k := commit{key: g.key, writer: newWriterID(), count: 1, known: uint64(min(i, most-1))}
		s, err := parseStored(g.c.Do(t.Context(), k.command(g.c.B(), g.script, "60000", true)))
		if refused := err != nil && strings.Contains(err.Error(), errFull); refused != (i >= most-1) {
			t.Fatalf("living writer %d of at most %d: %+v, %v", i+1, most-1, s, err)
		}
		if g.fields(t) > most {
			t.Fatalf("%d living writers: %d fields, want at most %d", i+1, g.fields(t), most)
		}
		if err == nil {
			k.told, k.known, k.others = 1, s.total, s.others
			writers = append(writers, k)
		}
	}
	for i := range writers { // those that were there before count on
		k := &writers[i]
		k.count = 2
		if s := g.commit(t, *k); s.lost || s.total != uint64(most+i) || s.at != s.total {
			t.Fatalf("writer %d: %+v, want %d", i, s, most+i)
		}
	}
	done := writers[0]
	done.count, done.told, done.known, done.final, done.clean = 2, 2, 14, true, true
	g.commit(t, done) // one is done, and has repeated nothing
	if s := g.commit(t, commit{writer: newWriterID(), count: 1, known: 14}); s.total != 15 {
		t.Errorf("a writer after one has gone: %+v, want 15", s)
	}
	if n := g.fields(t); n != most+1 { // the base has taken the place of those that have gone
		t.Errorf("%d fields, want %d", n, most+1)
	}
}

// A late writer restores what it was told of a session that was lost, though there is no room for itself. What it restored expires.
func TestCommitScriptRestoredByARefusedWriterExpires(t *testing.T) {
	const most = 8
	g := newScriptRig(t, newCommitScript(4, time.Minute, most))
	for i := range uint64(most - 1) {
		g.commit(t, commit{writer: newWriterID(), count: 1, known: i})
	}
	snap, err := parseSnapshot(g.c.Do(t.Context(), g.c.B().Hgetall().Key(g.key).Build()))
	if err != nil {
		t.Fatal(err)
	}
	late := commit{key: g.key, writer: newWriterID(), count: 1, known: snap.total, others: snap.others, heal: true}
	g.r.cli("flushall")
	_, err = parseStored(g.c.Do(t.Context(), late.command(g.c.B(), g.script, "60000", true)))
	if err == nil || errorWord(err.Error(), errFull) == "" {
		t.Errorf("one writer more than there is room for: %v, want %s", err, errFull)
	}
	if n := g.fields(t); n != most {
		t.Errorf("%d fields restored, want %d", n, most)
	}
	if ms, err := strconv.Atoi(g.r.cli("pttl", g.key)); err != nil || ms <= 0 || ms > 60000 {
		t.Errorf("the session has %d ms to live, %v, want up to the 60000 of the TTL", ms, err)
	}
}

// TestCommitScriptTwoWritersAfterAFlush is the case that totals alone cannot mend: one writer's commit was
// stored though it never heard so, and the other one was told a total that includes it.
func TestCommitScriptTwoWritersAfterAFlush(t *testing.T) {
	for _, unheardFirst := range []bool{true, false} {
		g := newScriptRig(t, newCommitScript(foldAbove, foldAfter, fieldsMax))
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
	g := newScriptRig(t, newCommitScript(foldAbove, foldAfter, fieldsMax))
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

func TestCommitScriptRefuses(t *testing.T) {
	g := newScriptRig(t, newCommitScript(foldAbove, foldAfter, fieldsMax))
	me := commit{key: g.key, writer: newWriterID(), count: 3, told: 1, known: 1}
	const max = "9007199254740991" // 2^53-1
	for _, c := range []struct {
		hash  []string // fields and values; one alone makes a string of the key
		count uint64
		want  string
	}{
		{[]string{"text"}, 3, errWrongType},
		{[]string{"n", "many", me.writer.field(), "1:1:1"}, 3, errForeign},
		{[]string{"n", "nan", me.writer.field(), "1:1:1"}, 3, errForeign},
		{[]string{"n", "inf"}, 3, errForeign},
		{[]string{"n", "0x10"}, 3, errForeign},
		{[]string{"n", "1e3"}, 3, errForeign},
		{[]string{"n", "-1"}, 3, errForeign},
		{[]string{"n", "9007199254740992"}, 3, errForeign},
		{[]string{"n", "18446744073709551615"}, 3, errForeign},
		{[]string{"n", "1", me.writer.field(), "garbage"}, 3, errForeign},
		{[]string{"n", "1", me.writer.field(), "9007199254740992:1:1"}, 3, errForeign},
		{[]string{"n", max, me.writer.field(), "1:1:1"}, 2, errLimit},
		{[]string{"n", "9007199254740990", me.writer.field(), "1:1:1"}, 3, errLimit},
		{[]string{"n", "9007199254740989", me.writer.field(), "1:1:1"}, 3, ""},
		{[]string{"n", "9007199254740990", me.writer.field(), "1:1:1"}, 2, ""},
		{[]string{"n", "1", me.writer.field(), "1:1:1", "other", "garbage"}, 3, ""},
	} {
		g.r.cli("flushall")
		if len(c.hash) == 1 {
			g.r.cli("set", g.key, c.hash[0])
		} else {
			g.r.cli(append([]string{"hset", g.key}, c.hash...)...)
		}
		before := g.r.cli("dump", g.key)
		k := me
		k.count = c.count
		for _, heal := range []bool{false, true} {
			k.heal = heal
			s, err := parseStored(g.c.Do(t.Context(), k.command(g.c.B(), g.script, "60000", true)))
			if c.want == "" && err != nil || c.want != "" && (err == nil || errorWord(err.Error(), c.want) == "") {
				t.Errorf("%v, heal %v: %+v, %v, want %q", c.hash, heal, s, err, c.want)
			}
		}
		if after := g.r.cli("dump", g.key); c.want != "" && after != before {
			t.Errorf("%v: a refused commit has written %s", c.hash, g.r.cli("hgetall", g.key))
		}
	}
}

func TestResumeOfAForeignKey(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	for i, make := range [][]string{{"set", "text"}, {"hset", "n", "many"}, {"hset", "a", "b"}, {"hset", "n", "-1"}, {"hset", "n", "9007199254740992"}} {
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
