package gateway

import (
	"encoding/json"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

var beatPattern = regexp.MustCompile(`^text (\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\})$`)

// beat reads one heartbeat: the time and, right behind it, a Ping.
func (c *wire) beat() time.Time {
	c.t.Helper()
	got := c.next()
	m := beatPattern.FindStringSubmatch(got)
	if m == nil {
		c.t.Fatalf("got %q, want a heartbeat", got)
	}
	var body struct{ TS time.Time }
	if err := json.Unmarshal([]byte(m[1]), &body); err != nil {
		c.t.Fatalf("heartbeat %q: %v", got, err)
	}
	c.expect("ping")
	return body.TS
}

// immortal is an Echo whose clients count as heard for an hour, or until they say something: a
// loaded machine must not make them dead in tests of something else.
type immortal struct{ Echo }

func (immortal) ForLoop(func(fn func()) bool) Handler { return immortal{} }

func (immortal) Open(c *Conn, _ *Request) {
	c.Accept("")
	c.seen += time.Hour
	c.rearm()
}

func TestHeartbeats(t *testing.T) {
	const interval = 50 * time.Millisecond
	s := serve(t, Config{Heartbeat: interval}, immortal{})
	beats, sent := counting(s, `sluice_heartbeats_sent_total`), counting(s, `sluice_messages_sent_total`)
	opened := time.Now()
	c := open101(t, s, "/ws")
	var times []time.Time
	const n = 20
	for range n {
		times = append(times, c.beat())
	}
	if first := times[0]; first.Before(opened.Add(-time.Second)) || first.After(time.Now().Add(time.Second)) {
		t.Errorf("got %v, want the present time, %v", first, opened)
	}
	// A loop that is late may skip heartbeats, but it never sends two for one interval: that would
	// take half of the time. The first may have been late, by up to seven intervals here.
	if took := times[n-1].Sub(times[0]); took < 12*interval {
		t.Errorf("%d heartbeats in %v, want %d intervals of %v", n, took, n-1, interval)
	}
	if !slices.IsSortedFunc(times, time.Time.Compare) {
		t.Errorf("got times %v, want them in order", times)
	}
	c.Close()
	await(t, "the counters are published", func() bool { return beats() >= n && sent() >= n })
}

// The text and the Ping leave in one write: a client that sleeps wakes once.
func TestHeartbeatIsOneWrite(t *testing.T) {
	s := serve(t, Config{Heartbeat: 30 * time.Millisecond}, immortal{})
	c := open101(t, s, "/ws")
	const size = 2 + len(`{"ts":"2006-01-02T15:04:05.000Z"}`) + 2
	for range 3 {
		p := make([]byte, 1000*size) // all that may have come, so that no heartbeat is cut
		n, err := c.r.Read(p)
		if err != nil || n%size != 0 || n == 0 || string(p[n-2:n]) != "\x89\x00" {
			t.Fatalf("got %q, %v in one read, want %d bytes of text and Ping", p[:n], err, size)
		}
	}
}

// Connections that came together have their heartbeats spread over the interval.
func TestHeartbeatPhasesAreSpread(t *testing.T) {
	const interval, n = time.Hour, 400
	s := serve(t, Config{Heartbeat: interval, Loops: 1}, Echo{})
	for range n {
		c := dial(t, s)
		io.WriteString(c, handshake(getChat))
		c.response()
	}
	var tenths [10]int
	onLoops(s, func(w *worker) {
		now := w.loop.Now()
		for _, c := range w.conns {
			in := c.beatAt - now
			if in <= -time.Minute || in > interval {
				t.Errorf("next heartbeat in %v, want within %v", in, interval)
				continue
			}
			tenths[max(0, min(9, in*10/interval))]++
		}
	})
	for i, got := range tenths {
		// 40 each on average; fewer than 10 or more than 90 happens once in a million runs.
		if got < 10 || got > 90 {
			t.Errorf("tenth %d of the interval: got %d of %d connections, want about %d", i, got, n, n/10)
		}
	}
}

func TestHeartbeatsOff(t *testing.T) {
	s := serve(t, Config{Heartbeat: -1, Loops: 1}, Echo{})
	c := open101(t, s, "/ws")
	c.Write(text("a"))
	c.expect("text a")
	onLoops(s, func(w *worker) {
		if n := w.loop.Timers(); n != 0 {
			t.Errorf("got %d timers for an open connection without heartbeats, want none", n)
		}
	})
}

// A peer that answers no Ping and sends nothing is dropped after 2.5 intervals.
func TestDeadPeerIsDropped(t *testing.T) {
	const interval = 400 * time.Millisecond
	s := serve(t, Config{Heartbeat: interval}, Echo{})
	dead, lost := counting(s, `sluice_errors_total{reason="dead_peer"}`), counting(s, `sluice_closes_total{code="1006"}`)
	opened := time.Now()
	silent := open101(t, s, "/ws")
	beats := 0
	for {
		got := silent.next()
		if strings.HasPrefix(got, "error: ") {
			break
		}
		if got == "ping" {
			beats++
		}
	}
	if took := time.Since(opened); took < interval*5/2 || beats < 1 || beats > 3 {
		t.Errorf("dropped after %v and %d heartbeats, want 2.5 intervals of %v", took, beats, interval)
	}
	if dead() != 1 || lost() != 1 {
		t.Errorf("got %d dead peers and %d closes with 1006, want 1 and 1", dead(), lost())
	}
}

// One that says anything is not.
func TestPeerThatAnswersIsNotDead(t *testing.T) {
	const interval = time.Hour
	s := serve(t, Config{Heartbeat: interval, Loops: 1}, Echo{})
	for _, said := range [][]byte{frame(true, ws.OpPong, ""), frame(true, ws.OpPing, ""), text("a"), text("half")[:3]} {
		c := open101(t, s, "/ws")
		onLoops(s, func(w *worker) { w.conns[0].seen -= 3 * interval }) // and the timer is for later
		c.Write(said)
		await(t, "it is heard", func() (heard bool) {
			onLoops(s, func(w *worker) { heard = w.loop.Now()-w.conns[0].seen < interval })
			return heard
		})
		onLoops(s, func(w *worker) { w.conns[0].expire() })
		if s.Connections() != 1 {
			t.Errorf("% x: got %d connections, want the one that said it", said, s.Connections())
		}
		c.Close()
		await(t, "it is gone", func() bool { return s.Connections() == 0 })
	}
}

// The time of death does not wait for the next heartbeat.
func TestDeadPeerIsDroppedBetweenHeartbeats(t *testing.T) {
	const interval = time.Hour
	s := serve(t, Config{Heartbeat: interval, Loops: 1}, Echo{})
	open101(t, s, "/ws")
	onLoops(s, func(w *worker) {
		c, now := w.conns[0], w.loop.Now()
		c.beatAt, c.seen = now+interval/2, now-2*interval-interval/2+50*time.Millisecond
		c.rearm()
	})
	await(t, "it is dropped", func() bool { return s.Connections() == 0 })
}

// A loop that was stopped for long finds nobody dead: it did not ask, and what came in the meantime
// may not be read yet.
func TestStoppedLoopFindsNobodyDead(t *testing.T) {
	const interval = time.Hour // nothing is due by itself
	s := serve(t, Config{Loops: 1, Heartbeat: interval}, Echo{})
	c := open101(t, s, "/ws")
	for _, tc := range []struct {
		late  time.Duration // of the heartbeat
		alive bool
	}{{10 * interval, true}, {interval / 2, true}, {interval/2 - time.Minute, false}} {
		onLoops(s, func(w *worker) {
			conn, now := w.conns[0], w.loop.Now()
			conn.seen, conn.beatAt = now-interval*5/2, now-tc.late
			conn.expire()
			if alive := conn.state == open; alive != tc.alive {
				t.Errorf("%v late: got alive %v, want %v", tc.late, alive, tc.alive)
			}
		})
		if tc.alive {
			c.beat()
		}
	}
	checkQuiet(t, s)
}

// A connection that the application does not let the gateway read is silent for that reason, and
// not dead.
func TestPausedConnectionIsNotTakenForDead(t *testing.T) {
	const interval = 200 * time.Millisecond
	s := serve(t, Config{Heartbeat: interval, MaxControl: 255}, pauser{})
	dead := counting(s, `sluice_errors_total{reason="dead_peer"}`)
	c := open101(t, s, "/ws")
	c.Write(append(text("pause"), text("held back")...))
	for range 5 { // four intervals, and a dead peer has 2.5
		c.beat()
	}
	if dead() != 0 {
		t.Fatalf("got %d dead peers, want 0", dead())
	}
	onLoops(s, func(w *worker) {
		for _, conn := range w.conns {
			conn.ResumeReading()
		}
	})
	for {
		if got := c.next(); got == "text held back" {
			break
		} else if got != "ping" && !beatPattern.MatchString(got) {
			t.Fatalf("got %q, want what was held back", got)
		}
	}
	// Once it is read again, silence counts.
	for got := ""; !strings.HasPrefix(got, "error: "); {
		got = c.next()
	}
	if dead() != 1 {
		t.Errorf("got %d dead peers, want 1", dead())
	}
}

// pauser is an Echo that pauses reading when it is told to.
type pauser struct{ Echo }

func (pauser) ForLoop(func(fn func()) bool) Handler { return pauser{} }

func (pauser) Open(c *Conn, r *Request) { immortal{}.Open(c, r) } // until its first message

func (pauser) Message(c *Conn, op ws.OpCode, payload []byte) {
	if string(payload) == "pause" {
		c.PauseReading()
		return
	}
	c.Send(op, payload)
}

// A loop that could not run for a while sends one heartbeat, not all that it missed, and goes on in
// the same phase.
func TestHeartbeatsMissedAreNotMadeUpFor(t *testing.T) {
	const interval = 40 * time.Millisecond
	s := serve(t, Config{Heartbeat: interval, Loops: 1}, immortal{})
	c := open101(t, s, "/ws")
	c.beat()
	var before, after, unblocked, now time.Duration
	onLoops(s, func(w *worker) {
		before = w.conns[0].beatAt
		began := time.Now()
		time.Sleep(10 * interval) // a Handler that blocks, which it must not
		unblocked = w.loop.Now() + time.Since(began)
	})
	sent := counting(s, `sluice_heartbeats_sent_total`)
	c.beat()
	onLoops(s, func(w *worker) { after, now = w.conns[0].beatAt, w.loop.Now() })
	if (after-before)%interval != 0 || after <= before {
		t.Errorf("next heartbeat at %v, before at %v: want whole intervals of %v between them", after, before, interval)
	}
	if most := uint64((now-unblocked)/interval) + 2; sent() > most {
		t.Errorf("got %d heartbeats in %v, want at most %d", sent(), now-unblocked, most)
	}
}

// What a Handler sends in Wake is not overtaken by the heartbeat of the same tick.
func TestWakeComesBeforeTheHeartbeatOfItsTick(t *testing.T) {
	s := serve(t, Config{Heartbeat: time.Hour, Loops: 1}, waker{})
	c := open101(t, s, "/ws")
	c.expect("text awake")
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		conn.wakeAt = w.loop.Now() - 1
		conn.beatAt = w.loop.Now()
		conn.expire()
	})
	c.expect("text awake")
	c.beat()
}

// A tick is coarse where it costs nobody anything, and fine where heartbeats are many or frequent.
func TestTickGathersHeartbeats(t *testing.T) {
	for _, tc := range []struct {
		heartbeat       time.Duration
		maxConns, loops int
		want            time.Duration
	}{
		{0, 20_000, 2, 200 * time.Millisecond},
		{30 * time.Second, 1, 2, 200 * time.Millisecond},
		{30 * time.Second, 19_000, 2, 200 * time.Millisecond},
		{30 * time.Second, 1_000_000, 53, 200 * time.Millisecond},
		{30 * time.Second, 1_000_000, 2, 7680 * time.Microsecond},
		{30 * time.Second, 100_000_000, 2, time.Millisecond},
		{3 * time.Second, 19_000, 2, 30 * time.Millisecond},
		{10 * time.Millisecond, 19_000, 2, time.Millisecond},
	} {
		cfg := Config{Heartbeat: tc.heartbeat, MaxConns: tc.maxConns, Loops: tc.loops}
		if got := tick(&cfg); got != tc.want {
			t.Errorf("%v, %d connections, %d loops: %v, want %v", tc.heartbeat, tc.maxConns, tc.loops, got, tc.want)
		}
	}
}
