package load

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/bench/procfs"
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

// Of a slow schedule some processes have nothing to send: they end with the others.
func TestProcessWithNothingToSendEndsInTime(t *testing.T) {
	t.Parallel()
	r := load(t, Spec{Rate: 1e-4, Processes: 2}, (&server{}).start(t))
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

// What it takes to tell the parent, and to measure before that, is not in the figures; those of several processes are of the first
// to begin and the last to end.
func TestSpansOfSeveralProcesses(t *testing.T) {
	r := &run{fleet: &fleet{workers: []*link{{}, {}, {}}}, result: &Result{}, at: 100 * time.Second}
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
	w, err := newWorker(job{Spec: Spec{Conns: 1}}, make(chan event, 16))
	if err != nil {
		t.Fatal(err)
	}
	defer w.loop.Close()
	w.beginRamp(command{At: monotonic() + time.Hour, Conns: 1, Rate: 1e-4})
	want(t, "clients started", int64(w.ramp.started), 0)
}

func TestMeasuringIsNotPartOfTheLoad(t *testing.T) {
	// Not parallel: it is about the CPU of this process.
	heap := make([]*[8]byte, 300_000)
	for i := range heap {
		heap[i] = new([8]byte)
	}
	w := &worker{}
	began := processCPU()
	first := w.ownCost()
	took := processCPU() - began
	if got := w.ownCost().CPU - first.CPU; got > took.Seconds()/2 {
		t.Errorf("%.6f s of CPU between two measurements that follow each other, of which the first took %.6f s", got, took.Seconds())
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

func TestManyProcesses(t *testing.T) {
	t.Parallel()
	a, b := (&server{}).start(t), (&server{}).start(t)
	children := 0
	r := load(t, Spec{Conns: 50, Processes: 3, Rate: 900, Duration: 334 * time.Millisecond,
		OnPhase: func(phase string) {
			if phase == "idle" {
				children = len(procfs.Family(os.Getpid())) - 1
			}
		}}, a, b)
	wantOK(t, r)
	want(t, "processes", int64(r.Tool.Processes), 3)
	if children < 3 {
		t.Errorf("%d child processes, want at least 3", children)
	}
	want(t, "opened", r.Counters.Ramped, 50)
	want(t, "answered", r.Counters.Replies, 301) // not a multiple of the processes
	want(t, "latencies", r.Message.Count, 301)
	if sum := int64(len(a.totals)) + int64(len(b.totals)); sum != 50 || len(a.totals) != 25 {
		t.Errorf("%d and %d sessions counted on the two servers, want 25 each", len(a.totals), len(b.totals))
	}
}

func TestProcessThatDies(t *testing.T) {
	s := (&server{}).start(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := Run(ctx, Spec{Targets: []string{s.url}, Conns: 10, Processes: 2, Rate: 100, Duration: 20 * time.Second,
		OnPhase: func(phase string) {
			if children := procfs.Family(os.Getpid())[1:]; phase == "idle" && len(children) > 0 {
				_ = syscall.Kill(children[0], syscall.SIGKILL)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, r, " of 2 of the load generator ended: signal: killed: its 5 connections went with it")
	want(t, "died", int64(r.Tool.Died), 1)
	if r.Complete {
		t.Error("the run calls itself complete")
	}
	want(t, "handshakes timed by the other process", r.Handshake.Count, 5)
	want(t, "byes to the other process", r.Counters.Byes, 5)
	if left := procfs.Family(os.Getpid())[1:]; len(left) != 0 {
		t.Errorf("processes %v are left", left)
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
	// Not parallel: the process that is measured is this one, and other tests' descriptors would come and go in it.
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
