package tlsserver

import (
	"github.com/VictoriaMetrics/metrics"

	"sluice/poller"
)

var (
	reloads      = metrics.NewCounter(`sluice_tls_reloads_total{result="ok"}`)
	reloadErrors = metrics.NewCounter(`sluice_tls_reloads_total{result="error"}`)

	// handshakeTime is from the turn of the ClientHello to the end, the peer's time included.
	handshakeTime = poller.NewHistogram(
		`sluice_tls_handshake_duration_seconds`, poller.DurationBuckets)
)
