package sessions

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
)

// TestRedisWaitingResumesAreBounded uses a loop whose resolver never comes, so that what asks must wait.
func TestRedisWaitingResumesAreBounded(t *testing.T) {
	cfg, err := RedisConfig{PendingPerLoop: 3}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	l := &redisLoop{store: &Redis{cfg: cfg}, asked: make(chan struct{}, 1)}
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

// TestMetricsHaveNoClientLabels: the names, and that no label carries anything but a histogram's bucket.
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
		"sluice_redis_heals_total", "sluice_redis_commit_duration_seconds_count", "sluice_redis_commit_batch_size_count",
		"sluice_redis_cache_hits_total", "sluice_redis_cache_misses_total", "sluice_redis_cache_invalidations_total",
	} {
		if !strings.Contains(text, "\n"+name) && !strings.HasPrefix(text, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
	for _, label := range regexp.MustCompile(`sluice_(sessions|redis)\w*\{(\w+)=`).FindAllStringSubmatch(text, -1) {
		if label[2] != "le" {
			t.Errorf("a series has a label: %s", label[0])
		}
	}
}
