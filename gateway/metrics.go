package gateway

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

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
func WriteMetrics(w io.Writer) { metrics.WritePrometheus(w, true) }
