package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

// What the server does wrong, in exact numbers: 20 connections, 10 messages each.
func TestFaultyServer(t *testing.T) {
	const conns, each = 20, 10
	const sent = conns * each
	for _, tc := range []struct {
		name      string
		scenario  Scenario
		onMessage func(p *peer, n int, b []byte)
		field     func(n *Counters) int64
		want      int64
		sentence  string
	}{
		{"loses the reply to the 4th", Count, func(p *peer, n int, _ []byte) {
			if total := p.total(1); n != 4 {
				p.reply(total)
			}
		}, func(n *Counters) int64 { return n.Missing }, conns, "20 of 200 messages got no reply"},
		{"loses the last reply", Count, func(p *peer, n int, _ []byte) {
			if total := p.total(1); n != each {
				p.reply(total)
			}
		}, func(n *Counters) int64 { return n.Missing }, conns, "20 of 200 messages got no reply"},
		{"forgets to count the 4th", Count, func(p *peer, n int, _ []byte) {
			if n != 4 {
				p.reply(p.total(1))
			}
		}, func(n *Counters) int64 { return n.Missing }, conns, "20 of 200 messages got no reply"},
		{"answers the 3rd and 7th twice", Count, func(p *peer, n int, _ []byte) {
			total := p.total(1)
			p.reply(total)
			if n == 3 || n == 7 {
				p.reply(total)
			}
		}, func(n *Counters) int64 { return n.Duplicated }, 2 * conns, "40 replies came twice"},
		{"counts the 5th twice", Count, func(p *peer, n int, _ []byte) {
			if n == 5 {
				p.total(1)
			}
			p.reply(p.total(1))
		}, func(n *Counters) int64 { return n.Overcount }, conns, "20 messages were counted that were not sent"},
		{"writes nonsense for the 6th", Count, func(p *peer, n int, _ []byte) {
			total := p.total(1)
			if n == 6 {
				p.text(`{"cuont":6}`)
				return
			}
			p.reply(total)
		}, func(n *Counters) int64 { return n.Corrupt }, conns, "20 replies were corrupt"},
		{"loses the 4th echo", Echo, func(p *peer, n int, b []byte) {
			if n != 4 {
				p.text(string(b))
			}
		}, func(n *Counters) int64 { return n.Missing }, conns, "20 of 200 messages got no reply"},
		{"echoes the 2nd twice", Echo, func(p *peer, n int, b []byte) {
			p.text(string(b))
			if n == 2 {
				p.text(string(b))
			}
		}, func(n *Counters) int64 { return n.Duplicated }, conns, "20 replies came twice"},
		{"flips a bit in the 8th echo", Echo, func(p *peer, n int, b []byte) {
			if n == 8 {
				b[20] ^= 1
			}
			p.text(string(b))
		}, func(n *Counters) int64 { return n.Corrupt }, conns, "20 replies were corrupt"},
		{"cuts the 9th echo short", Echo, func(p *peer, n int, b []byte) {
			if n == 9 {
				b = b[:len(b)-1]
			}
			p.text(string(b))
		}, func(n *Counters) int64 { return n.Corrupt }, conns, "20 replies were corrupt"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			spec := Spec{Scenario: tc.scenario, Conns: conns, Rate: sent * 4, Duration: 250 * time.Millisecond, Timeout: 2 * time.Second}
			r := load(t, spec, (&server{onMessage: tc.onMessage}).start(t))
			want(t, "sent", r.Counters.Sent, sent)
			want(t, "what it does wrong", tc.field(&r.Counters), tc.want)
			wantFailure(t, r, tc.sentence)
		})
	}
}

func TestLostReplyDoesNotHoldTheWindow(t *testing.T) {
	t.Parallel()
	var after atomic.Int64
	s := (&server{onMessage: func(p *peer, n int, _ []byte) {
		if n > 1 {
			after.Add(1)
		}
		if total := p.total(1); n != 1 {
			p.reply(total)
		}
	}}).start(t)
	// The first message of each of the 20 connections is lost, and there is a window of 20.
	r := load(t, Spec{Window: 20, Timeout: 300 * time.Millisecond, Duration: time.Second}, s)
	if after.Load() == 0 {
		t.Error("the closed loop stood still when all of its window was lost")
	}
	wantFailure(t, r, "20 of ")
}

func TestServerCloses(t *testing.T) {
	closing := func(how func(p *peer)) func(p *peer, n int, b []byte) {
		return func(p *peer, n int, b []byte) {
			if n == 3 {
				how(p)
				return
			}
			p.reply(p.total(1))
		}
	}
	abrupt := func(p *peer) { _ = p.Conn.(*net.TCPConn).SetLinger(0); _ = p.Close() }
	for _, tc := range []struct {
		name string
		how  func(p *peer)
		code string
	}{
		{"1011", func(p *peer) { p.close(1011) }, "1011"},
		{"1001", func(p *peer) { p.close(1001) }, "1001"},
		{"no code", func(p *peer) { p.frame(ws.NewCloseFrame(nil)) }, "1005"},
		{"FIN", func(p *peer) { _ = p.Conn.(*net.TCPConn).CloseWrite() }, "1006"},
		{"RST", abrupt, "1006"},
		{"masked frame", func(p *peer) { p.bytes([]byte{0x81, 0x80, 1, 2, 3, 4}) }, "1002"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := load(t, Spec{Conns: 10, Window: 10}, (&server{onMessage: closing(tc.how)}).start(t))
			want(t, "lost", r.Counters.Lost, 10)
			want(t, "closed by code", r.Counters.Closes[tc.code], 10)
			want(t, "open at the end", r.Counters.Open, 0)
			want(t, "missing", r.Counters.Missing, 0)
			if r.OK() || !strings.Contains(r.Failures[0], tc.code) && tc.code != "1002" {
				t.Errorf("failures %q, want one with the code", r.Failures)
			}
		})
	}
	t.Run("expected", func(t *testing.T) {
		t.Parallel()
		drained := &server{onOpen: func(p *peer) { p.text(`{"bye":true,"total":0}`); p.close(1001) }}
		r := load(t, Spec{Scenario: Idle, ExpectClose: []int{1001}}, drained.start(t))
		wantOK(t, r)
		want(t, "closed", r.Counters.Closes["1001"], 20)
		want(t, "byes", r.Counters.Byes, 20)
	})
	t.Run("bye with a wrong total", func(t *testing.T) {
		t.Parallel()
		drained := &server{onOpen: func(p *peer) { p.text(`{"bye":true,"total":1}`); p.close(1001) }}
		r := load(t, Spec{Scenario: Idle, ExpectClose: []int{1001}}, drained.start(t))
		want(t, "wrong byes", r.Counters.ByesWrong, 20)
		wantFailure(t, r, "told goodbye")
	})
	t.Run("reconnect", func(t *testing.T) {
		t.Parallel()
		s := (&server{onMessage: closing(func(p *peer) { p.close(1012) })}).start(t)
		r := load(t, Spec{Conns: 10, Window: 10, Reconnect: true, ExpectClose: []int{1012}}, s)
		wantOK(t, r)
		want(t, "open at the end", r.Counters.Open, 10)
		if c := r.Counters; c.Resumed == 0 || c.Unanswered == 0 || c.Replies == 0 {
			t.Errorf("got %+v, want sessions resumed with messages in flight", c)
		}
	})
}

func TestResumeFindsWrongTotals(t *testing.T) {
	for name, change := range map[string]func(uint64) uint64{
		"lost":      func(uint64) uint64 { return 0 },
		"one less":  func(n uint64) uint64 { return n - 1 },
		"one twice": func(n uint64) uint64 { return n + 1 },
	} {
		for _, noWelcome := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, no welcome %t", name, noWelcome), func(t *testing.T) {
				t.Parallel()
				s := (&server{onReturn: change, noWelcome: noWelcome}).start(t)
				r := load(t, Spec{Scenario: Resume, Rate: 100, Duration: 100 * time.Millisecond}, s)
				want(t, "wrong totals", r.Counters.ResumeWrong, 10)
				wantFailure(t, r, "10 sessions came back with a total")
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	refuse := func(first int64, response string) *server {
		return &server{onConn: func(c net.Conn, attempt int64) bool {
			if attempt > first {
				return false
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte(response))
			return true
		}}
	}
	const busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
	t.Run("Retry-After is obeyed", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Scenario: Idle}, refuse(15, busy).start(t))
		wantOK(t, r)
		want(t, "refused", r.Counters.Reasons["http 503"], 15)
		want(t, "attempts", r.Counters.Attempts, 35)
		if r.RampSeconds < 1 {
			t.Errorf("ramp took %.3f s, want at least the second of Retry-After", r.RampSeconds)
		}
	})
	t.Run("given up", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Scenario: Idle, Retries: -1}, refuse(15, busy).start(t))
		want(t, "given up", r.Counters.Abandoned, 15)
		want(t, "open", r.Counters.Ramped, 5)
		wantFailure(t, r, "15 of 20 connections could not be opened: http 503 15×")
	})
	for name, tc := range map[string]struct{ response, reason string }{
		"404 is not asked again": {"HTTP/1.1 404 Not Found\r\n\r\n", "http 404"},
		"wrong accept":           {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n", errAccept.Error()},
		"not HTTP":               {"SSH-2.0-OpenSSH\r\n", `handshake: the answer is not HTTP: "SSH-2.0-OpenSSH\r\n"`},
		"nothing":                {"", "closed during the handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			retries := -1
			if strings.HasPrefix(name, "404") {
				retries = 3
			}
			r := load(t, Spec{Scenario: Idle, Retries: retries}, refuse(1e9, tc.response).start(t))
			want(t, "given up", r.Counters.Abandoned, 20)
			want(t, tc.reason, r.Counters.Reasons[tc.reason], 20)
			want(t, "attempts", r.Counters.Attempts, 20)
		})
	}
	t.Run("connection refused", func(t *testing.T) {
		t.Parallel()
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		_ = ln.Close()
		r := load(t, Spec{Targets: []string{"ws://" + addr}, Scenario: Idle, Retries: -1})
		want(t, "refused", r.Counters.Reasons["connection refused"], 20)
	})
	t.Run("silence", func(t *testing.T) {
		t.Parallel()
		release := make(chan struct{})
		s := (&server{onConn: func(net.Conn, int64) bool { <-release; return true }}).start(t)
		defer close(release)
		r := load(t, Spec{Scenario: Idle, Retries: -1, Timeout: 300 * time.Millisecond}, s)
		want(t, "timed out", r.Counters.Reasons["timeout"], 20)
	})
}

// Every percentile is at least what the server delays by, and below the next step of its distribution.
func TestLatencyAgreesWithTheServer(t *testing.T) {
	t.Parallel()
	const short, long = 20 * time.Millisecond, 500 * time.Millisecond
	s := (&server{onMessage: func(p *peer, n int, _ []byte) {
		total, delay := p.total(1), short
		if n%10 == 0 {
			delay = long
		}
		time.AfterFunc(delay, func() { p.reply(total) })
	}}).start(t)
	// Every connection sends one message a second and ten in all, so that no reply waits for another.
	r := load(t, Spec{Conns: 100, Rate: 400, Duration: 2500 * time.Millisecond}, s)
	wantOK(t, r)
	want(t, "latencies", r.Message.Count, 1000)
	between := func(what string, us int64, low, high time.Duration) {
		t.Helper()
		if d := time.Duration(us) * time.Microsecond; d < low*999/1000 || d >= high {
			t.Errorf("%s is %v, want %v to %v", what, d, low, high)
		}
	}
	between("the smallest", r.Message.MinUS, short, long)
	between("p50", r.Message.P50US, short, long)
	between("p75", r.Message.P75US, short, long)
	between("p95", r.Message.P95US, long, 5*time.Second)
	between("p99", r.Message.P99US, long, 5*time.Second)
}

// A server that stands still for a second keeps every message waiting that was due in it, and the open loop charges all
// of them. A closed loop sees one of its window.
func TestStallIsNotOmitted(t *testing.T) {
	t.Parallel()
	var gate sync.RWMutex
	var seen atomic.Int64
	s := (&server{onMessage: func(p *peer, _ int, _ []byte) {
		if seen.Add(1) == 100 {
			gate.Lock()
			time.Sleep(time.Second)
			gate.Unlock()
		}
		gate.RLock()
		total := p.total(1)
		gate.RUnlock()
		p.reply(total)
	}}).start(t)
	r := load(t, Spec{Rate: 200, Duration: 2 * time.Second}, s)
	wantOK(t, r)
	want(t, "answered", r.Counters.Replies, 400)
	// 200 messages were due in the stall; they waited 0 to 1 s, evenly: a quarter of all 400 waited over half a second.
	if max := time.Duration(r.Message.MaxUS) * time.Microsecond; max < 990*time.Millisecond {
		t.Errorf("the slowest took %v, want about 1s", max)
	}
	if p80 := time.Duration(r.Message.At(80)) * time.Microsecond; p80 < 500*time.Millisecond {
		t.Errorf("p80 is %v, want over 500ms", p80)
	}
}

func TestHeartbeats(t *testing.T) {
	const every = 50 * time.Millisecond
	beats := func(skip int) *server {
		return &server{onOpen: func(p *peer) {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for i := 1; ; i++ {
				select {
				case <-p.done:
					return
				case <-tick.C:
					if i != skip {
						p.bytes(append(ws.MustCompileFrame(ws.NewTextFrame([]byte(`{"ts":"2026-01-02T03:04:05.678Z"}`))),
							ws.MustCompileFrame(ws.NewPingFrame([]byte("hb")))...))
					}
				}
			}
		}}
	}
	t.Run("all come", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Scenario: Idle, HeartbeatEvery: every, Duration: 500 * time.Millisecond}, beats(0).start(t))
		wantOK(t, r)
		want(t, "pings answered", r.Counters.Pings, r.Counters.Beats)
		if r.Counters.Beats < 20*5 || r.Heartbeat.Count != r.Counters.Beats-20 {
			t.Errorf("%d beats and %d gaps of 20 connections, want over 100, and one gap less each", r.Counters.Beats, r.Heartbeat.Count)
		}
	})
	t.Run("one is missing", func(t *testing.T) {
		t.Parallel()
		const every = time.Second
		s := &server{onOpen: func(p *peer) {
			for i := 1; ; i++ {
				select {
				case <-p.done:
					return
				case <-time.After(every):
				}
				if i != 2 {
					p.text(`{"ts":"2026-01-02T03:04:05.678Z"}`)
				}
			}
		}}
		r := load(t, Spec{Scenario: Idle, Heartbeats: "expect", HeartbeatEvery: every, Duration: 3400 * time.Millisecond}, s.start(t))
		want(t, "missing", r.Counters.BeatsMissing, 20)
		wantFailure(t, r, "20 heartbeats did not come")
	})
	t.Run("none come", func(t *testing.T) {
		t.Parallel()
		r := load(t, Spec{Scenario: Idle, Heartbeats: "expect", HeartbeatEvery: every}, (&server{}).start(t))
		if r.Counters.BeatsMissing == 0 {
			t.Error("no heartbeat was missed of a server that sends none")
		}
	})
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

func TestSlowConsumerIsCut(t *testing.T) {
	t.Parallel()
	s := &server{onMessage: func(p *peer, n int, b []byte) {
		_ = p.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err := p.Write(ws.MustCompileFrame(ws.NewTextFrame(b))); err != nil {
			_ = p.Close()
		}
	}, noWelcome: true}
	r := load(t, Spec{Scenario: Slow, Conns: 10, Payload: 100_000, Rate: 50, Duration: 3 * time.Second}, s.start(t))
	wantOK(t, r)
	want(t, "cut", r.Counters.SlowCut, 1)
	want(t, "answered", r.Counters.Replies, 150)
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
	target, err := newTarget("ws://127.0.0.1:1/path?a=b", &spec, newKey())
	if err != nil {
		t.Fatal(err)
	}
	request := string(target.request(nil, sessionID{1}))
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
	if _, err := newTarget("ws://127.0.0.1:1/", &spec, newKey()); err == nil {
		t.Error("a header with a line break was taken")
	}
}

func TestManyProcesses(t *testing.T) {
	t.Parallel()
	a, b := (&server{}).start(t), (&server{}).start(t)
	children := 0
	r := load(t, Spec{Conns: 50, Processes: 3, Rate: 900, Duration: 333 * time.Millisecond,
		OnPhase: func(phase string) {
			if phase == "idle" {
				children = len(family(os.Getpid())) - 1
			}
		}}, a, b)
	wantOK(t, r)
	want(t, "processes", int64(r.Tool.Processes), 3)
	if children < 3 {
		t.Errorf("%d child processes, want at least 3", children)
	}
	want(t, "opened", r.Counters.Ramped, 50)
	want(t, "answered", r.Counters.Replies, 300)
	want(t, "latencies", r.Message.Count, 300)
	if sum := int64(len(a.totals)) + int64(len(b.totals)); sum != 50 || len(a.totals) != 25 {
		t.Errorf("%d and %d sessions counted on the two servers, want 25 each", len(a.totals), len(b.totals))
	}
}

func TestProcessThatDies(t *testing.T) {
	s := (&server{}).start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, err := Run(ctx, Spec{Targets: []string{s.url}, Conns: 10, Processes: 2, Scenario: Idle, Duration: 20 * time.Second,
		OnPhase: func(phase string) {
			if children := family(os.Getpid())[1:]; phase == "idle" && len(children) > 0 {
				_ = syscall.Kill(children[0], syscall.SIGKILL)
			}
		}})
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Run: %v, want an error that says a process was killed", err)
	}
	if left := family(os.Getpid())[1:]; len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestInterrupted(t *testing.T) {
	for _, phase := range []string{"before", "idle"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			s := (&server{}).start(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			r, err := Run(ctx, Spec{Targets: []string{s.url}, Conns: 20, Ramp: 100, Duration: time.Minute, OnPhase: func(p string) {
				if p == phase {
					time.AfterFunc(100*time.Millisecond, cancel)
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

func TestObjectives(t *testing.T) {
	t.Parallel()
	s := (&server{onMessage: func(p *peer, _ int, _ []byte) {
		time.Sleep(20 * time.Millisecond)
		p.reply(p.total(1))
	}}).start(t)
	strict, _ := ParseObjective("p50=5ms")
	easy, _ := ParseObjective("handshake.max=1m")
	r := load(t, Spec{SLO: []Objective{strict, easy}}, s)
	wantFailure(t, r, "late: message.p50=5ms was asked for")
	beats, _ := ParseObjective("heartbeat.p99=1s")
	wantFailure(t, load(t, Spec{SLO: []Objective{beats}}, s), "nothing to be measured by")
}

func TestServerIsMeasured(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	var shown []Progress
	r := load(t, Spec{ServerPID: os.Getpid(), Settle: time.Millisecond, Duration: 1200 * time.Millisecond, Progress: func(p Progress) { shown = append(shown, p) }}, s)
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
