package sessions

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"pgregory.net/rapid"
)

// server executes commits on one session: the reference does, and a real Redis with commit.lua.
type server interface {
	apply(instance string, c commit) stored
	set(h hash) // puts an older state, or none, in the place of what it has
	get() hash
}

// reference is commit.lua's reference as a server.
type reference struct{ h hash }

func (r *reference) set(h hash) { r.h = h }
func (r *reference) get() hash  { return r.h }
func (r *reference) apply(me string, c commit) (s stored) {
	r.h, s = r.h.apply(me, c)
	return s
}

// world is one session, the processes that count in it, and commands that are still on their way.
// The processes run the store's own writer; what is modelled is all around it.
type world struct {
	t         *rapid.T
	server    server
	processes []*modelProcess
	wire      []envelope // unanswered: each may be executed (again) at any time
	kept      []hash     // older states
	sent      uint64     // S
	crashed   uint64     // of them handed to processes that ended before Redis confirmed them
	told      uint64     // the highest total that anybody was told: A
	lost      bool       // state was ever lost
	forgotten bool       // a process let go of its writer, or ended: what only it knew may be gone after a loss
	numbers   map[uint64]bool
}

type envelope struct {
	instance string
	commit   commit
}

// modelProcess is a gateway as far as it concerns this session.
type modelProcess struct {
	instance *instance
	w        *writer // nil while it has nothing to do with the session
	conns    map[*redisAttachment]*modelConn
	looked   []look
	answer   *stored // to its commit: on its way
}

// look is a resume that was read from the store and not yet attached.
type look struct {
	snapshot snapshot
	told     uint64 // A when it was read
}

type modelConn struct {
	p       *modelProcess
	pending int
	highest uint64 // number that it was told
	asks    uint64 // once it left: A at that time, plus 1
}

func (w *world) process() *modelProcess {
	return rapid.SampledFrom(w.processes).Draw(w.t, "process")
}

// conn draws a connection that has not left.
func (w *world) conn() (a *redisAttachment, c *modelConn) {
	var all []*redisAttachment
	for _, p := range w.processes {
		for a, c := range p.conns {
			if c.asks == 0 {
				all = append(all, a)
			}
		}
	}
	if len(all) == 0 {
		w.t.Skip()
	}
	// Maps have no order and rapid must: pending is the connection's number here.
	for i := range all {
		for j := i; j > 0 && all[j].pending < all[j-1].pending; j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	a = rapid.SampledFrom(all).Draw(w.t, "connection")
	for _, p := range w.processes {
		if c := p.conns[a]; c != nil {
			return a, c
		}
	}
	panic("unreachable")
}

// speaking draws a process that has a writer, and no commit whose answer is on its way.
func (w *world) speaking() *modelProcess {
	return w.processThat(func(p *modelProcess) bool { return p.w != nil && p.answer == nil })
}

func (w *world) processThat(is func(*modelProcess) bool) *modelProcess {
	var all []*modelProcess
	for _, p := range w.processes {
		if is(p) {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		w.t.Skip()
	}
	return rapid.SampledFrom(all).Draw(w.t, "process")
}

// exec has the server execute a command.
func (w *world) exec(e envelope) stored {
	s := w.server.apply(e.instance, e.commit)
	if n := w.server.get().total(); n > w.sent {
		w.t.Fatalf("R = %d, S = %d after %+v", n, w.sent, e.commit)
	}
	return s
}

// read is what a resume of p's sees now.
func (w *world) read(p *modelProcess) look {
	l := look{told: w.told}
	for name, c := range w.server.get() {
		l.snapshot.total += c.worth()
		l.snapshot.fields = append(l.snapshot.fields, field{name, c})
	}
	return l
}

var connections int32 // of all histories: names them

func (w *world) attach(p *modelProcess, l look) {
	if p.w == nil {
		p.w = &writer{instance: p.instance}
		p.w.acked.incarnation = p.instance.incarnations.Add(1)
	}
	p.w.attached++
	p.w.found(l.snapshot)
	total := max(l.snapshot.total, p.w.known())
	if total > w.sent || total < l.told && !w.lost {
		w.t.Fatalf("welcome %d; %d had been told, %d sent", total, l.told, w.sent)
	}
	w.told = max(w.told, total)
	connections++
	p.conns[&redisAttachment{pending: connections}] = &modelConn{p: p, highest: total}
}

// detach ends a connection. With ask it waits for the session's total.
func (w *world) detach(a *redisAttachment, c *modelConn, ask bool) {
	p := c.p
	p.w.attached--
	if ask {
		c.asks = w.told + 1
		p.w.add(a, 0)
	} else {
		delete(p.conns, a)
	}
	w.release(p)
}

// release lets go of a writer that nobody needs.
func (w *world) release(p *modelProcess) {
	if p.w.idle() {
		p.w, w.forgotten = nil, true
	}
}

// send has the server execute p's commit. The answer is on its way.
func (w *world) send(p *modelProcess) {
	s := w.exec(envelope{p.w.instance.name, p.w.commit()})
	p.answer, p.w.queued = &s, true
}

// speak sends p's commit and takes the answer, or two. more says that the committer would send
// another one at once.
func (w *world) speak(p *modelProcess) (more bool) {
	for w.send(p); p.answer != nil; {
		more = w.receive(p)
	}
	return more
}

// receive takes the answer to p's commit. One that says that state was lost is followed by another
// commit.
func (w *world) receive(p *modelProcess) (more bool) {
	s := *p.answer
	p.answer, p.w.queued = nil, false
	if s.lost {
		if p.w.restore {
			w.t.Fatalf("%+v was not restored: %v", p.w.commit(), w.server.get())
		}
		p.w.restore = true
		w.send(p)
		return true
	}
	more = p.w.answered(s, func(k acknowledgement) { w.acknowledge(p, k, s.total) })
	if !more && s.total < p.w.known() {
		w.t.Fatalf("stored %d, the process was told %d, and does not mind", s.total, p.w.known())
	}
	if !more {
		w.release(p)
	}
	return more
}

func (w *world) acknowledge(p *modelProcess, k acknowledgement, total uint64) {
	c := p.conns[k.a]
	if k.final {
		switch {
		case c.asks == 0:
			w.t.Fatal("a final total for a connection that has not left")
		case k.last != total, k.last < c.highest, !w.lost && k.last < c.asks-1:
			w.t.Fatalf("final total %d; stored %d, it was told %d, the highest when it left was %d", k.last, total, c.highest, c.asks-1)
		}
		w.told = max(w.told, k.last)
		delete(p.conns, k.a)
		return
	}
	if k.last > w.sent || k.last > total {
		w.t.Fatalf("number %d acknowledged, %d stored, %d sent", k.last, total, w.sent)
	}
	w.told = max(w.told, k.last)
	for n := k.first; n <= k.last; n++ {
		if w.numbers[n] && !w.lost {
			w.t.Fatalf("number %d acknowledged twice", n)
		}
		w.numbers[n] = true
	}
	if c == nil { // it has gone
		return
	}
	if k.first <= c.highest {
		w.t.Fatalf("number %d acknowledged after %d", k.first, c.highest)
	}
	c.highest = k.last
	c.pending -= int(k.last - k.first + 1)
	if c.pending < 0 {
		w.t.Fatalf("more acknowledgements than messages")
	}
}

// play runs one history. With loses, the server forgets or goes back to an older state now and
// then.
func (w *world) play(loses bool) {
	w.numbers = map[uint64]bool{}
	named := 0
	start := func() *modelProcess {
		named++
		return &modelProcess{instance: &instance{name: fmt.Sprint(instancePrefix, named)}, conns: map[*redisAttachment]*modelConn{}}
	}
	for range 3 {
		w.processes = append(w.processes, start())
	}
	actions := map[string]func(*rapid.T){
		"join":    func(*rapid.T) { p := w.process(); w.attach(p, w.read(p)) },
		"look up": func(*rapid.T) { p := w.process(); p.looked = append(p.looked, w.read(p)) },
		"attach": func(t *rapid.T) {
			p := w.process()
			if len(p.looked) == 0 {
				t.Skip()
			}
			w.attach(p, p.looked[0])
			p.looked = p.looked[1:]
		},
		"messages": func(t *rapid.T) {
			a, c := w.conn()
			n := rapid.IntRange(1, 3).Draw(t, "n")
			c.p.w.add(a, uint32(n))
			c.pending += n
			w.sent += uint64(n)
		},
		"commit":                    func(*rapid.T) { w.speak(w.speaking()) },
		"commit, answer on its way": func(*rapid.T) { w.send(w.speaking()) },
		"an answer arrives": func(*rapid.T) {
			w.receive(w.processThat(func(p *modelProcess) bool { return p.answer != nil }))
		},
		"commit, answer lost": func(*rapid.T) {
			p := w.speaking()
			e := envelope{p.w.instance.name, p.w.commit()}
			w.wire = append(w.wire, e)
			w.exec(e)
			w.unanswered(p)
		},
		"commit, delayed": func(*rapid.T) {
			p := w.speaking()
			w.wire = append(w.wire, envelope{p.w.instance.name, p.w.commit()})
			w.unanswered(p)
		},
		"an old command arrives": func(t *rapid.T) {
			if len(w.wire) == 0 {
				t.Skip()
			}
			w.exec(rapid.SampledFrom(w.wire).Draw(t, "command"))
		},
		"touch": func(*rapid.T) { p := w.speaking(); p.w.touch = true; w.speak(p) },
		"leave": func(t *rapid.T) { a, c := w.conn(); w.detach(a, c, true) },
		"drop":  func(t *rapid.T) { a, c := w.conn(); w.detach(a, c, false) },
		// Redis is known not to answer: the bye says what the process was told.
		"leave at once": func(t *rapid.T) {
			a, c := w.conn()
			if c.pending > 0 {
				t.Skip()
			}
			w.said(c, c.p.w.known())
			w.detach(a, c, false)
		},
		// What it was sent and Redis has not confirmed may be stored, then or later.
		"a process ends": func(t *rapid.T) {
			i := rapid.IntRange(0, len(w.processes)-1).Draw(t, "process")
			if p := w.processes[i]; p.w != nil {
				w.crashed += p.w.unconfirmed()
				w.forgotten = true
			}
			w.processes[i] = start()
		},
		// One connection goes to another process, with what this one knows. If it is the only one,
		// the other process has this one's field too, and this one writes under another name.
		"a connection moves": func(*rapid.T) {
			a, c := w.conn()
			old := c.p
			if old.w.unconfirmed() > 0 || old.answer != nil {
				w.t.Skip()
			}
			retired := old.w.instance // not that of the process, where another connection moved before
			old.instance = start().instance
			state := old.w.pack(true)
			p, err := parsePacked(state.append(nil))
			if err != nil {
				w.t.Fatal(err)
			}
			next := start()
			if p.inherit != "" {
				next.instance = retired
			}
			w.processes = append(w.processes, next)
			w.attach(next, look{snapshot: p.snapshot()})
			for b, d := range next.conns {
				delete(next.conns, b)
				next.conns[a] = d
				d.highest = c.highest
			}
			delete(old.conns, a)
			old.w.attached--
			if old.w.idle() {
				old.w = nil
			}
		},
		// The new process goes on with the old one's instance and incarnations. It can only where
		// that one has no writer: two processes must not count in one field at a time.
		"a process is taken over": func(t *rapid.T) {
			i := rapid.IntRange(0, len(w.processes)-1).Draw(t, "process")
			old := w.processes[i]
			if old.w != nil {
				t.Skip()
			}
			w.processes[i] = start()
			w.processes[i].instance = old.instance
		},
	}
	if loses {
		actions["the state is lost"] = func(*rapid.T) { w.server.set(nil); w.lost = true }
		actions["a copy is kept"] = func(*rapid.T) { w.kept = append(w.kept, maps.Clone(w.server.get())) }
		actions["an older state is back"] = func(t *rapid.T) {
			if len(w.kept) == 0 {
				t.Skip()
			}
			w.server.set(maps.Clone(rapid.SampledFrom(w.kept).Draw(t, "state")))
			w.lost = true
		}
	}
	w.t.Repeat(actions)
	w.settle()
}

// unanswered tells p's writer that its commit was not answered.
func (w *world) unanswered(p *modelProcess) {
	repeat := p.w.unanswered(func(k acknowledgement) {
		w.said(p.conns[k.a], k.last)
		delete(p.conns, k.a)
	})
	if !repeat {
		w.release(p)
	}
}

// said checks a total that a process gave from memory to a connection that leaves.
func (w *world) said(c *modelConn, total uint64) {
	if total < c.highest || total > w.sent {
		w.t.Fatalf("final total %d; it was told %d, %d sent", total, c.highest, w.sent)
	}
}

// settle lets every process say all it has to say, and compares what is then stored with what was
// sent, and with what those still here were told.
func (w *world) settle() {
	for range 2 { // what the last one restores may tell the first one more
		for _, p := range w.processes {
			if p.w == nil {
				continue
			}
			for p.answer != nil {
				w.receive(p)
			}
			if p.w == nil {
				continue
			}
			p.w.touch = true
			commits := 0
			for w.speak(p) {
				if commits++; commits > 5 { // to be told, to restore, and to commit what came meanwhile
					w.t.Fatalf("a process does not come to rest: it was told %d of %v", p.w.known(), w.server.get())
				}
			}
		}
	}
	r := w.server.get().total()
	for _, p := range w.processes {
		if p.w == nil {
			continue
		}
		if p.w.unconfirmed() > 0 || r < p.w.known() {
			w.t.Fatalf("at rest: stored %d, a process was told %d and has %d unconfirmed", r, p.w.known(), p.w.unconfirmed())
		}
		for _, c := range p.conns {
			if r < c.highest || c.pending > 0 {
				w.t.Fatalf("at rest: stored %d, a connection was told %d and waits for %d", r, c.highest, c.pending)
			}
		}
	}
	if !w.lost && (r < w.told || r+w.crashed < w.sent) {
		w.t.Fatalf("at rest: stored %d, told %d, sent %d, in crashed processes %d", r, w.told, w.sent, w.crashed)
	}
	if !w.forgotten && r != w.sent {
		w.t.Fatalf("at rest: stored %d, sent %d, though every process remembers", r, w.sent)
	}
}

// both is a real Redis beside the reference: every answer and every state must be the same.
type both struct {
	reference
	t   *rapid.T
	c   rueidis.Client
	key string
}

func (b *both) apply(me string, c commit) stored {
	want := b.reference.apply(me, c)
	got, err := parseStored(b.c.Do(ctx, c.command(b.c.B(), b.key, me, "3600000", false)))
	if err != nil {
		b.t.Fatalf("commit %+v: %v", c, err)
	}
	if g, w := inOrder(got), inOrder(want); g != w {
		b.t.Fatalf("commit %+v by %s: commit.lua answers %s, the reference %s", c, me, g, w)
	}
	return got
}

func (b *both) set(h hash) {
	b.reference.set(h)
	if err := b.c.Do(ctx, b.c.B().Del().Key(b.key).Build()).Error(); err != nil {
		b.t.Fatal(err)
	}
	if len(h) == 0 {
		return
	}
	set := b.c.B().Hset().Key(b.key).FieldValue().FieldValue("n", utoa(h.total()))
	for name, c := range h {
		set = set.FieldValue(name, c.String())
	}
	if err := b.c.Do(ctx, set.Build()).Error(); err != nil {
		b.t.Fatal(err)
	}
}

// check compares the whole states.
func (b *both) check() {
	m, err := b.c.Do(ctx, b.c.B().Hgetall().Key(b.key).Build()).AsStrMap()
	if err != nil {
		b.t.Fatal(err)
	}
	got, total := hash{}, m["n"]
	delete(m, "n")
	for name, value := range m {
		if got[name], err = parseContribution(value); err != nil {
			b.t.Fatal(err)
		}
	}
	if got.String() != b.h.String() || total != utoa(got.total()) && len(got) > 0 {
		b.t.Fatalf("Redis holds %v with a total of %q, the reference %v", got, total, b.h)
	}
}

var ctx = context.Background()

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }

// histories is how long each kind of history is tried, or, with -histories, how many are.
var (
	historyTime = 6 * time.Second
	historyRuns = flag.Int("histories", 0, "histories of each kind that the model tests try; 0: as many as fit into some seconds")
)

// checkHistories has rapid check histories until there were enough. Each run of the tests draws
// others.
func checkHistories(t *testing.T, play func(*rapid.T)) {
	set := func(name, value string) {
		f := flag.Lookup(name)
		old := f.Value.String()
		if err := f.Value.Set(value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Value.Set(old) })
	}
	if flag.Lookup("rapid.seed").Value.String() != "0" || flag.Lookup("rapid.failfile").Value.String() != "" {
		rapid.Check(t, play) // somebody looks for the reason of a failure
		return
	}
	const slice = 100
	set("rapid.checks", fmt.Sprint(slice))
	seed, began, runs := rand.Uint64()>>1, time.Now(), 0
	for *historyRuns > 0 && runs < *historyRuns || *historyRuns == 0 && time.Since(began) < historyTime {
		set("rapid.seed", fmt.Sprint(seed+uint64(runs)*slice*slice))
		rapid.Check(t, play)
		if runs += slice; t.Failed() {
			return
		}
	}
	t.Logf("%d histories, the first with -rapid.seed=%d, in %v", runs, seed, time.Since(began).Round(time.Millisecond))
}

// TestModel plays histories of gateways that count in one session while commits are lost,
// repeated, delayed and reordered, gateways end and are taken over, and the state is lost or goes
// back to an older one. At every step no more is stored than was sent; no number is given out
// twice unless state was lost; and once all is quiet what anybody still here was told is stored.
func TestModel(t *testing.T) {
	for _, loses := range []bool{false, true} {
		t.Run(fmt.Sprintf("loses=%v", loses), func(t *testing.T) {
			checkHistories(t, func(t *rapid.T) { (&world{t: t, server: &reference{}}).play(loses) })
		})
	}
}

// TestModelInRedis does the same with commit.lua in a real Redis, which must answer as the
// reference does.
func TestModelInRedis(t *testing.T) {
	dir := t.TempDir()
	r := startRedis(t, "--unixsocket", dir+"/s")
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{dir + "/s"}, DisableCache: true,
		DialCtxFn: func(ctx context.Context, path string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return d.DialContext(ctx, "unix", path)
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.cli("script", "load", commitSource)
	run := 0
	for _, loses := range []bool{false, true} {
		t.Run(fmt.Sprintf("loses=%v", loses), func(t *testing.T) {
			checkHistories(t, func(t *rapid.T) {
				run++
				b := &both{t: t, c: c, key: fmt.Sprint("model:", run)}
				b.set(nil)
				(&world{t: t, server: b}).play(loses)
				b.check()
				b.set(nil)
			})
		})
	}
}
