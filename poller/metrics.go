package poller

import (
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// Metrics is what the loops of one owner count together: see Config.Metrics. Any goroutine.
type Metrics struct {
	// loopLag is how late loops came to their timers: the time that callbacks kept all else
	// waiting.
	loopLag *Histogram

	// lingering is how many closed sockets still have unsent bytes for a peer that does not read.
	lingering atomic.Int64

	acceptErrors *metrics.Counter
	acceptNoFile *metrics.Counter
}

// NewMetrics makes the series of this package in a set that the caller exposes.
func NewMetrics(set *metrics.Set) *Metrics {
	m := &Metrics{
		loopLag:      set.NewPrometheusHistogramExt(`sluice_loop_lag_seconds`, DurationBuckets),
		acceptErrors: set.NewCounter(`sluice_errors_total{reason="accept"}`),
		acceptNoFile: set.NewCounter(`sluice_errors_total{reason="accept_descriptors"}`),
	}
	set.NewGauge(`sluice_sockets_lingering`, func() float64 { return float64(m.lingering.Load()) })
	return m
}

// unexposed are Metrics that nobody reads.
func unexposed() *Metrics { return NewMetrics(metrics.NewSet()) }

// DurationBuckets are upper bounds in seconds for what takes microseconds when all is well and
// seconds when it is not.
var DurationBuckets = []float64{
	.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5,
}

// Histogram is a Prometheus histogram. Its fixed buckets keep the number of series from depending
// on what clients do, as metrics.Histogram's would.
type Histogram = metrics.PrometheusHistogram

// NewHistogram makes a histogram and registers it with the process; bounds are upper bounds in
// increasing order. Updates take a lock, so it is for what happens once a handshake or a batch, and
// not for messages. Any goroutine.
func NewHistogram(name string, bounds []float64) *Histogram {
	return metrics.NewPrometheusHistogramExt(name, bounds)
}
