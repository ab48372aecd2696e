package sessions

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// TestRedisWaitingResumesAreBounded uses a store whose resolver never comes, so that what asks
// must wait.
func TestRedisWaitingResumesAreBounded(t *testing.T) {
	cfg, err := RedisConfig{PendingPerLoop: 3}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := &Redis{cfg: cfg}
	s.instance.Store(newInstance())
	s.committers = []*committer{newCommitter(s)}
	l := &redisLoop{store: s}
	for i, refused := range []bool{false, false, false, true, true} {
		w := attach(l, NewID(), true)
		if (w.attached == 1) != refused || refused != errors.Is(w.err, ErrUnavailable) {
			t.Errorf("resume %d with at most 3 waiting: answered %v with %v, want refused = %v", i+1, w.attached == 1, w.err, refused)
		}
	}
	if w := attach(l, NewID(), false); w.err != nil || w.attached != 1 {
		t.Errorf("a new session waits for nothing: %v", w.err)
	}
}

// In a cluster with a server that is away some commits wait while others are taken. Each attempt
// at those that wait holds up the others for a deadline, so that the others are taken must not
// make the next one come sooner.
func TestRedisBackoffGrowsWhileSomeWait(t *testing.T) {
	c := newCommitter(&Redis{})
	for range 6 {
		c.backoff(false)
		c.report(true, errors.New("silent"))
		c.report(true, nil) // a batch of others
	}
	before := time.Now()
	c.backoff(false)
	if d := c.retryAt.Sub(before); d < maxBackoff/2 {
		t.Errorf("attempt 8 after %v, want about %v", d, maxBackoff)
	}
	c.report(false, nil)
	c.backoff(true)
	if d := time.Until(c.retryAt); d > minBackoff {
		t.Errorf("the first failure after a success is repeated after %v, want at most %v", d, minBackoff)
	}
}

// What left the queue is not kept by it.
func TestRedisQueueForgets(t *testing.T) {
	c := newCommitter(&Redis{})
	const n = 2*maxBatch + 1
	for range n {
		c.enqueue(&writer{committer: c})
	}
	all, taken := c.queue, 0
	for {
		batch, _ := c.gather(nil)
		if len(batch) == 0 {
			break
		}
		taken += len(batch)
	}
	if taken != n {
		t.Errorf("took %d of %d", taken, n)
	}
	for i, a := range all {
		if a != nil {
			t.Fatalf("writer %d of %d is still referred to", i, n)
		}
	}
}

// A batch gathers for the interval, unless it is full, the one before was a single commit, or the
// store is closed.
func TestRedisBatchesGather(t *testing.T) {
	for _, tc := range []struct {
		name   string
		before int // commits of the last batch
		queued int
		closed bool
		taken  int
	}{
		{"first", 0, 1, false, 1},
		{"after one", 1, 1, false, 1},
		{"after two", 2, 1, false, 0},
		{"one less than full", 2, maxBatch - 1, false, 0},
		{"full", 2, maxBatch, false, maxBatch},
		{"more than full", 2, maxBatch + 1, false, maxBatch},
		{"closed", 2, 1, true, 1},
		{"nothing", 2, 0, false, 0},
	} {
		c := newCommitter(&Redis{cfg: RedisConfig{CommitInterval: time.Hour}})
		c.began, c.size, c.closed = time.Now().Add(-time.Minute), tc.before, tc.closed
		for range tc.queued {
			c.enqueue(&writer{committer: c})
		}
		batch, wait := c.gather(nil)
		if len(batch) != tc.taken {
			t.Errorf("%s: %d commits taken, want %d", tc.name, len(batch), tc.taken)
		}
		if len(batch) == 0 && (wait <= 0 || wait > 59*time.Minute) {
			t.Errorf("%s: waits %v, want until the interval is over", tc.name, wait)
		}
		c.began = time.Now().Add(-time.Hour)
		if batch, _ := c.gather(nil); len(batch) != tc.queued-tc.taken {
			t.Errorf("%s: %d commits taken after the interval, want %d", tc.name, len(batch), tc.queued-tc.taken)
		}
	}
}

// TestMetricsHaveNoClientLabels: the names, and that labels have the values that are written here
// and no others, but for a histogram's buckets.
func TestMetricsHaveNoClientLabels(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l := newTestLoop(t, s)
	for range 20 {
		m := l.join(t, NewID(), true)
		m.add(1)
		if _, err := m.leave(); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	metrics.WritePrometheus(&b, false)
	text := b.String()
	for _, name := range []string{
		"sluice_sessions", "sluice_sessions_evicted_total", "sluice_sessions_expired_total", "sluice_sessions_rejected_total",
		"sluice_redis_up 1", "sluice_redis_pending_messages 0", "sluice_redis_commits_total", "sluice_redis_commit_retries_total",
		"sluice_redis_commits_refused_total", "sluice_redis_heals_total", "sluice_redis_commit_duration_seconds_count", "sluice_redis_commit_batch_size_count",
		"sluice_redis_cache_hits_total", "sluice_redis_cache_misses_total", "sluice_redis_cache_invalidations_total",
	} {
		if !strings.Contains(text, "\n"+name) && !strings.HasPrefix(text, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
	known := map[string]string{"segment": "fresh kept"}
	for _, label := range regexp.MustCompile(`sluice_(?:sessions|redis)\w*\{([^}]*)\}`).FindAllStringSubmatch(text, -1) {
		for pair := range strings.SplitSeq(label[1], ",") {
			name, value, _ := strings.Cut(pair, "=")
			if name != "le" && !slices.Contains(strings.Fields(known[name]), strings.Trim(value, `"`)) {
				t.Errorf("a series has a label that this test does not know: %s", label[0])
			}
		}
	}
}
