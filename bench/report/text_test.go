package report

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"sluice/bench/load"
	"sluice/bench/procfs"
)

func TestJSONHasNoHeaderValues(t *testing.T) {
	r := load.Result{Spec: load.Spec{Headers: http.Header{"Authorization": {"Bearer secret"}}}}
	var b bytes.Buffer
	if err := WriteJSON(&b, &r); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Contains(got, "secret") || !strings.Contains(got, "Authorization") {
		t.Errorf("want the header's name and not its value: %s", got)
	}
	if r.Spec.Headers.Get("Authorization") != "Bearer secret" {
		t.Error("writing changed the result")
	}
}

func TestTextSaysOnlyWhatIsKnown(t *testing.T) {
	r := load.Result{Spec: load.Spec{Scenario: load.Count, Conns: 53, Targets: strings.Fields(strings.Repeat("ws://a:1/ ", 53))}, Tool: load.ToolUsage{Loops: 2}}
	var b bytes.Buffer
	if err := WriteText(&b, &r); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"to ws://a:1/ ws://a:1/ ws://a:1/ … (53 URLs) (cut short: so far)\n", "this tool: 2 loops\n", "\n  ok so far\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %s", part, b.String())
		}
	}
}

func TestTextOfAServerMeasuredInPart(t *testing.T) {
	text := func(s load.ServerUsage) string {
		var b bytes.Buffer
		r := load.Result{Spec: load.Spec{Scenario: load.Count}, Server: &s, Counters: load.Counters{Ramped: 10}}
		if err := WriteText(&b, &r); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	before := procfs.Usage{Processes: 1}
	if got := text(load.ServerUsage{Before: before}); !strings.Contains(got, "before") || strings.Contains(got, "memory per") || strings.Contains(got, "handshake") {
		t.Errorf("measured before the ramp only, and yet: %s", got)
	}
	got := text(load.ServerUsage{Before: before, Idle: procfs.Usage{Processes: 1},
		UserIdlePerConn: 600, CPUPerHandshakeUS: 100})
	for _, part := range []string{"memory per connection: 600 B idle; kernel – (machine-wide, )\n", "CPU: 100.0 µs a handshake\n"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is not in %s", part, got)
		}
	}
	if strings.Contains(got, "after") || strings.Contains(got, "cores") {
		t.Errorf("not measured after the traffic, and yet: %s", got)
	}
}

// One message in a second is one a second, not 0.999.
func TestRatesAreRounded(t *testing.T) {
	r := load.Result{TrafficSeconds: 1.001, Counters: load.Counters{Sent: 1, Replies: 1, Timely: 1}}
	var b bytes.Buffer
	if err := WriteText(&b, &r); err != nil || !strings.Contains(b.String(), "1 sent, 1 answered in 1.00 s, 1/s") {
		t.Errorf("error %v; want 1/s in %s", err, &b)
	}
}
