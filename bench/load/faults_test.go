package load

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"
)

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
		{"counts the last twice", Count, func(p *peer, n int, _ []byte) {
			if n == each {
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
			spec := Spec{Scenario: tc.scenario, Conns: conns, Rate: sent * 4, Duration: 250 * time.Millisecond, Timeout: 4 * time.Second}
			r := load(t, spec, (&server{onMessage: tc.onMessage}).start(t))
			want(t, "sent", r.Counters.Sent, sent)
			want(t, "what it does wrong", tc.field(&r.Counters), tc.want)
			wantFailure(t, r, tc.sentence)
		})
	}
}

// With more than one message on its way the reply to the 5th could be one to the 6th, and the 5th's
// lost. So there is only one.
func TestServerCountsTheFifthTwice(t *testing.T) {
	t.Parallel()
	s := (&server{onMessage: func(p *peer, n int, _ []byte) {
		if n == 5 {
			p.total(1)
		}
		p.reply(p.total(1))
	}}).start(t)
	r := load(t, Spec{Conns: 4, Window: 1, Duration: time.Second}, s)
	want(t, "counted twice", r.Counters.Overcount, 4)
	want(t, "answered", r.Counters.Replies, r.Counters.Sent)
	wantFailure(t, r, "4 messages were counted that were not sent")
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
	r := load(t, Spec{Window: 20, Timeout: 2 * time.Second, Duration: 3 * time.Second}, s)
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
		{"half a code", func(p *peer) { p.bytes([]byte{0x88, 0x01, 3}) }, ""},
		{"1006 on the wire", func(p *peer) { p.close(1006) }, ""},
		{"masked frame", func(p *peer) { p.bytes([]byte{0x81, 0x80, 1, 2, 3, 4}) }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := load(t, Spec{Conns: 10, Window: 10}, (&server{onMessage: closing(tc.how)}).start(t))
			want(t, "lost", r.Counters.Lost, 10)
			ended := r.Counters.Closes[tc.code]
			if tc.code == "" {
				for _, n := range r.Counters.Faults {
					ended += n
				}
				want(t, "closed by the server", int64(len(r.Counters.Closes)), 0)
			}
			want(t, "ended so", ended, 10)
			want(t, "open at the end", r.Counters.Open, 0)
			want(t, "missing", r.Counters.Missing, 0)
			if r.OK() || !strings.Contains(r.Failures[0], tc.code) || tc.code == "" && !strings.Contains(r.Failures[0], "frame: ") {
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

// A server that pings and never reads the pongs must not fill the tool's memory with them.
func TestPongsAreBounded(t *testing.T) {
	t.Parallel()
	const pings = 200_000
	over := make(chan struct{})
	s := (&server{onConn: func(c net.Conn, _ int64) bool {
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return true
		}
		accept := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(accept[:]))
		batch := bytes.Repeat(ws.MustCompileFrame(ws.NewPingFrame(make([]byte, 125))), 100)
		for range pings / 100 {
			if _, err := c.Write(batch); err != nil {
				t.Errorf("ping: %v", err)
				break
			}
		}
		close(over)
		return true
	}}).start(t)
	// The worker reads on while the run waits in OnPhase.
	r := load(t, Spec{Scenario: Idle, Conns: 1, OnPhase: func(phase string) {
		if phase == "idle" {
			<-over
		}
	}}, s)
	// What the sockets' buffers of both ends take, at most some 10 MB, and maxOut.
	if n := r.Counters.Pings; n == 0 || n > pings/2 {
		t.Errorf("%d of %d pings were answered to a server that does not read", n, pings)
	}
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
		"not HTTP":               {"SSH-2.0-OpenSSH\r\n", `handshake: the response is not HTTP: "SSH-2.0-OpenSSH\r\n"`},
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
		r := load(t, Spec{Targets: []string{"ws://" + deafPort(t)}, Scenario: Idle, Retries: -1})
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

// deafPort returns an address that refuses connections until the test ends: taken, so that nobody
// else listens there, and not listened on.
func deafPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

func TestSlowConsumerIsCut(t *testing.T) {
	t.Parallel()
	s := &server{onMessage: func(p *peer, n int, b []byte) {
		_ = p.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := p.Write(ws.MustCompileFrame(ws.NewTextFrame(b))); err != nil {
			_ = p.Close()
		}
	}, noWelcome: true}
	r := load(t, Spec{Scenario: Slow, Conns: 10, Payload: 100_000, Rate: 50, Duration: 6 * time.Second}, s.start(t))
	wantOK(t, r)
	want(t, "cut", r.Counters.SlowCut, 1)
	want(t, "answered", r.Counters.Replies, 300)
}
