package sessions

import (
	"strconv"
	"testing"
	"time"
)

// A gateway that is cut off from Redis repeats a commit whose answer it did not get, however long that takes, while the
// session goes on counting elsewhere. What it repeats must not be counted again.
func TestCommitScriptKeepsWritersThatRepeat(t *testing.T) {
	for _, test := range []struct {
		name   string
		script *commitScript
		others int
	}{
		{"finished writers are folded at once", newCommitScript(4, 0, 64), 20},
		{"more writers than a hash may have", newCommitScript(16, time.Minute, 64), 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := newScriptRig(t, test.script)
			a := &redisAttachment{writer: newWriterID(), count: 5, asked: 5, final: true} // its client has gone
			g.commit(t, a.says())                                                         // and the answer is lost
			total := uint64(5)
			for range test.others {
				b := &redisAttachment{writer: newWriterID(), count: 1, asked: 1, final: true, known: total}
				total = g.commit(t, b.says()).total
				b.told, b.known = 1, total
				if s := g.commit(t, b.says()); s.lost || s.total != total {
					t.Fatalf("a writer that says it is done: %+v, want a total of %d", s, total)
				}
			}
			if n := g.fields(t); n > 70 {
				t.Errorf("the hash has %d fields", n)
			}
			if s := g.commit(t, a.says()); s.lost || s.total != total || s.count != 5 || s.at != 5 {
				t.Errorf("the commit again: %+v, want a total of %d and number 5 for its last message", s, total)
			}
		})
	}
}

func TestWritersAreDoneOnceToldThatAllIsStored(t *testing.T) {
	for _, test := range []struct {
		a    redisAttachment
		want bool
	}{
		{redisAttachment{count: 5, asked: 5, told: 5}, false}, // still there
		{redisAttachment{count: 5, asked: 5, told: 3, final: true}, false},
		{redisAttachment{count: 5, asked: 4, told: 3, final: true}, false},
		{redisAttachment{count: 5, asked: 5, told: 5, final: true}, true},
	} {
		if got := test.a.says().final; got != test.want {
			t.Errorf("asked for %d of %d, told %d, gone: %v: final is %v, want %v", test.a.asked, test.a.count, test.a.told, test.a.final, got, test.want)
		}
	}
}

// TestRedisRetiresWriters: many connections, one after the other and each gone with messages unacknowledged, leave marked fields.
func TestRedisRetiresWriters(t *testing.T) {
	r := startRedis(t)
	cfg := steady(r.url())
	cfg.script = newCommitScript(foldAbove, 0, fieldsMax) // marked is folded
	s := newTestRedis(t, cfg)
	l, id := newTestLoop(t, s), NewID()
	for i := range uint64(60) {
		m := l.join(t, id, true)
		if m.total != 2*i {
			t.Fatalf("connection %d: joined at %d, want %d", i, m.total, 2*i)
		}
		l.on(func() { // in one round, so that the connection goes before its messages are stored
			m.a.Add()
			m.a.Add()
			m.a.Detach(m)
		})
		eventually(t, "Detached is called", func() bool { return get(m, &m.detached) == 1 })
		if total, err := get(m, &m.final), get(m, &m.finalErr); total != 2*i+2 || err != nil {
			t.Fatalf("connection %d: Detached with %d, %v, want %d", i, total, err, 2*i+2)
		}
	}
	eventually(t, "the hash is small", func() bool {
		n, err := strconv.Atoi(r.cli("hlen", s.key(id)))
		return err == nil && n < 20
	})
	if got := r.cli("hget", s.key(id), "n"); got != "120" {
		t.Errorf("stored %s, want 120", got)
	}
}
