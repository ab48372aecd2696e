package poller

import (
	"fmt"
	"math"
	"sort"
	"sync/atomic"

	"github.com/VictoriaMetrics/metrics"
)

var (
	// loopLag is how late the loop came to its timers: the time its callbacks kept everything else waiting.
	loopLag = NewHistogram(`sluice_loop_lag_seconds`, DurationBuckets)

	acceptErrors = metrics.NewCounter(`sluice_errors_total{reason="accept"}`)
	acceptNoFile = metrics.NewCounter(`sluice_errors_total{reason="accept_descriptors"}`)
)

// Histogram is a Prometheus histogram with fixed buckets. (metrics.Histogram makes a new series for every range of
// values that it meets, so that the number of series would depend on what clients do.)
type Histogram struct {
	bounds []float64
	counts []atomic.Uint64 // one more than bounds: the last has none
	sum    atomic.Uint64   // bits of a float64
}

// DurationBuckets are upper bounds in seconds for what takes microseconds when all is well and seconds when it is not.
var DurationBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

// NewHistogram makes and registers a histogram; bounds are in increasing order.
func NewHistogram(name string, bounds []float64) *Histogram {
	h := &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
	below := func(n int) func() float64 {
		return func() (total float64) {
			for i := range h.counts[:n] {
				total += float64(h.counts[i].Load())
			}
			return total
		}
	}
	for i, bound := range bounds {
		metrics.NewGauge(fmt.Sprintf(`%s_bucket{le="%g"}`, name, bound), below(i+1))
	}
	metrics.NewGauge(name+`_bucket{le="+Inf"}`, below(len(h.counts)))
	metrics.NewGauge(name+`_count`, below(len(h.counts)))
	metrics.NewGauge(name+`_sum`, func() float64 { return math.Float64frombits(h.sum.Load()) })
	return h
}

// Update counts one value. Any goroutine.
func (h *Histogram) Update(value float64) {
	h.counts[sort.SearchFloat64s(h.bounds, value)].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			return
		}
	}
}
