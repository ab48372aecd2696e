package load

import (
	"bytes"
	"testing"
	"time"
)

func TestHistogramsAddUp(t *testing.T) {
	var a, b, both hist
	for i := range 10_000 {
		d := time.Duration(i*i) * time.Microsecond
		both.record(d)
		if i%3 == 0 {
			a.record(d)
		} else {
			b.record(d)
		}
	}
	sum, err := a.summary().Add(b.summary())
	if want := both.summary(); err != nil || !bytes.Equal(sum.HDR, want.HDR) || sum.P9999 != want.P9999 || sum.Count != 10_000 {
		t.Errorf("the sum is %+v, %v; want %+v", sum, err, want)
	}
	var clamped hist
	clamped.record(-time.Second)
	clamped.record(time.Hour)
	if l := clamped.summary(); l.MinUS != 1 || l.MaxUS < longest*999/1000 || l.Count != 2 {
		t.Errorf("values out of range are %+v, want the ends of the range", l)
	}
	if l := (Latency{HDR: []byte("nonsense")}); l.At(50) != 0 {
		t.Error("a percentile came out of nonsense")
	}
}
