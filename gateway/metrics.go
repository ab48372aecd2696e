package gateway

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway/tlsserver"
	"sluice/poller"
)

// Every series there will ever be is made before the first client: what clients send can add to
// none of the labels.

// Times of the process, in nanoseconds; 0 until it has happened.
var startupTime, shutdownTime atomic.Int64

var (
	_ = metrics.NewGauge(`sluice_startup_seconds`, func() float64 {
		return time.Duration(startupTime.Load()).Seconds()
	})
	_ = metrics.NewGauge(`sluice_shutdown_seconds`, func() float64 {
		return time.Duration(shutdownTime.Load()).Seconds()
	})
	_ = metrics.NewGauge(buildInfo(), func() float64 { return 1 })
)

func buildInfo() string {
	b := ReadBuild()
	return fmt.Sprintf(`sluice_build_info{version=%q,commit=%q,go=%q}`, b.Version, b.Commit, b.Go)
}

// SetStartup records how long the process took from its start until it was ready. Any goroutine.
func SetStartup(d time.Duration) { startupTime.Store(int64(d)) }

// SetShutdown records how long the drain took. Any goroutine.
func SetShutdown(d time.Duration) { shutdownTime.Store(int64(d)) }

func init() { metrics.ExposeMetadata(true) }

// WriteMetrics writes what the process has beside its Servers, as Prometheus text: session stores,
// applications, the Go runtime and the operating system. Any goroutine.
func WriteMetrics(w io.Writer) {
	var text bytes.Buffer
	metrics.WritePrometheus(&text, true)
	metrics.WriteFDMetrics(&text)
	_, _ = helpWriter{w}.Write(text.Bytes())
}

// WriteMetrics writes the Server's metrics and then those of the process, as Prometheus text. Two
// Servers have the same series, so each needs an address of its own to be read at. Any goroutine.
func (s *Server) WriteMetrics(w io.Writer) {
	s.WriteSeries(helpWriter{w})
	WriteMetrics(w)
}

// WriteSeries writes the Server's own metrics alone, as Prometheus text without help. Any
// goroutine.
func (s *Server) WriteSeries(w io.Writer) {
	var text bytes.Buffer
	s.metrics.collect(s.workers)
	s.metrics.set.WritePrometheus(&text)
	_, _ = w.Write(text.Bytes())
}

// serverMetrics are those of one Server.
type serverMetrics struct {
	set   *metrics.Set
	loops *poller.Metrics

	connections       atomic.Int64 // WebSockets that are open
	connectionsTotal  *metrics.Counter
	compressed        *metrics.Counter // connections with compression
	movedIn, movedOut *metrics.Counter // connections of and to another process
	passedOn          *metrics.Counter // sockets that a loop gave to another
	handshakeTime     *poller.Histogram

	refused       [refusalReasons]*metrics.Counter
	failed        [failures]*metrics.Counter
	slowConsumers [slowReasons]*metrics.Counter
	closes        [closeSeries]*metrics.Counter
	barred        [barriers]*metrics.Counter
	proxied       [proxieds]*metrics.Counter
	tlsHandshakes [tlsResults]*metrics.Counter

	// Sums of what the loops count, as of the last collect.
	messagesReceived, messagesSent *metrics.Counter
	bytesReceived, bytesSent       *metrics.Counter
	heartbeatsSent                 *metrics.Counter
	buffered                       atomic.Int64
}

func newServerMetrics(maxConns int) *serverMetrics {
	set := metrics.NewSet()
	m := &serverMetrics{
		set:              set,
		loops:            poller.NewMetrics(set),
		connectionsTotal: set.NewCounter(`sluice_connections_total`),
		movedIn:          set.NewCounter(`sluice_connections_moved_total{direction="in"}`),
		movedOut:         set.NewCounter(`sluice_connections_moved_total{direction="out"}`),
		passedOn:         set.NewCounter(`sluice_connections_passed_on_total`),
		compressed:       set.NewCounter(`sluice_connections_compressed_total`),
		handshakeTime: set.NewPrometheusHistogramExt(
			`sluice_handshake_duration_seconds`, poller.DurationBuckets),
		messagesReceived: set.NewCounter(`sluice_messages_received_total`),
		messagesSent:     set.NewCounter(`sluice_messages_sent_total`),
		bytesReceived:    set.NewCounter(`sluice_bytes_received_total`),
		bytesSent:        set.NewCounter(`sluice_bytes_sent_total`),
		heartbeatsSent:   set.NewCounter(`sluice_heartbeats_sent_total`),
	}
	gauge := func(name string, value func() int64) {
		set.NewGauge(name, func() float64 { return float64(value()) })
	}
	gauge(`sluice_connections`, m.connections.Load)
	gauge(`sluice_max_connections`, func() int64 { return int64(maxConns) })
	gauge(`sluice_buffered_bytes`, m.buffered.Load)
	counters := func(format string, series []*metrics.Counter, label func(i int) string) {
		for i := range series {
			series[i] = set.NewCounter(fmt.Sprintf(format, label(i)))
		}
	}
	// The series keeps the name that it was published under; everywhere else the word is "refused".
	counters(`sluice_handshakes_rejected_total{reason=%q}`, m.refused[:],
		func(i int) string { return refusalReason(i).String() })
	counters(`sluice_errors_total{reason=%q}`, m.failed[:],
		func(i int) string { return failure(i).String() })
	counters(`sluice_slow_consumers_total{reason=%q}`, m.slowConsumers[:],
		func(i int) string { return slowReason(i).String() })
	counters(`sluice_addresses_barred_total{reason=%q}`, m.barred[1:],
		func(i int) string { return barrier(i + 1).String() })
	counters(`sluice_proxied_total{result=%q}`, m.proxied[:],
		func(i int) string { return proxied(i).String() })
	counters(`sluice_tls_handshakes_total{result=%q}`, m.tlsHandshakes[:],
		func(i int) string { return tlsResult(i).String() })
	counters(`sluice_closes_total{code=%q}`, m.closes[:], closeLabel)
	return m
}

// describe adds what the server says of itself.
func (m *serverMetrics) describe(s *Server) {
	m.set.NewGauge(`sluice_ready`, func() float64 {
		if s.Ready() != nil {
			return 0
		}
		return 1
	})
	m.set.NewGauge(`sluice_max_buffered_bytes`, func() float64 {
		return float64(s.cfg.MaxBuffered)
	})
}

// describeTLS adds what is known of the certificates.
func (m *serverMetrics) describeTLS(tls *tlsserver.Server) {
	m.set.NewGauge(`sluice_tls_certificate_expiry_seconds`, func() float64 {
		return float64(tls.NotAfter().Unix())
	})
}

// closeSeries is how many series sluice_closes_total has: one for each code that a registered peer
// or the gateway uses, 1000 to 1014 without 1004, and one for the rest, which has the place of
// 1004.
const (
	closeSeries = 15
	closeOther  = 4
)

func closeLabel(i int) string {
	if i == closeOther {
		return "other"
	}
	return fmt.Sprint(1000 + i)
}

// countClose counts the end of a WebSocket by its Close frame's code; 0, no frame at all, is 1006
// (RFC 6455, section 7.1.5).
func (m *serverMetrics) countClose(code uint16) {
	i := closeOther
	switch {
	case code == 0:
		i = 6
	case code >= 1000 && code < 1000+closeSeries:
		i = int(code - 1000)
	}
	m.closes[i].Inc()
}

// collect adds up what the loops have counted.
func (m *serverMetrics) collect(workers []*worker) {
	var sum loopTotals
	for _, w := range workers {
		sum.add(w.published.load())
	}
	m.messagesReceived.Set(uint64(sum.messagesReceived))
	m.messagesSent.Set(uint64(sum.messagesSent))
	m.bytesReceived.Set(uint64(sum.bytesReceived))
	m.bytesSent.Set(uint64(sum.bytesSent))
	m.heartbeatsSent.Set(uint64(sum.heartbeats))
	m.buffered.Store(int64(sum.buffered))
}
