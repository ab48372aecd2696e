package bench

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestJSONHasNoHeaderValues(t *testing.T) {
	r := Result{Spec: Spec{Headers: http.Header{"Authorization": {"Bearer secret"}}}}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Contains(got, "secret") || !strings.Contains(got, "Authorization") {
		t.Errorf("want the header's name and not its value: %s", got)
	}
	if r.Spec.Headers.Get("Authorization") != "Bearer secret" {
		t.Error("writing changed the result")
	}
}

// Keys come from the other side: a server that closes with every code there is must not fill the tool's memory or its reports.
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

func TestTextSaysOnlyWhatIsKnown(t *testing.T) {
	r := Result{Spec: Spec{Scenario: Count, Conns: 53, Targets: strings.Fields(strings.Repeat("ws://a:1/ ", 53))}, Tool: ToolUsage{Processes: 2}}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"to ws://a:1/ ws://a:1/ ws://a:1/ … (53 URLs) (cut short: so far)\n", "this tool: 2 process(es)\n", "\n  ok so far\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %s", part, b.String())
		}
	}
}

func TestTextOfAServerMeasuredInPart(t *testing.T) {
	text := func(s ServerUsage) string {
		var b bytes.Buffer
		r := Result{Spec: Spec{Scenario: Count}, Server: &s, Counters: Counters{Ramped: 10}}
		s.derive(&r)
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	before := Usage{Processes: 1}
	if got := text(ServerUsage{Before: before}); !strings.Contains(got, "before") || strings.Contains(got, "growth") || strings.Contains(got, "handshake") {
		t.Errorf("measured before the ramp only, and yet: %s", got)
	}
	got := text(ServerUsage{Before: before, Idle: Usage{Processes: 1, Anon: 6000, CPUSeconds: 0.001}})
	for _, part := range []string{"growth per connection: 600 B idle; kernel 0 B (machine-wide, )\n", "CPU: 100.0 µs a handshake\n"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is not in %s", part, got)
		}
	}
	if strings.Contains(got, "after") || strings.Contains(got, "cores") {
		t.Errorf("not measured after the traffic, and yet: %s", got)
	}
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
		s := ServerUsage{Idle: Usage{Processes: 1, at: time.Unix(0, 0)}, After: Usage{CPUSeconds: 1, Processes: 1, at: time.Unix(4, 0)}, beats: 20_000}
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
