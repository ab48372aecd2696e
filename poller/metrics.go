package poller

import "github.com/VictoriaMetrics/metrics"

var (
	// loopLag is how late the loop came to its timers: the time its callbacks kept everything else waiting.
	loopLag = NewHistogram(`sluice_loop_lag_seconds`, DurationBuckets)

	// Sockets that were closed but keep unsent bytes for a peer that does not read.
	_ = metrics.NewGauge(`sluice_sockets_lingering`, func() float64 { return float64(lingering.Load()) })

	acceptErrors = metrics.NewCounter(`sluice_errors_total{reason="accept"}`)
	acceptNoFile = metrics.NewCounter(`sluice_errors_total{reason="accept_descriptors"}`)
)

// DurationBuckets are upper bounds in seconds for what takes microseconds when all is well and seconds
// when it is not.
var DurationBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// Histogram is a Prometheus histogram. Its fixed buckets keep the number of series from depending on
// what clients do, as metrics.Histogram's would.
type Histogram = metrics.PrometheusHistogram

// NewHistogram makes and registers a histogram; bounds are upper bounds in increasing order. Updates take
// a lock, so it is for what happens once a handshake or a batch, and not for messages. Any goroutine.
func NewHistogram(name string, bounds []float64) *Histogram {
	return metrics.NewPrometheusHistogramExt(name, bounds)
}
