package compare

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"sluice/bench/load"
	"sluice/bench/procfs"
)

// made is a report of trials with given values for one closed measure.
func made(key string, values map[string][]float64) *Report {
	r := &Report{Plan: Plan{Steps: []Step{{Kind: Closed, Conns: 10, Rounds: 3}}}}
	for name, list := range values {
		for i, v := range list {
			r.Trials = append(r.Trials, Trial{Server: name, Kind: Closed, Conns: 10, Round: i, Values: map[string]float64{key: v}})
		}
	}
	r.summarise([]string{Sluice, OneLoop, "gws", "floor"})
	return r
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, key            string
		mine, gws            []float64
		loses, unclear, wins bool
	}{
		{"less is better, clearly worse", "cpu_message_us", []float64{10, 11, 12}, []float64{5, 6, 7}, true, false, false},
		{"less is better, clearly better", "cpu_message_us", []float64{5, 6, 7}, []float64{10, 11, 12}, false, false, true},
		{"more is better, clearly worse", "messages_per_second", []float64{5, 6, 7}, []float64{10, 11, 12}, true, false, false},
		{"more is better, clearly better", "messages_per_second", []float64{10, 11, 12}, []float64{5, 6, 7}, false, false, true},
		{"spreads overlap", "cpu_message_us", []float64{5, 8, 9}, []float64{4, 5, 6}, false, true, false},
		{"within five per cent", "cpu_message_us", []float64{10.4, 10.4}, []float64{10, 10}, false, true, false},
		{"just beyond five per cent", "cpu_message_us", []float64{10.6, 10.6}, []float64{10, 10}, true, false, false},
		{"one round, within a quarter", "cpu_message_us", []float64{12.4}, []float64{10}, false, true, false},
		{"one round, beyond a quarter", "cpu_message_us", []float64{12.6}, []float64{10}, true, false, false},
	} {
		r := made(c.key, map[string][]float64{Sluice: c.mine, "gws": c.gws, "floor": {1}})
		if got := len(r.Losses) == 1; got != c.loses {
			t.Errorf("%s: losses %v", c.name, r.Losses)
		}
		if got := len(r.Worse) == 1; got != c.unclear {
			t.Errorf("%s: worse within the spreads %v", c.name, r.Worse)
		}
		if says := strings.Contains(strings.Join(r.words()[0].lines, ""), "worse in those that follow"); says != c.unclear {
			t.Errorf("%s: sluice is worse within the spreads %t, and the first words say so %t", c.name, c.unclear, says)
		}
		if len(r.Floor) != 1 {
			t.Errorf("%s: the floor is not set apart: %v", c.name, r.Floor)
		}
		var table bytes.Buffer
		if err := r.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		if says := strings.Contains(table.String(), "In no measure are the spreads apart."); says == c.loses {
			t.Errorf("%s: the words say the contrary", c.name)
		}
	}
}

// One loop is compared with the floor only: against sluice itself nothing is won or lost.
func TestOneLoopIsLikeForLike(t *testing.T) {
	r := made("cpu_message_us", map[string][]float64{Sluice: {12, 13}, OneLoop: {8, 9}, "floor": {7, 8}})
	if len(r.Losses)+len(r.Unclear) > 0 || len(r.Floor) != 2 || !strings.HasPrefix(r.Floor[1], "CPU/message: sluice-1 8.5 µs, floor 7.5 µs (1.13 ×)") {
		t.Errorf("losses %v, unclear %v, floor %q", r.Losses, r.Unclear, r.Floor)
	}
	o := Options{plan: fullPlan()}
	for _, s := range o.plan.Steps {
		if got, want := o.takesPart(OneLoop, s), s.Kind != Open || s.Conns == 19_000; got != want {
			t.Errorf("%s at %d: takes part %t, want %t", s.Kind, s.Conns, got, want)
		}
	}
}

func TestStat(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   Stat
	}{
		{nil, Stat{}},
		{[]float64{3}, Stat{3, 3, 3, 1}},
		{[]float64{4, 1}, Stat{2.5, 1, 4, 2}},
		{[]float64{9, 1, 5}, Stat{5, 1, 9, 3}},
	} {
		if got := newStat(c.values); got != c.want {
			t.Errorf("newStat(%v) = %+v, want %+v", c.values, got, c.want)
		}
	}
}

func TestRatioAndSizes(t *testing.T) {
	r := made("cpu_message_us", map[string][]float64{Sluice: {5}, "gws": {10}})
	gws, _ := r.server("gws")
	if got := gws.Ratio["cpu_message_us"]; math.Abs(got-0.5) > 1e-9 {
		t.Errorf("ratio %v, want sluice ÷ gws = 0.5", got)
	}
	if _, ok := r.server("floor"); ok {
		t.Error("a server without a trial is in the report")
	}
}

// Text that comes from elsewhere must not become markup in the README.
// The samples of a server that ended on the way are empty, and not less than the one before.
func TestMemoryOfAServerThatEndedIsNotKnown(t *testing.T) {
	r := &load.Result{Server: &load.ServerUsage{Before: procfs.Usage{Processes: 1, Anon: 1 << 20}}}
	if got := newTrial("gws", Step{Kind: Closed, Conns: 10}, 0, r, inside{}).Values; len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
}

func TestMarkdownEscapes(t *testing.T) {
	r := made("cpu_message_us", map[string][]float64{Sluice: {5}})
	r.Command = "make bench | <script>"
	r.Machine = procfs.Machine{CPU: "A|B\n# heading"}
	r.Troubles = []string{"<img src=x>"}
	var b bytes.Buffer
	if err := r.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	for _, no := range []string{"<script", "<img", "\n# heading", "A|B"} {
		if strings.Contains(b.String(), no) {
			t.Errorf("the Markdown contains %q", no)
		}
	}
}
