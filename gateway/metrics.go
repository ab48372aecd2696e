package gateway

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"sluice/poller"
)

// Every series there will ever be is made here, before the first client: what clients send can add to none of the
// labels.

// Times of the process, in nanoseconds; 0 until it has happened.
var startupTime, shutdownTime atomic.Int64

var (
	_ = metrics.NewGauge(`sluice_startup_seconds`, func() float64 { return time.Duration(startupTime.Load()).Seconds() })
	_ = metrics.NewGauge(`sluice_shutdown_seconds`, func() float64 { return time.Duration(shutdownTime.Load()).Seconds() })
)

// SetStartup records how long the process took from its start until it was ready. Any goroutine.
func SetStartup(d time.Duration) { startupTime.Store(int64(d)) }

// SetShutdown records how long the drain took. Any goroutine.
func SetShutdown(d time.Duration) { shutdownTime.Store(int64(d)) }

// WriteMetrics writes all metrics of the process, with those of the Go runtime and the operating system, as
// Prometheus text. Any goroutine.
func WriteMetrics(w io.Writer) {
	var text bytes.Buffer
	metrics.WritePrometheus(&text, true)
	metrics.WriteFDMetrics(&text)
	_, _ = helpWriter{w}.Write(text.Bytes())
}

func init() { metrics.ExposeMetadata(true) }

var (
	connections atomic.Int64 // open WebSockets
	_           = metrics.NewGauge(`sluice_connections`, func() float64 { return float64(connections.Load()) })

	maxConnections atomic.Int64 // what the process may hold
	_              = metrics.NewGauge(`sluice_max_connections`, func() float64 { return float64(maxConnections.Load()) })
	_              = metrics.NewGauge(buildInfo(), func() float64 { return 1 })

	buffered atomic.Int64 // bytes of partial input and unsent output of all loops
	_        = metrics.NewGauge(`sluice_buffered_bytes`, func() float64 { return float64(buffered.Load()) })

	connectionsTotal = metrics.NewCounter(`sluice_connections_total`)
	handshakeTime    = poller.NewHistogram(`sluice_handshake_duration_seconds`, poller.DurationBuckets)

	messagesReceived = metrics.NewCounter(`sluice_messages_received_total`)
	messagesSent     = metrics.NewCounter(`sluice_messages_sent_total`)
	bytesReceived    = metrics.NewCounter(`sluice_bytes_received_total`)
	bytesSent        = metrics.NewCounter(`sluice_bytes_sent_total`)
	heartbeatsSent   = metrics.NewCounter(`sluice_heartbeats_sent_total`)

	slowConsumers = [slowReasons]*metrics.Counter{
		slowOverflow: metrics.NewCounter(`sluice_slow_consumers_total{reason="overflow"}`),
		slowStall:    metrics.NewCounter(`sluice_slow_consumers_total{reason="stall"}`),
		slowMemory:   metrics.NewCounter(`sluice_slow_consumers_total{reason="memory"}`),
	}

	deadPeers      = metrics.NewCounter(`sluice_errors_total{reason="dead_peer"}`)
	registerErrors = metrics.NewCounter(`sluice_errors_total{reason="register"}`)
	protocolErrors = counters(`sluice_errors_total{reason=%q}`, "protocol", "utf8", "close_frame", "control_rate", "message_size",
		"fragments", "message_timeout", "memory")

	rejected = counters(`sluice_handshakes_rejected_total{reason=%q}`, "request", "headers", "timeout", "path", "method",
		"upgrade", "host", "origin", "session_id", "session_rate", "store", "full", "draining", "handler", "application")

	// closes has one series for each code that the gateway sends or registered peers use; the rest share one.
	closes     = counters(`sluice_closes_total{code=%q}`, closeCodes...)
	closeCodes = []string{"1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "other"}
)

func buildInfo() string {
	b := ReadBuild()
	return fmt.Sprintf(`sluice_build_info{version=%q,commit=%q,go=%q}`, b.Version, b.Commit, b.Go)
}

func counters(format string, labels ...string) map[string]*metrics.Counter {
	m := make(map[string]*metrics.Counter, len(labels))
	for _, label := range labels {
		if m[label] == nil {
			m[label] = metrics.NewCounter(fmt.Sprintf(format, label))
		}
	}
	return m
}

// countClose counts the end of a WebSocket by its Close frame's code; 0, no frame at all, is 1006 (RFC 6455, section 7.1.5).
func countClose(code uint16) {
	switch {
	case code == 0:
		code = 1006
	case code < 1000 || code > 1014 || code == 1004:
		closes["other"].Inc()
		return
	}
	closes[closeLabels[code-1000]].Inc()
}

var closeLabels = func() (labels [15]string) {
	for i := range labels {
		labels[i] = fmt.Sprint(1000 + i)
	}
	return labels
}()

// counted is what a loop counts for each message. It is added to the shared counters once a round, so that the loops do not
// pass a cache line back and forth with each message.
type counted struct {
	messagesReceived, messagesSent, bytesReceived, bytesSent, heartbeats int

	held, heldBefore int // bytes of partial input and unsent output: now, and when last published
}

func (n *counted) publish() {
	if *n == (counted{held: n.heldBefore, heldBefore: n.heldBefore}) {
		return
	}
	buffered.Add(int64(n.held - n.heldBefore))
	messagesReceived.Add(n.messagesReceived)
	messagesSent.Add(n.messagesSent)
	bytesReceived.Add(n.bytesReceived)
	bytesSent.Add(n.bytesSent)
	heartbeatsSent.Add(n.heartbeats)
	*n = counted{held: n.held, heldBefore: n.held}
}
