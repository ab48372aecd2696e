package load

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the largest latency kept apart from larger ones, in microseconds: ten minutes.
const longest = 600_000_000

// hist is an HdrHistogram of microseconds. The zero value is empty and holds no memory until the
// first record.
type hist struct{ h *hdrhistogram.Histogram }

// reserve takes the 170 KB of a histogram now rather than at the first record.
func (h *hist) reserve() {
	if h.h == nil {
		h.h = hdrhistogram.New(1, longest, 3)
	}
}

func (h *hist) record(d time.Duration) {
	h.reserve()
	_ = h.h.RecordValue(min(max(int64(d/time.Microsecond), 1), longest)) // in range: cannot fail
}

func (h *hist) count() int64 {
	if h.h == nil {
		return 0
	}
	return h.h.TotalCount()
}

// add merges o into h: the counts of each bucket are summed, so percentiles of the sum are as exact
// as those of the parts.
func (h *hist) add(o *hist) {
	if o.count() == 0 {
		return
	}
	h.reserve()
	h.h.Merge(o.h)
}

func (h *hist) reset() {
	if h.h != nil {
		h.h.Reset()
	}
}

func (h *hist) quantile(percent float64) int64 {
	if h.count() == 0 {
		return 0
	}
	return h.h.ValueAtPercentile(percent)
}

func (h *hist) encode() []byte {
	if h.count() == 0 {
		return nil
	}
	b, err := h.h.EncodeV2()
	if err != nil {
		return nil // compresses into memory: cannot fail
	}
	return b
}

func decodeHist(b []byte) (hist, error) {
	if len(b) == 0 {
		return hist{}, nil
	}
	h, err := hdrhistogram.Decode(b)
	if err != nil {
		return hist{}, fmt.Errorf("decode a histogram of %d bytes: %w", len(b), err)
	}
	return hist{h}, nil
}

func (h *hist) summary() Latency {
	if h.count() == 0 {
		return Latency{}
	}
	q := h.h.ValueAtPercentile
	return Latency{
		Count: h.count(), MinUS: h.h.Min(), MeanUS: h.h.Mean(),
		P50US: q(50), P75US: q(75), P90US: q(90), P95US: q(95), P99US: q(99), P999US: q(99.9), P9999: q(99.99), MaxUS: h.h.Max(),
		HDR: h.encode(),
	}
}

// At is the latency in microseconds at or below which percent of the values lie; 0 when there are
// none.
func (l Latency) At(percent float64) int64 {
	h, err := decodeHist(l.HDR)
	if err != nil {
		return 0
	}
	return h.quantile(percent)
}

// Quantile is one point of a latency's distribution.
type Quantile struct {
	Percent float64
	US      int64
}

// Curve is the distribution in steps of a tenth of a nine, as far as there are values to tell one
// step from the next. It fails when HDR cannot be decoded.
func (l Latency) Curve() (curve []Quantile, err error) {
	if len(l.HDR) == 0 {
		return []Quantile{{0, l.MinUS}, {50, l.P50US}, {75, l.P75US}, {90, l.P90US},
			{95, l.P95US}, {99, l.P99US}, {99.9, l.P999US}, {99.99, l.P9999}}, nil
	}
	h, err := decodeHist(l.HDR)
	if err != nil {
		return nil, err
	}
	for part := 1.0; ; part *= 0.794328 {
		percent := 100 * (1 - part)
		curve = append(curve, Quantile{percent, h.quantile(percent)})
		if part*float64(h.count()) < 1 {
			return curve, nil
		}
	}
}

// Add is the summary of both histograms together. It fails when one of them cannot be decoded.
func (l Latency) Add(o Latency) (Latency, error) {
	a, err := decodeHist(l.HDR)
	if err != nil {
		return l, err
	}
	b, err := decodeHist(o.HDR)
	if err != nil {
		return l, err
	}
	a.add(&b)
	return a.summary(), nil
}
