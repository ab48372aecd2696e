package poller

import "github.com/VictoriaMetrics/metrics"

var (
	// loopLag is how late the loop came to its timers: the time its callbacks kept everything else waiting.
	loopLag = NewHistogram(`sluice_loop_lag_seconds`, DurationBuckets)

	acceptErrors = metrics.NewCounter(`sluice_errors_total{reason="accept"}`)
	acceptNoFile = metrics.NewCounter(`sluice_errors_total{reason="accept_descriptors"}`)
)
