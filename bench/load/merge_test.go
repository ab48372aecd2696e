package load

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// Two runs at one time, merged after a trip through JSON, are what one run over both would be.
func TestMerge(t *testing.T) {
	t.Parallel()
	s := (&server{}).start(t)
	var results []*Result
	for range 2 {
		r := load(t, Spec{Rate: 200, Duration: 300 * time.Millisecond}, s)
		wantOK(t, r)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		back := &Result{}
		if err := json.Unmarshal(b, back); err != nil {
			t.Fatal(err)
		}
		results = append(results, back)
	}
	results[1].Started = results[0].Started.Add(time.Second)
	m, err := Merge(results)
	if err != nil {
		t.Fatal(err)
	}
	wantOK(t, m)
	want(t, "connections asked for", int64(m.Spec.Conns), 40)
	want(t, "opened", m.Counters.Ramped, 40)
	want(t, "answered", m.Counters.Replies, 120)
	want(t, "latencies", m.Message.Count, 120)
	want(t, "largest", m.Message.MaxUS, max(results[0].Message.MaxUS, results[1].Message.MaxUS))
	want(t, "loops", int64(m.Tool.Loops), 2)
	replies := int64(0)
	for _, r := range results {
		replies += r.Timeline[len(r.Timeline)-1].Replies
	}
	want(t, "replies at the end of the timeline", m.Timeline[len(m.Timeline)-1].Replies, replies)
	if !strings.Contains(m.Machine.Host, ", ") {
		t.Errorf("hosts %q, want two", m.Machine.Host)
	}
}

func TestMergeTellsWhatWasWrong(t *testing.T) {
	at := time.Date(2026, 11, 25, 20, 0, 0, 0, time.UTC)
	result := func(change func(r *Result)) *Result {
		r := &Result{Spec: Spec{Scenario: Count}, Started: at, Complete: true, Counters: newCounters()}
		r.Machine.Host = "a"
		change(r)
		return r
	}
	same := result(func(*Result) {})
	m, err := Merge([]*Result{same, result(func(r *Result) {
		r.Started, r.Complete, r.Machine.Host = at.Add(-time.Minute), false, "b"
		r.Failures = []string{"2 connections were lost."}
	})})
	if err != nil {
		t.Fatal(err)
	}
	if m.Complete || len(m.Failures) != 2 || m.Failures[0] != "b: 2 connections were lost." ||
		!strings.Contains(m.Failures[1], "began 1m0s apart") || !m.Started.Equal(at.Add(-time.Minute)) {
		t.Errorf("%+v", m)
	}
	server := &ServerUsage{CPUPerHandshakeUS: 1}
	for measured, known := range []bool{false, true, false} {
		all := []*Result{result(func(*Result) {}), result(func(*Result) {})}
		for i := range measured {
			all[i].Server = server
		}
		if m, err = Merge(all); err != nil || (m.Server != nil) != known {
			t.Errorf("%d measured the server: known %t, %v", measured, m.Server != nil, err)
		}
	}
	for name, all := range map[string][]*Result{
		"nothing":             nil,
		"different scenarios": {same, result(func(r *Result) { r.Spec.Scenario = Echo })},
		"a broken histogram":  {same, result(func(r *Result) { r.Message.HDR = []byte("x") })},
	} {
		if _, err := Merge(all); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Timelines are laid over each other by the clock, also when one has begun later or is coarser.
func TestMergedTimelines(t *testing.T) {
	at := time.Now()
	line := func(start time.Duration, step float64, n int, rate float64) *Result {
		r := &Result{Started: at.Add(start)}
		for i := 1; i <= n; i++ {
			r.Timeline = append(r.Timeline, Point{Seconds: float64(i) * step, Open: int64(10 * i), RateHz: rate})
		}
		return r
	}
	all := mergeTimelines([]*Result{line(0, 0.25, 40, 100), line(4*time.Second, 0.5, 20, 50)}, at)
	at5 := Point{}
	for _, p := range all {
		if math.Abs(p.Seconds-6) < 0.01 {
			at5 = p
		}
	}
	if at5.RateHz != 150 || at5.Open != 240+40 {
		t.Errorf("after 6 s %+v, want 150/s and 280 open", at5)
	}
	if last := all[len(all)-1]; last.Open != 600 || last.RateHz != 0 {
		t.Errorf("at the end %+v, want 600 open and no rate", last)
	}
	if got := mergeTimelines([]*Result{{}, {}}, at); len(got) > 1 {
		t.Errorf("%d points of nothing", len(got))
	}
}
