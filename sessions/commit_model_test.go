package sessions

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"pgregory.net/rapid"
)

// modelWriter is a writer as the committer is one: it repeats a commit unchanged until it is answered.
type modelWriter struct {
	commit         // what it knows; commit.count is the contribution asked for, 0 when none is
	sent    uint64 // messages received by the gateway
	acked   uint64 // highest number acknowledged
	gone    bool
	unclean bool // a command may have gone unanswered, and was or will be sent again
	joined  uint64
	numbers []uint64
}

// world is a session in a real Redis, its writers, and commands still on the wire.
type world struct {
	t       *rapid.T
	c       rueidis.Client
	script  *commitScript
	key     string
	writers []*modelWriter
	wire    []commit // unanswered, and perhaps executed: each may be executed (again) at any time
	kept    []string // older states, as DUMP made them
	sent    uint64   // S
	refused uint64   // of them by writers that were refused: stored if what they said arrives again once there is room
	lost    bool     // state was ever lost
	folded  bool     // a writer was ever folded
	numbers map[uint64]int
}

func (w *world) ctx() context.Context { return context.Background() }

// exec runs a command; taken is false when the session has too many writers.
func (w *world) exec(k commit) (_ stored, taken bool) {
	s, err := parseStored(w.c.Do(w.ctx(), k.command(w.c.B(), w.script, "3600000", true)))
	if err != nil && errorWord(err.Error(), errFull) != "" && k.told == 0 {
		return stored{}, false
	}
	if err != nil {
		w.t.Fatalf("commit %+v: %v", k, err)
	}
	if base, _ := w.c.Do(w.ctx(), w.c.B().Hexists().Key(w.key).Field("b").Build()).AsBool(); base {
		w.folded = true
	}
	return s, true
}

// short is how far a session may be below what was told: with folded writers, a loss can cost what departed ones counted.
func (w *world) short() (n uint64) {
	for _, m := range w.writers {
		if m.gone && w.lost && w.folded {
			n += m.sent
		}
	}
	return n
}

func (w *world) total() uint64 {
	text, err := w.c.Do(w.ctx(), w.c.B().Hget().Key(w.key).Field("n").Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		w.t.Fatalf("n = %q: %v", text, err)
	}
	return n
}

// live are the writers that have not gone.
func (w *world) live() (live []*modelWriter) {
	for _, m := range w.writers {
		if !m.gone {
			live = append(live, m)
		}
	}
	return live
}

// alive draws one of them.
func (w *world) alive() *modelWriter {
	live := w.live()
	if len(live) == 0 {
		w.t.Skip()
	}
	return rapid.SampledFrom(live).Draw(w.t, "writer")
}

// say is what the committer would send for m now.
func (m *modelWriter) say(final bool) commit {
	if m.count == 0 {
		m.count = m.sent
	}
	k := m.commit
	k.final, k.clean = final, !m.unclean
	return k
}

// speak commits for m and hears the answer. A writer that is refused is given up; what it said may still arrive.
func (w *world) speak(m *modelWriter, final bool) {
	k := m.say(final)
	if m.unclean {
		w.wire = append(w.wire, k)
	}
	s, taken := w.exec(k)
	if taken {
		w.hear(m, s)
		return
	}
	m.gone = true
	w.refused += m.sent
}

// hear is what the committer does with an answer.
func (w *world) hear(m *modelWriter, s stored) {
	if s.lost {
		m.heal = true
		return
	}
	if s.count < m.count {
		w.t.Fatalf("stored %d of the %d that were committed", s.count, m.count)
	}
	for n := s.at - (m.count - m.told) + 1; n <= s.at; n++ {
		m.numbers = append(m.numbers, n)
		w.numbers[n]++
		if n+w.short() <= max(m.acked, m.joined) {
			w.t.Fatalf("number %d acknowledged after %d, joined at %d", n, m.acked, m.joined)
		}
		if w.numbers[n] > 1 && !w.lost {
			w.t.Fatalf("number %d acknowledged twice", n)
		}
		m.acked = max(m.acked, n)
	}
	m.told, m.known, m.count, m.heal = m.count, s.total, 0, false
	if s.others != nil {
		m.others = s.others
	}
	if s.total+w.short() < m.acked {
		w.t.Fatalf("total %d below the acknowledged %d", s.total, m.acked)
	}
}

func (w *world) join() {
	snap, err := parseSnapshot(w.c.Do(w.ctx(), w.c.B().Hgetall().Key(w.key).Build()))
	if err != nil {
		w.t.Fatal(err)
	}
	m := &modelWriter{joined: snap.total}
	m.key, m.writer, m.known, m.others = w.key, newWriterID(), snap.total, snap.others
	w.writers = append(w.writers, m)
}

// settle lets every live writer commit until nothing is left to say.
func (w *world) settle() {
	for range 3 { // to be told, to heal, and to commit what came meanwhile
		for _, m := range w.writers {
			if !m.gone {
				w.speak(m, false)
			}
		}
	}
}

// TestCommitScriptAgainstModel runs commit.lua in a real Redis while commits are lost, repeated, delayed and
// reordered, the state is flushed or goes back to an older one, and writers come and go. At every step no
// more is stored than was sent; no number is given out twice unless state was lost; and once all is quiet
// everything sent by a writer that can still speak is stored.
func TestCommitScriptAgainstModel(t *testing.T) {
	r := startRedis(t)
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{r.addr()}, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, mode := range []struct {
		name  string
		loses bool
		above int
		most  int
	}{
		{"the state is kept", false, foldAbove, fieldsMax},
		{"the state is lost", true, foldAbove, fieldsMax},
		{"the state is kept, few fields", false, 2, 8},
		{"the state is lost, few fields", true, 2, 8},
	} {
		t.Run(mode.name, func(t *testing.T) {
			script, run := newCommitScript(mode.above, time.Minute, mode.most), 0
			rapid.Check(t, func(t *rapid.T) {
				run++
				w := &world{t: t, c: c, script: script, key: fmt.Sprint("model:", mode.name, run), numbers: map[uint64]int{}}
				w.play(mode.loses)
			})
		})
	}
}

func (w *world) play(loses bool) {
	actions := map[string]func(*rapid.T){
		"join": func(t *rapid.T) {
			if len(w.live()) < 12 { // so that there is always something to do
				w.join()
			}
		},
		"message": func(*rapid.T) {
			m := w.alive()
			m.sent++
			w.sent++
		},
		"commit": func(*rapid.T) {
			w.speak(w.alive(), false)
		},
		"commit, answer lost": func(*rapid.T) {
			m := w.alive()
			m.unclean = true
			k := m.say(false)
			w.wire = append(w.wire, k)
			w.exec(k)
		},
		"commit, delayed": func(*rapid.T) {
			m := w.alive()
			m.unclean = true
			w.wire = append(w.wire, m.say(false))
		},
		"an old command arrives": func(t *rapid.T) {
			if len(w.wire) == 0 {
				t.Skip()
			}
			w.exec(rapid.SampledFrom(w.wire).Draw(t, "command"))
		},
		"leave": func(*rapid.T) {
			m := w.alive()
			for range 4 {
				if m.count == 0 && m.told == m.sent {
					break
				}
				if w.speak(m, false); m.gone {
					return
				}
			}
			if m.told == m.sent && m.sent > 0 && m.count == 0 {
				m.gone = true
				w.exec(m.say(true))
			}
		},
		"": func(t *rapid.T) {
			if n := w.total(); n > w.sent {
				t.Fatalf("stored %d, sent %d", n, w.sent)
			}
		},
	}
	if loses {
		actions["flush"] = func(*rapid.T) {
			w.do(w.c.B().Del().Key(w.key).Build())
			w.lost = true
		}
		actions["keep a copy"] = func(t *rapid.T) {
			if dump, err := w.c.Do(w.ctx(), w.c.B().Dump().Key(w.key).Build()).ToString(); err == nil {
				w.kept = append(w.kept, dump)
			}
		}
		actions["go back"] = func(t *rapid.T) {
			if len(w.kept) == 0 {
				t.Skip()
			}
			dump := rapid.SampledFrom(w.kept).Draw(t, "state")
			w.do(w.c.B().Restore().Key(w.key).Ttl(0).SerializedValue(dump).Replace().Build())
			w.lost = true
		}
	}
	w.t.Repeat(actions)
	w.settle()
	n, floor := w.total(), uint64(0)
	for _, m := range w.writers {
		if !m.gone {
			floor = max(floor, m.acked, m.joined)
		}
	}
	if n > w.sent || n+w.short() < floor {
		w.t.Fatalf("at rest: stored %d, sent %d, acknowledged to those still here %d", n, w.sent, floor)
	}
	if !w.lost && n < w.sent-w.refused {
		w.t.Fatalf("at rest: stored %d, sent %d, refused %d, and no state was lost", n, w.sent, w.refused)
	}
	everybody := true
	for _, m := range w.writers {
		everybody = everybody && !m.gone
	}
	if everybody && n != w.sent {
		w.t.Fatalf("at rest: stored %d, sent %d, though every writer could still speak", n, w.sent)
	}
}

func (w *world) do(cmd rueidis.Completed) {
	if err := w.c.Do(w.ctx(), cmd).Error(); err != nil {
		w.t.Fatal(err)
	}
}
