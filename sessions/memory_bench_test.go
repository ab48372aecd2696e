package sessions

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"
)

// BenchmarkMemoryFootprint reports the heap bytes that an attached session costs, map slot
// included, at sizes between which the map grows.
func BenchmarkMemoryFootprint(b *testing.B) {
	for _, size := range []int{10_000, 19_000, 100_000, 1_000_000} {
		b.Run(sizeName(size), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				m, _ := newTestMemory(b, MemoryConfig{MaxSessions: size})
				runtime.GC()
				runtime.ReadMemStats(&before)
				w := new(answer)
				for range size {
					m.Attach(NewID(), "", false, w)
				}
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(size), "B/session")
				runtime.KeepAlive(m)
			}
		})
	}
}

func sizeName(n int) string {
	switch {
	case n >= 1_000_000:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000:
		return fmt.Sprintf("%dk", n/1000)
	}
	return strconv.Itoa(n)
}

func BenchmarkMemoryAdd(b *testing.B) {
	m, _ := newTestMemory(b, MemoryConfig{})
	a := attach(m, NewID(), false).a
	b.ReportAllocs()
	for b.Loop() {
		a.Add()
	}
}

func BenchmarkMemoryAttachDetach(b *testing.B) {
	m, _ := newTestMemory(b, MemoryConfig{})
	id, w := NewID(), new(answer)
	b.ReportAllocs()
	for b.Loop() {
		m.Attach(id, "", false, w)
		w.a.Add()
		w.a.Detach(nil)
	}
}
