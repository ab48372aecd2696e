package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that moves only when told.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) advance(d time.Duration) { c.mu.Lock(); c.t = c.t.Add(d); c.mu.Unlock() }

func logLines(t *testing.T, text string) (lines []map[string]any) {
	t.Helper()
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		if l == "" {
			continue
		}
		m := map[string]any{}
		if err := json.Unmarshal([]byte(l), &m); err != nil {
			t.Fatalf("log line %q is not JSON: %v", l, err)
		}
		lines = append(lines, m)
	}
	return lines
}

func newTestThrottle() (*slog.Logger, *throttle, *clock, *bytes.Buffer) {
	var out bytes.Buffer
	c := &clock{t: time.Unix(1_000_000, 0)}
	th := newThrottle(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), c.now)
	return slog.New(th), th, c, &out
}

func TestThrottlePassesAFewThenOneAWindow(t *testing.T) {
	log, _, c, out := newTestThrottle()
	for i := range 1000 {
		log.Warn("accept failed", "i", i)
	}
	if got := len(logLines(t, out.String())); got != throttleBurst {
		t.Fatalf("first window: got %d lines, want %d", got, throttleBurst)
	}
	out.Reset()

	c.advance(throttleWindow - 1)
	log.Warn("accept failed")
	if out.Len() != 0 {
		t.Fatalf("before the window ends: got %q, want nothing", out)
	}

	c.advance(1)
	for range 10 {
		log.Warn("accept failed")
	}
	lines := logLines(t, out.String())
	if len(lines) != 1 || lines[0]["suppressed"] != float64(1000-throttleBurst+1) {
		t.Fatalf("second window: got %v, want one line with suppressed=%d", lines, 1000-throttleBurst+1)
	}
	out.Reset()

	c.advance(throttleWindow)
	log.Warn("accept failed")
	lines = logLines(t, out.String())
	if len(lines) != 1 || lines[0]["suppressed"] != float64(9) {
		t.Fatalf("third window: got %v, want one line with suppressed=9", lines)
	}
	out.Reset()

	// A quiet window gives the full burst back.
	c.advance(throttleWindow)
	for range 20 {
		log.Warn("accept failed")
	}
	if got := len(logLines(t, out.String())); got != throttleBurst {
		t.Fatalf("after a quiet window: got %d lines, want %d", got, throttleBurst)
	}
}

func TestThrottleKeepsMessagesAndLevelsApart(t *testing.T) {
	log, _, _, out := newTestThrottle()
	for range 100 {
		log.Info("connected")
		log.Debug("frame")
		log.Warn("slow")
		log.Error("slow")
		log.With("loop", 1).WithGroup("g").Warn("slow") // the same message, so the same budget
	}
	count := map[string]int{}
	for _, l := range logLines(t, out.String()) {
		count[fmt.Sprint(l["level"], " ", l["msg"])]++
	}
	want := map[string]int{"INFO connected": 100, "DEBUG frame": 100, "WARN slow": throttleBurst, "ERROR slow": throttleBurst}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", count, want)
	}
}

func TestThrottleFlushTellsWhatIsHeldBack(t *testing.T) {
	log, th, _, out := newTestThrottle()
	for range throttleBurst + 7 {
		log.Error("redis: refused")
	}
	log.Error("once")
	out.Reset()
	th.flush(context.Background())
	lines := logLines(t, out.String())
	if len(lines) != 1 || lines[0]["msg"] != "redis: refused" || lines[0]["suppressed"] != float64(7) {
		t.Fatalf("got %v, want one line with suppressed=7", lines)
	}
	out.Reset()
	th.flush(context.Background())
	if out.Len() != 0 {
		t.Errorf("second flush: got %q, want nothing", out)
	}
}

func TestThrottleIsBoundedAndConcurrent(t *testing.T) {
	log, th, _, _ := newTestThrottle()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range throttleMessages {
				log.Warn(fmt.Sprintf("message %d of %d", i, g))
			}
		})
	}
	wg.Wait()
	if got := len(th.state.seen); got > throttleMessages {
		t.Errorf("got %d messages remembered, want at most %d", got, throttleMessages)
	}
}

func TestLoggerLevelAndFormat(t *testing.T) {
	var out bytes.Buffer
	log, _, _ := newLogger(&out, "warn", "json")
	log.Info("no")
	log.Warn("yes")
	if lines := logLines(t, out.String()); len(lines) != 1 || lines[0]["msg"] != "yes" {
		t.Errorf("json at warn: got %v, want the warning only", lines)
	}
	out.Reset()
	log, _, _ = newLogger(&out, "debug", "text")
	log.Debug("all", "k", "a b")
	if got := out.String(); !strings.Contains(got, `level=DEBUG msg=all k="a b"`) {
		t.Errorf("text at debug: got %q", got)
	}
}
