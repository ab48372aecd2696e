package sessions

import (
	"sync"
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

	sessionsEvicted = [segments]*metrics.Counter{
		fresh: metrics.NewCounter(`sluice_sessions_evicted_total{segment="fresh"}`),
		kept:  metrics.NewCounter(`sluice_sessions_evicted_total{segment="kept"}`),
	}
	sessionsIdle [segments]atomic.Int64 // in memory
	_            = metrics.NewGauge(`sluice_sessions_idle{segment="fresh"}`, func() float64 { return float64(sessionsIdle[fresh].Load()) })
	_            = metrics.NewGauge(`sluice_sessions_idle{segment="kept"}`, func() float64 { return float64(sessionsIdle[kept].Load()) })

	sessionsExpired  = metrics.NewCounter(`sluice_sessions_expired_total`)
	sessionsRejected = metrics.NewCounter(`sluice_sessions_rejected_total`)
)

// Written by many goroutines, read when metrics are: see the gauges below.
var (
	redisPending atomic.Int64 // messages added and not confirmed
	redisUp      atomic.Int64
)

// showRedisUp adds sluice_redis_up, which a process that keeps its sessions in memory does not
// have: 0 would be a false alarm there.
var showRedisUp = sync.OnceFunc(func() {
	metrics.NewGauge(`sluice_redis_up`, func() float64 { return float64(redisUp.Load()) })
})

var (
	_ = metrics.NewGauge(`sluice_redis_pending_messages`, func() float64 { return float64(redisPending.Load()) })

	redisCommits       = metrics.NewCounter(`sluice_redis_commits_total`)
	redisRetries       = metrics.NewCounter(`sluice_redis_commit_retries_total`)
	redisRefused       = metrics.NewCounter(`sluice_redis_commits_refused_total`)
	redisHeals         = metrics.NewCounter(`sluice_redis_heals_total`)
	redisCommitSeconds = metrics.NewPrometheusHistogramExt(`sluice_redis_commit_duration_seconds`, []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5})
	redisBatchSize     = metrics.NewPrometheusHistogramExt(`sluice_redis_commit_batch_size`, []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, maxBatch})

	redisCacheHits     = metrics.NewCounter(`sluice_redis_cache_hits_total`)
	redisCacheMisses   = metrics.NewCounter(`sluice_redis_cache_misses_total`)
	redisInvalidations = metrics.NewCounter(`sluice_redis_cache_invalidations_total`)
)
