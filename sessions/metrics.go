package sessions

import (
	"fmt"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

// attachedOrKept counts what sluice_sessions shows: in memory, every session held (attached or
// idle); with Redis, the attachments of this process. An int64 and not a Gauge, whose Add is a
// float CAS loop.
var attachedOrKept atomic.Int64

// The series of this package, all of them from the start: their number depends on nothing that a
// client sends.
var (
	_ = metrics.NewGauge(`sluice_sessions`, func() float64 { return float64(attachedOrKept.Load()) })

	sessionsEvicted  = metrics.NewCounter(`sluice_sessions_evicted_total`)
	sessionsExpired  = metrics.NewCounter(`sluice_sessions_expired_total`)
	sessionsRejected = metrics.NewCounter(`sluice_sessions_rejected_total`)
)

// Written by many goroutines, read when metrics are: see the gauges below.
var (
	redisPending atomic.Int64 // messages added and not confirmed
	redisUp      atomic.Int64
)

var (
	_ = metrics.NewGauge(`sluice_redis_pending_messages`, func() float64 { return float64(redisPending.Load()) })
	_ = metrics.NewGauge(`sluice_redis_up`, func() float64 { return float64(redisUp.Load()) })

	redisCommits       = metrics.NewCounter(`sluice_redis_commits_total`)
	redisRetries       = metrics.NewCounter(`sluice_redis_commit_retries_total`)
	redisRefused       = metrics.NewCounter(`sluice_redis_commits_refused_total`)
	redisHeals         = metrics.NewCounter(`sluice_redis_heals_total`)
	redisCommitSeconds = newHistogram(`sluice_redis_commit_duration_seconds`, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5)
	redisBatchSize     = newHistogram(`sluice_redis_commit_batch_size`, 1, 2, 4, 8, 16, 32, 64, 128, 256, maxBatch)

	redisCacheHits     = metrics.NewCounter(`sluice_redis_cache_hits_total`)
	redisCacheMisses   = metrics.NewCounter(`sluice_redis_cache_misses_total`)
	redisInvalidations = metrics.NewCounter(`sluice_redis_cache_invalidations_total`)
)

// histogram has fixed buckets: metrics.Histogram makes a series for each range of values that it
// meets, and batch sizes are up to the clients. It is updated once a batch, so its buckets are
// plain counters, cumulative as they stand.
type histogram struct {
	bounds []float64
	within []*metrics.Counter
	all    *metrics.Counter
	count  *metrics.Counter
	sum    *metrics.FloatCounter
}

func newHistogram(name string, bounds ...float64) *histogram {
	h := &histogram{bounds: bounds}
	for _, bound := range bounds {
		h.within = append(h.within, metrics.NewCounter(fmt.Sprintf(`%s_bucket{le="%g"}`, name, bound)))
	}
	h.all = metrics.NewCounter(name + `_bucket{le="+Inf"}`)
	h.count, h.sum = metrics.NewCounter(name+`_count`), metrics.NewFloatCounter(name+`_sum`)
	return h
}

func (h *histogram) update(value float64) {
	for i, bound := range h.bounds {
		if value <= bound {
			h.within[i].Inc()
		}
	}
	h.all.Inc()
	h.count.Inc()
	h.sum.Add(value)
}
