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
	redisHeals         = metrics.NewCounter(`sluice_redis_heals_total`)
	redisCommitSeconds = metrics.NewHistogram(`sluice_redis_commit_duration_seconds`)
	redisBatchSize     = metrics.NewHistogram(`sluice_redis_commit_batch_size`)

	redisCacheHits     = metrics.NewCounter(`sluice_redis_cache_hits_total`)
	redisCacheMisses   = metrics.NewCounter(`sluice_redis_cache_misses_total`)
	redisInvalidations = metrics.NewCounter(`sluice_redis_cache_invalidations_total`)
)
