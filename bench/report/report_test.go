package report

import (
	"bytes"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/bench/load"
	"sluice/bench/procfs"
	"sluice/bench/units"

	hdr "github.com/HdrHistogram/hdrhistogram-go"
)

// hostile must never reach the page as it is.
const hostile = `"><script>console.error('x')</script>`

func latency(t testing.TB, n int, median float64) load.Latency {
	t.Helper()
	h := hdr.New(1, 600_000_000, 3)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for range n {
		if err := h.RecordValue(int64(median*math.Exp(r.NormFloat64()*0.5)) + 1); err != nil {
			t.Fatal(err)
		}
	}
	code, err := h.Encode(hdr.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	q := h.ValueAtQuantile
	return load.Latency{Count: h.TotalCount(), MinUS: h.Min(), MeanUS: h.Mean(), P50US: q(50), P75US: q(75), P90US: q(90),
		P95US: q(95), P99US: q(99), P999US: q(99.9), P9999: q(99.99), MaxUS: h.Max(), HDR: code}
}

func sample(t testing.TB) *load.Result {
	r := &load.Result{
		Spec: load.Spec{Targets: []string{"ws://127.0.0.1:8000/ws/chat/?" + hostile}, Scenario: load.Count, Conns: 10000,
			Ramp: 4000, Window: 64, Duration: 10 * time.Second, Payload: 32, Headers: http.Header{"Authorization": {"secret-token"}}},
		Started:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Machine:     procfs.Machine{CPUs: 2, CPU: "Some CPU <3", MemoryB: 24 << 30, Kernel: "6.1", GoVersion: "go1.26"},
		Complete:    true,
		RampSeconds: 2.5, TrafficSeconds: 10,
		Counters: load.Counters{Attempts: 10010, Opened: 10000, Ramped: 10000, Open: 10000, Sent: 700000, Replies: 700000,
			Reasons: map[string]int64{hostile: 10, "refused": 3, "reset": 3}},
		Connect: latency(t, 10000, 80), Handshake: latency(t, 10001, 300), Message: latency(t, 700000, 800), Lag: latency(t, 5000, 10),
		Server: &load.ServerUsage{UserIdlePerConn: 580, UserAfterPerConn: 585, CPUPerHandshakeUS: 12.2, CPUPerMessageUS: 5.4},
	}
	for i := 0; i <= 30; i++ {
		p := load.Point{Seconds: float64(i) / 2, Open: min(int64(i)*2000, 10000), Failed: int64(i / 3), ServerCP: 0.4, ServerMB: 12}
		if i > 5 {
			p.RateHz, p.P50US, p.P99US, p.MaxUS = 70000+float64(i%3)*900, 800, 2500, 9000
		}
		r.Timeline = append(r.Timeline, p)
	}
	return r
}

func render(t testing.TB, r *load.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if dir := os.Getenv("REPORT_DIR"); dir != "" { // to look at it
		os.WriteFile(filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_")+".html"), b.Bytes(), 0o644)
	}
	return b.String()
}

func TestPageClaimsOnlyWhatWasLookedAt(t *testing.T) {
	r := sample(t)
	for _, tc := range []struct {
		noVerify bool
		slo      []load.Objective
		want     string
	}{
		{false, nil, "nothing lost, nothing twice."},
		{true, nil, "nothing lost."},
		{true, []load.Objective{{Metric: "message", Percentile: 99, Limit: time.Second}}, "nothing lost, nothing late."},
	} {
		r.Spec.NoVerify, r.Spec.SLO = tc.noVerify, tc.slo
		if got := render(t, r); !strings.Contains(got, "All as it should be: "+tc.want) {
			t.Errorf("unverified %t, objectives %v: the page lacks %q", tc.noVerify, tc.slo, tc.want)
		}
	}
	// Interrupted during the ramp: of the server there is no more than the first sample.
	r.Server = &load.ServerUsage{Before: procfs.Usage{Processes: 1, RSS: 1 << 20, PSS: 1 << 20, USS: 1 << 20, Anon: 1 << 20, KernelTCP: 1 << 20, KernelSlab: 1 << 20}}
	if got := render(t, r); strings.Contains(got, "0 B") {
		t.Error("the page shows memory of 0 B where nothing was measured")
	}
}

func TestPageHoldsWhatWasFound(t *testing.T) {
	page := render(t, sample(t))
	for _, want := range []string{"10,000 connections", "All as it should be", "580 B", "700,000", "p99.99", "refused", "Authorization"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if got := strings.Count(page, `<svg class="chart"`); got != 6 {
		t.Errorf("%d charts, want 6", got)
	}
}

func TestPageEscapesAndTellsNoSecrets(t *testing.T) {
	r := sample(t)
	r.Failures = []string{hostile}
	r.Spec.Scenario = hostile
	page := render(t, r)
	if strings.Contains(page, "<script") {
		t.Error("text from the result became markup")
	}
	if strings.Contains(page, "secret-token") {
		t.Error("the value of a header is on the page")
	}
	if !strings.Contains(page, "The run failed.") {
		t.Error("the page does not say that the run failed")
	}
	svg, err := Bars{Chart: Chart{Title: hostile, Subtitle: hostile, Width: 400},
		Kinds: []string{hostile, "b"}, Rows: []Bar{{Name: hostile, Values: []Value{{V: 1}, {V: 2}}}}}.SVG()
	if err != nil || strings.Contains(string(svg), "<script") {
		t.Errorf("a chart's text became markup (%v)", err)
	}
}

func TestPageNeedsNothingElse(t *testing.T) {
	page := render(t, sample(t))
	for _, no := range []string{"src=", "http-equiv=\"refresh", "@import", "url(", "<script", "<iframe"} {
		if strings.Contains(page, no) {
			t.Errorf("the page contains %q", no)
		}
	}
}

func TestEmptyAndInterruptedRuns(t *testing.T) {
	if page := render(t, &load.Result{}); !strings.Contains(page, "interrupted") {
		t.Error("an interrupted run is not called so")
	}
	r := sample(t)
	r.Message.HDR = []byte("rubbish")
	if err := WriteHTML(new(bytes.Buffer), r); err == nil {
		t.Error("a histogram that cannot be read: no error")
	}
	r.Message.HDR = nil // the named percentiles must do
	render(t, r)
}

func TestPercentileCurveRisesToTheLastValue(t *testing.T) {
	l := latency(t, 100000, 500)
	points, err := PercentileCurve(l)
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(points); i++ {
		if points[i].X <= points[i-1].X || points[i].Y < points[i-1].Y {
			t.Fatalf("point %d %v does not come after %v", i, points[i], points[i-1])
		}
	}
	if last := points[len(points)-1]; last.Y < float64(l.P9999) || last.X >= 100 {
		t.Errorf("the last point is %v; p99.99 is %d", last, l.P9999)
	}
}

func TestStandaloneBringsItsColours(t *testing.T) {
	chart, err := Bars{Chart: Chart{Title: "T", Width: 400}, Rows: []Bar{{Name: "a", Values: []Value{{V: 1}}}}}.SVG()
	if err != nil {
		t.Fatal(err)
	}
	svg := Standalone(chart, chart)
	for _, want := range []string{`width="812"`, `x="412"`, "--ink:#", "prefers-color-scheme:dark", "var(--s0)", "</svg>"} {
		if !strings.Contains(svg, want) {
			t.Errorf("the file does not contain %q", want)
		}
	}
}

// Every colour of the drawing must be one of the theme's, or it would not follow the reader's
// choice.
func TestEveryColourIsThemed(t *testing.T) {
	r := sample(t)
	charts, err := resultCharts(r)
	if err != nil {
		t.Fatal(err)
	}
	bars, err := Bars{Chart: Chart{Title: "T", Width: 400}, Kinds: []string{"x", "y"},
		Rows: []Bar{{Name: "a", Color: 9, Values: []Value{{V: 1}, {V: 2, Low: 1, High: 3}}}, {Name: "b", Values: []Value{{V: math.NaN()}}}}}.SVG()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(charts, bars) {
		if i := strings.Index(strings.ReplaceAll(string(c), "&#", ""), "#"); i >= 0 {
			t.Errorf("a fixed colour is left: %.30s", string(c)[i:])
		}
	}
}

func TestChartsWithNothingToShow(t *testing.T) {
	for name, c := range map[string]drawing{
		"no curve": Lines{Chart: Chart{Width: 100, Height: 100}},
		"log zero": Lines{Chart: Chart{Width: 100, Height: 100}, Y: Axis{Scale: Log}, Curves: []Curve{{Points: []XY{{X: 1, Y: 0}}}}},
		"no rows":  Bars{Chart: Chart{Width: 100}},
	} {
		if _, err := c.SVG(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// One point, and values that are all the same, still make a chart.
	for _, points := range [][]XY{{{X: 1, Y: 5}}, {{X: 1, Y: 0}, {X: 2, Y: 0}}, {{X: 1e9, Y: -1e9}, {X: 2e9, Y: 1e9}}} {
		if _, err := (Lines{Chart: Chart{Width: 300, Height: 200}, Curves: []Curve{{Points: points}}}).SVG(); err != nil {
			t.Errorf("%v: %v", points, err)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		scale  Scale
		lo, hi float64
		want   string
	}{
		{Linear, 0, 10, "0 2 4 6 8 10"},
		{Linear, 0, 19000, "0 5k 10k 15k"},
		{Linear, -3, 3, "-2 0 2"},
		{Log, 0, 4, "1 10 100 1k 10k"},
		{Percentiles, 0, 4, "0 50 90 99 99.9 100"},
	} {
		var got []string
		for _, tick := range c.scale.ticks(c.lo, c.hi, units.Compact) {
			if tick.Label != "" {
				got = append(got, tick.Label)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("ticks of %v from %v to %v: %v, want %v", c.scale, c.lo, c.hi, got, c.want)
		}
	}
}
