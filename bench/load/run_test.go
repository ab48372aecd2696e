package load

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/bench/reactor"
	"sluice/bench/wsclient"

	"github.com/gobwas/ws"
)

func TestHonestServer(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   Spec
		server *server
	}{
		{"count closed loop", Spec{Scenario: Count}, &server{}},
		{"count open loop", Spec{Scenario: Count, Rate: 500}, &server{}},
		{"count think", Spec{Scenario: Count, Window: 4, Think: 5 * time.Millisecond}, &server{}},
		{"count without welcome", Spec{Scenario: Count}, &server{noWelcome: true}},
		{"count unverified", Spec{Scenario: Count, NoVerify: true}, &server{onMessage: echo}},
		{"echo", Spec{Scenario: Echo}, &server{noWelcome: true, onMessage: echo}},
		{"echo with a greeting", Spec{Scenario: Echo}, &server{onMessage: echo}},
		{"idle", Spec{Scenario: Idle}, &server{}},
		{"resume", Spec{Scenario: Resume, Window: 5}, &server{}},
		{"resume open loop", Spec{Scenario: Resume, Rate: 50}, &server{}},
		{"resume without welcome", Spec{Scenario: Resume, Window: 5}, &server{noWelcome: true}},
		{"resume, ids of the client", Spec{Scenario: Resume, Window: 5, SessionIDs: "client"}, &server{noWelcome: true, noID: true}},
		{"churn", Spec{Scenario: Churn, Window: 5}, &server{}},
		{"storm", Spec{Scenario: Storm, Storms: 2}, &server{}},
		{"storm without welcome", Spec{Scenario: Storm, Storms: 2}, &server{noWelcome: true}},
		// No more messages than connections: each of them is taken for the pause.
		{"count in fragments", Spec{Scenario: Count, Rate: 90, FragmentPause: 20 * time.Millisecond}, &server{}},
		{"echo in fragments", Spec{Scenario: Echo, FragmentPause: time.Millisecond}, &server{onMessage: echo}},
		{"echo of a byte in fragments", Spec{Scenario: Echo, Payload: 1, FragmentPause: time.Millisecond}, &server{onMessage: echo}},
		{"resume in fragments", Spec{Scenario: Resume, Window: 5, FragmentPause: time.Millisecond}, &server{}},
		{"slow", Spec{Scenario: Slow}, &server{}},
		{"slow echo", Spec{Scenario: Slow, Payload: 2000}, &server{onMessage: echo}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := load(t, tc.spec, tc.server.start(t))
			wantOK(t, r)
			n := r.Counters
			want(t, "opened by the ramp", n.Ramped, 20)
			want(t, "open at the end", n.Open, 20)
			want(t, "answered", n.Replies, n.Sent)
			want(t, "latencies", r.Message.Count, n.Replies)
			want(t, "handshakes timed", r.Handshake.Count, n.Opened)
			if tc.spec.FragmentPause > 0 {
				want(t, "begun", tc.server.begun.Load(), n.Sent)
			}
			switch tc.spec.Scenario {
			case Count, Echo, Slow:
				if n.Replies == 0 {
					t.Error("no message was answered")
				}
			case Resume, Churn:
				if n.Churned == 0 {
					t.Error("nobody came back")
				}
				if tc.spec.Scenario == Resume {
					want(t, "resumed", n.Resumed, n.Churned)
				}
			case Storm:
				want(t, "storms", int64(len(r.RecoverySeconds)), 2)
				want(t, "opened", n.Opened, 60)
			}
		})
	}
}

func TestOpenLoopSendsTheWholeSchedule(t *testing.T) {
	t.Parallel()
	r := load(t, Spec{Rate: 1000, Duration: 300 * time.Millisecond}, (&server{}).start(t))
	wantOK(t, r)
	want(t, "sent", r.Counters.Sent, 300)
}

// Of a slow schedule some loops have nothing to send: they end with the others.
func TestLoopWithNothingToSendEndsInTime(t *testing.T) {
	t.Parallel()
	r := load(t, Spec{Rate: 1e-4, Loops: 2}, (&server{}).start(t))
	wantOK(t, r)
	want(t, "sent", r.Counters.Sent, 1)
}

func TestNoTrafficWithoutConnections(t *testing.T) {
	t.Parallel()
	r := load(t, Spec{Targets: []string{"ws://127.0.0.1:1"}, Retries: -1, Rate: 1000, Duration: time.Hour})
	want(t, "failures", int64(len(r.Failures)), 1)
	wantFailure(t, r, "20 of 20 connections could not be opened")
	want(t, "messages that could not be sent", r.Counters.Unsent, 0)
}

// What it takes to tell Run, and to measure before that, is not in the figures; those of several
// loops are of the first to begin and the last to end.
func TestSpansOfSeveralLoops(t *testing.T) {
	r := &run{crew: &crew{workers: []*member{{}, {}, {}}}, result: &Result{}, at: 100 * time.Second}
	for _, e := range []event{
		{Kind: "ramped", At: 101 * time.Second, worker: 0}, {Kind: "ramped", At: 103 * time.Second, worker: 1},
		{Kind: "stopped", At: 110 * time.Second, worker: 1}, {Kind: "stopped", At: 108 * time.Second, worker: 0},
		{Kind: "drained", At: 111 * time.Second, worker: 1}, {Kind: "drained", At: 118 * time.Second, worker: 0},
		{Kind: "result", Lost: span{130 * time.Second, 150 * time.Second}, worker: 0},
		{Kind: "result", worker: 1},
		{Kind: "result", Lost: span{120 * time.Second, 131 * time.Second}, worker: 2},
	} {
		if err := r.handle(&e); err != nil {
			t.Fatal(err)
		}
	}
	res := r.result
	got := [4]float64{res.RampSeconds, res.SendSeconds, res.ReplySeconds, res.DrainSeconds}
	if got != [4]float64{3, 10, 18, 30} {
		t.Errorf("got ramp, sending, replies and drain of %v s, want 3, 10, 18 and 30", got)
	}
}

// A ramp has its first connect when it begins, not when the command comes.
func TestRampBeginsAtItsTime(t *testing.T) {
	c, err := newCrew(t.Context(), &Spec{Targets: []string{"ws://127.0.0.1:1"}, Conns: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if err := c.grow(1); err != nil {
		t.Fatal(err)
	}
	w, started := c.workers[0].worker, make(chan int)
	w.loop.Post(func() {
		w.beginRamp(command{At: w.now() + time.Hour, Conns: 1, Rate: 1e-4})
		started <- w.ramp.started
	})
	want(t, "clients started", int64(<-started), 0)
}

func TestMeasuringIsNotPartOfTheLoad(t *testing.T) {
	// Not parallel: it is about the CPU of this process.
	heap := make([]*[8]byte, 300_000)
	for i := range heap {
		heap[i] = new([8]byte)
	}
	var m meter
	began := processCPU()
	first := m.read()
	took := processCPU() - began
	if got := m.read().CPU - first.CPU; got > took.Seconds()/2 {
		t.Errorf("%.6f s of CPU between two measurements that follow each other, of which the first took %.6f s",
			got, took.Seconds())
	}
	runtime.KeepAlive(heap)
}

func TestPayloads(t *testing.T) {
	for _, size := range []int{-1, 1, 2, 7, 8, 9, 125, 126, 65535, 65536, maxPayload} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			r := load(t, Spec{Scenario: Echo, Conns: 3, Payload: size, Rate: 20}, (&server{onMessage: echo}).start(t))
			wantOK(t, r)
			want(t, "answered", r.Counters.Replies, 4)
		})
	}
}

// A server may cut its bytes and its messages anywhere.
func TestPieces(t *testing.T) {
	t.Run("byte by byte", func(t *testing.T) {
		t.Parallel()
		s := &server{onMessage: func(p *peer, _ int, b []byte) {
			f := ws.MustCompileFrame(ws.NewTextFrame(b))
			for i := range f {
				p.bytes(f[i : i+1])
			}
		}}
		wantOK(t, load(t, Spec{Scenario: Echo, Payload: 300, Conns: 3}, s.start(t)))
	})
	t.Run("fragments with a ping between", func(t *testing.T) {
		t.Parallel()
		s := &server{onMessage: func(p *peer, _ int, b []byte) {
			p.frame(ws.NewFrame(ws.OpText, false, b[:10]))
			p.frame(ws.NewFrame(ws.OpContinuation, false, nil))
			p.frame(ws.NewPingFrame([]byte("between")))
			p.frame(ws.NewFrame(ws.OpContinuation, true, b[10:]))
		}}
		r := load(t, Spec{Scenario: Echo, Conns: 3}, s.start(t))
		wantOK(t, r)
		want(t, "pings", r.Counters.Pings, r.Counters.Replies)
	})
	t.Run("continuation of nothing", func(t *testing.T) {
		t.Parallel()
		s := &server{onMessage: func(p *peer, _ int, b []byte) { p.frame(ws.NewFrame(ws.OpContinuation, true, b)) }}
		r := load(t, Spec{Scenario: Echo, Conns: 3, Rate: 15}, s.start(t))
		want(t, "lost", r.Counters.Lost, 3)
		want(t, "corrupt", r.Counters.Corrupt, 3)
	})
}

func TestSecureTargets(t *testing.T) {
	t.Run("works", func(t *testing.T) {
		t.Parallel()
		s := (&server{ln: tlsListener(t)}).start(t)
		s.url = "wss" + strings.TrimPrefix(s.url, "ws")
		for _, spec := range []Spec{{Scenario: Count}, {Scenario: Resume, Window: 4}, {Scenario: Storm}} {
			spec.Insecure = true
			r := load(t, spec, s)
			wantOK(t, r)
			want(t, "answered", r.Counters.Replies, r.Counters.Sent)
		}
	})
	t.Run("big echo", func(t *testing.T) {
		t.Parallel()
		s := (&server{ln: tlsListener(t), onMessage: echo}).start(t)
		s.url = "wss" + strings.TrimPrefix(s.url, "ws")
		wantOK(t, load(t, Spec{Scenario: Echo, Payload: maxPayload, Conns: 2, Rate: 20, Insecure: true}, s))
	})
	t.Run("unknown certificate", func(t *testing.T) {
		t.Parallel()
		s := (&server{ln: tlsListener(t)}).start(t)
		s.url = "wss" + strings.TrimPrefix(s.url, "ws")
		r := load(t, Spec{Conns: 2, Retries: -1}, s)
		want(t, "given up", r.Counters.Abandoned, 2)
		if !strings.Contains(r.Failures[0], "certificate") {
			t.Errorf("failures %q, want the certificate named", r.Failures)
		}
	})
}

func TestHandshakeOptions(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	r := load(t, Spec{Conns: 1, Subprotocol: "counting", Headers: map[string][]string{"Authorization": {"Bearer x"}, "X-Two": {"a", "b"}}}, s)
	wantOK(t, r)
	r = load(t, Spec{Conns: 1, Subprotocol: "other", Retries: -1}, s)
	want(t, errSubprotocol.Error(), r.Counters.Reasons[errSubprotocol.Error()], 1)

	spec := Spec{Headers: map[string][]string{"X-Two": {"a", "b"}, "Host": {"example.org"}}, Subprotocol: "p"}
	target, err := wsclient.NewTarget("ws://127.0.0.1:1/path?a=b", wsclient.NewKey(), spec.Headers, spec.Subprotocol)
	if err != nil {
		t.Fatal(err)
	}
	request := string(target.AppendRequest(nil, wsclient.SessionID{1}))
	for _, part := range []string{"GET /path?a=b&session_id=01000000-0000-0000-0000-000000000000 HTTP/1.1\r\nHost: example.org\r\n",
		"\r\nX-Two: a\r\nX-Two: b\r\n", "\r\nSec-WebSocket-Protocol: p\r\n"} {
		if !strings.Contains(request, part) {
			t.Errorf("request %q lacks %q", request, part)
		}
	}
	if strings.Count(request, "Host:") != 1 || !strings.HasSuffix(request, "\r\n\r\n") {
		t.Errorf("request %q: want one Host and an empty line at the end", request)
	}
	spec.Headers["X-Two"] = []string{"a\r\nX-Smuggled: 1"}
	if _, err := wsclient.NewTarget("ws://127.0.0.1:1/", wsclient.NewKey(), spec.Headers, ""); err == nil {
		t.Error("a header with a line break was taken")
	}
}

func TestManyLoops(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own tables %t", own), func(t *testing.T) {
			t.Parallel()
			if err := reactor.CanSplit(); own && err != nil {
				t.Skip(err)
			}
			a, b := (&server{}).start(t), (&server{}).start(t)
			r := load(t, Spec{Conns: 50, Loops: 3, ownTables: own, Rate: 900,
				Duration: 334 * time.Millisecond}, a, b)
			wantOK(t, r)
			want(t, "loops", int64(r.Tool.Loops), 3)
			want(t, "opened", r.Counters.Ramped, 50)
			want(t, "answered", r.Counters.Replies, 301) // not a multiple of the loops
			want(t, "latencies", r.Message.Count, 301)
			if sum := len(a.totals) + len(b.totals); sum != 50 || len(a.totals) != 25 {
				t.Errorf("%d and %d sessions counted on the two servers, want 25 each",
					len(a.totals), len(b.totals))
			}
		})
	}
}

// Each scenario works with a table for each loop, and leaves no descriptor behind.
func TestOwnTables(t *testing.T) {
	if err := reactor.CanSplit(); err != nil {
		t.Skip(err)
	}
	secure := (&server{ln: tlsListener(t)}).start(t)
	secure.url = "wss" + strings.TrimPrefix(secure.url, "ws")
	for _, spec := range []Spec{{Scenario: Count}, {Scenario: Resume, Window: 4}, {Scenario: Storm}} {
		spec.Loops, spec.ownTables, spec.Insecure = 2, true, true
		for _, s := range []*server{(&server{}).start(t), secure} {
			wantOK(t, load(t, spec, s))
		}
	}
}

func TestMoreThanLoopsHold(t *testing.T) {
	_, err := Run(t.Context(), Spec{Targets: []string{"ws://127.0.0.1:1"},
		Conns: connsPerTable() + 1, Loops: 1})
	if err == nil || !strings.Contains(err.Error(), "do not fit into 1 loops") {
		t.Errorf("got %v", err)
	}
}

// The hold is a phase of its own, and its end is the traffic's beginning.
func TestHoldAndServerCloses(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	closing := func(code ws.StatusCode) func(string) {
		return func(phase string) {
			if phase == "after" {
				s.closeAll(code)
			}
		}
	}
	spec := Spec{Hold: 300 * time.Millisecond, Rate: 100, Duration: 200 * time.Millisecond,
		AwaitClose: time.Minute, ExpectClose: []int{1001}}
	spec.OnPhase = closing(ws.StatusGoingAway)
	r := load(t, spec, s)
	wantOK(t, r)
	want(t, "answered", r.Counters.Replies, 20)
	want(t, "closed with 1001", r.Counters.Closes["1001"], 20)
	var names []string
	for _, p := range r.Phases {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, ", "); got != "ramp, hold, traffic, server closes, closing" {
		t.Errorf("phases %s", got)
	}

	s = (&server{}).start(t)
	spec.OnPhase = closing(ws.StatusInternalServerError)
	r = load(t, spec, s)
	want(t, "lost", r.Counters.Lost, 20)

	s = (&server{}).start(t)
	spec.OnPhase, spec.AwaitClose = nil, 300*time.Millisecond
	wantFailure(t, load(t, spec, s), "20 connections were open 300ms after the server was to close them")
}

func TestStartAt(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	at := time.Now().Add(400 * time.Millisecond)
	var before time.Time
	r := load(t, Spec{Rate: 100, Duration: 100 * time.Millisecond, StartAt: at, OnPhase: func(p string) {
		if p == "before" {
			before = time.Now()
		}
	}}, s)
	wantOK(t, r)
	if before.Before(at) {
		t.Errorf("began %v early", at.Sub(before))
	}
	_, err := Run(t.Context(), Spec{Targets: []string{s.url}, StartAt: time.Now().Add(-time.Hour)})
	if err == nil || !strings.Contains(err.Error(), "it was 1h0m") {
		t.Errorf("got %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	for _, phase := range []string{"before", "idle"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			s := (&server{onMessage: func(p *peer, n int, _ []byte) {
				if n == 3 { // the replies to the first two have come
					cancel()
				}
				p.reply(p.total(1))
			}}).start(t)
			r, err := Run(ctx, Spec{Targets: []string{s.url}, Conns: 20, Ramp: 100, Duration: patience, OnPhase: func(p string) {
				if p == phase && p == "before" {
					time.AfterFunc(100*time.Millisecond, cancel) // in the middle of the ramp, which takes twice as long
				}
			}})
			if err != nil {
				t.Fatal(err)
			}
			if r.Complete || !r.OK() {
				t.Errorf("complete %t, failures %q; want an incomplete run without failures", r.Complete, r.Failures)
			}
			if phase == "idle" && (r.Counters.Replies == 0 || r.Counters.Open != 20) {
				t.Errorf("%+v: want the replies and connections so far", r.Counters)
			}
			want(t, "byes after the interruption", r.Counters.Byes, r.Counters.Open)
		})
	}
}

func TestServerIsMeasured(t *testing.T) {
	// Not parallel: the process that is measured is this one, and other tests' descriptors would
	// come and go in it.
	s := (&server{}).start(t)
	var shown []Progress
	r := load(t, Spec{ServerPID: os.Getpid(), Settle: time.Millisecond, Duration: 2 * time.Second, Progress: func(p Progress) { shown = append(shown, p) }}, s)
	wantOK(t, r)
	u := r.Server
	if u == nil || u.Before.Processes == 0 || u.Idle.FDs < u.Before.FDs || u.After.RSS == 0 || u.After.CPUSeconds < u.Idle.CPUSeconds || u.After.Threads == 0 {
		t.Errorf("got %+v, want three samples that grow", u)
	}
	if len(shown) < 2 || len(r.Timeline) < 2 || shown[len(shown)-1].Replies == 0 {
		t.Errorf("%d times progress and %d points, want two a second with the replies so far", len(shown), len(r.Timeline))
	}
	if _, err := Run(context.Background(), Spec{Targets: []string{s.url}, ServerPID: 1 << 30}); err == nil {
		t.Error("a process that does not exist was measured")
	}
}
