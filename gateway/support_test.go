package gateway

import (
	"testing"
	"time"

	"github.com/VictoriaMetrics/metrics"
)

// onLoops runs fn on every loop of s, one after the other, and returns when the rounds it ran in have handled everything posted
// before. It is how a test looks at what belongs to a loop.
func onLoops(s *Server, fn func(w *worker)) {
	for _, w := range s.workers {
		done := make(chan struct{})
		if !w.loop.Post(func() { fn(w); close(done) }) {
			continue
		}
		<-done
	}
}

// await polls for a condition that nothing reports. It is for states on the far side of a socket.
func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(testPatience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", testPatience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// counting returns how much c grows from here on.
func counting(c *metrics.Counter) func() uint64 {
	before := c.Get()
	return func() uint64 { return c.Get() - before }
}
