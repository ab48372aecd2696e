package poller

import (
	"bytes"
	"strings"
	"testing"

	"github.com/VictoriaMetrics/metrics"
)

func TestHistogramCountsCumulativelyInFixedSeries(t *testing.T) {
	h := NewHistogram("histogram_under_test", []float64{1, 2.5})
	t.Cleanup(func() { // for the next of several runs
		for _, name := range metrics.ListMetricNames() {
			if strings.HasPrefix(name, "histogram_under_test") {
				metrics.UnregisterMetric(name)
			}
		}
	})
	series := func() (lines []string) {
		var b bytes.Buffer
		metrics.WritePrometheus(&b, false)
		for _, line := range strings.Split(b.String(), "\n") {
			if strings.HasPrefix(line, "histogram_under_test") {
				lines = append(lines, strings.TrimPrefix(line, "histogram_under_test"))
			}
		}
		return lines
	}
	before := len(series())
	for _, v := range []float64{0, 1, 1.5, 2.5, 100} {
		h.Update(v)
	}
	got := strings.Join(series(), " ")
	want := `_bucket{le="1"} 2 _bucket{le="2.5"} 4 _bucket{le="+Inf"} 5 _sum 105 _count 5`
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if after := len(series()); after != before {
		t.Errorf("%d series before values, %d after", before, after)
	}
}
