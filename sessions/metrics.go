package sessions

import (
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// attachedOrKept counts what sluice_sessions shows: in memory, every session held (attached or idle);
// with Redis, the attachments of this process. An int64 and not a Gauge, whose Add is a float CAS loop.
var attachedOrKept atomic.Int64

// The series of this package, all of them from the start: their number depends on nothing that a client sends.
var (
	_ = metrics.NewGauge(`sluice_sessions`, func() float64 { return float64(attachedOrKept.Load()) })

	sessionsEvicted  = metrics.NewCounter(`sluice_sessions_evicted_total`)
	sessionsExpired  = metrics.NewCounter(`sluice_sessions_expired_total`)
	sessionsRejected = metrics.NewCounter(`sluice_sessions_rejected_total`)
)
