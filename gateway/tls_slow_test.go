package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"
)

// TestTLSSlowConsumer: a reader that stops is cut off with TLS too, when its queue is full, and
// when it has taken nothing for StallTimeout; nothing of it stays.
func TestTLSSlowConsumer(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16, compact bool) {
		for _, test := range []struct {
			reason, ask string
			cfg         Config
		}{
			{"overflow", "flood 1000000", Config{MaxQueue: 20_000, MaxMessage: 1 << 20}},
			{"stall", "flood 500000", Config{MaxQueue: 1 << 20, StallTimeout: 100 * time.Millisecond}},
		} {
			test.cfg.Loops, test.cfg.Heartbeat = 1, -1
			s := serveTLSApp(t, test.cfg, compact, flood{})
			slow := counting(s, `sluice_slow_consumers_total{reason="`+test.reason+`"}`)
			conn := tls.Client(narrow(t, s.TLSAddr().String()), &tls.Config{
				InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
			})
			c := &gatewaytest.Client{T: t, Conn: conn, R: bufio.NewReaderSize(conn, 512)}
			io.WriteString(c, gatewaytest.Upgrade(get))
			if got := c.Response().StatusCode; got != 101 {
				t.Fatalf("got %d, want 101", got)
			}
			c.Write(gatewaytest.Text(test.ask))
			await(t, "the slow reader is cut off", func() bool { return s.Connections() == 0 })
			if n := slow(); n != 1 {
				t.Errorf("%s: counted %d, want 1", test.reason, n)
			}
			// What the kernel had may come, and then the reset: never the end of a whole stream.
			if _, err := io.Copy(io.Discard, c.R); err == nil {
				t.Errorf("%s: the stream ends in order, want a reset", test.reason)
			}
			quietTLS(t, s)
		}
	})
}
