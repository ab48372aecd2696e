package load

import (
	"strconv"
	"testing"
	"time"

	"sluice/bench/procfs"
)

// Keys come from the other side: a server that closes with every code there is must not fill the
// tool's memory or its reports.
func TestKindsAreBounded(t *testing.T) {
	m := map[string]int64{}
	for i := range 1000 {
		count(m, strconv.Itoa(3000+i), "others")
		count(m, "3000", "others")
	}
	want(t, "kinds", int64(len(m)), kinds+1)
	want(t, "others", m["others"], 1000-kinds)
	want(t, "a known one", m["3000"], 1001)
}

func TestSlowFraction(t *testing.T) {
	for _, targets := range []int{1, 2, 5} {
		for _, share := range []float64{0.01, 0.1, 0.3, 0.5, 0.6, 0.9} {
			s := Spec{Targets: make([]string, targets), SlowFraction: share}
			slow := make([]int, targets)
			for i := range 1000 * targets {
				if s.isSlow(i) {
					slow[i%targets]++
				}
			}
			for _, n := range slow {
				if want := int(1000*share + 0.5); n < want-1 || n > want {
					t.Errorf("%d of 1000 clients of each of %d targets do not read, want %d", n, targets, want)
				}
			}
		}
	}
}

func TestCPUIsCountedForWhatItWentInto(t *testing.T) {
	for scenario, want := range map[Scenario][3]float64{ // a message, a heartbeat, a visit
		Count: {10}, Echo: {10}, Slow: {}, Idle: {0, 50, 0}, Churn: {0, 0, 25}, Resume: {0, 0, 25}, Storm: {0, 0, 20},
	} {
		s := ServerUsage{Idle: procfs.Usage{Processes: 1, At: time.Unix(0, 0)}, After: procfs.Usage{CPUSeconds: 1, Processes: 1, At: time.Unix(4, 0)}, beats: 20_000}
		r := Result{Spec: Spec{Scenario: scenario}, Counters: Counters{Ramped: 1000, Opened: 1000, Replies: 100_000, Churned: 40_000, Beats: 30_000}}
		if r.Spec.visits() || scenario == Storm {
			r.Counters.Opened = 51_000
		}
		s.derive(&r)
		if got := [3]float64{s.CPUPerMessageUS, s.CPUPerBeatUS, s.CPUPerVisitUS}; got != want {
			t.Errorf("%s: got %v, want %v", scenario, got, want)
		}
		r.Counters.Opened++ // one came back
		s.CPUPerMessageUS = 0
		if s.derive(&r); s.CPUPerMessageUS != 0 {
			t.Errorf("%s: %v µs a message, with handshakes in it", scenario, s.CPUPerMessageUS)
		}
		if s.CPUTrafficCores != 0.25 { // a second in the four between the samples
			t.Errorf("%s: got %.3f cores, want 0.250", scenario, s.CPUTrafficCores)
		}
	}
}
