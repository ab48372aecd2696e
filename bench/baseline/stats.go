package baseline

import (
	"encoding/json"
	"math"
	"runtime"
	"runtime/metrics"
)

// Stats is what GET /stats answers: what only the process itself knows.
type Stats struct {
	Goroutines     int    `json:"goroutines"`
	HeapInUse      uint64 `json:"heap_inuse_bytes"`
	StackInUse     uint64 `json:"stack_inuse_bytes"`
	Sys            uint64 `json:"sys_bytes"` // all memory the Go runtime has taken from the system
	GCCycles       uint32 `json:"gc_cycles"`
	GCPauseTotalNS uint64 `json:"gc_pause_total_ns"`
	GCPauseMaxNS   uint64 `json:"gc_pause_max_ns"` // upper bound of the histogram bucket it fell in
	Sessions       int    `json:"sessions"`
	Conns          int    `json:"conns"`
}

func (s *service) stats() []byte {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st := Stats{
		Goroutines:     runtime.NumGoroutine(),
		HeapInUse:      m.HeapInuse,
		StackInUse:     m.StackInuse,
		Sys:            m.Sys,
		GCCycles:       m.NumGC,
		GCPauseTotalNS: m.PauseTotalNs,
		GCPauseMaxNS:   longestPause(),
	}
	s.mu.Lock()
	st.Sessions, st.Conns = len(s.sessions), len(s.peers)
	s.mu.Unlock()
	b, err := json.Marshal(st)
	if err != nil { // a struct of numbers always marshals
		panic(err)
	}
	return append(b, '\n')
}

// longestPause is in nanoseconds. MemStats keeps the last 256 pauses only.
func longestPause() uint64 {
	sample := []metrics.Sample{{Name: "/sched/pauses/total/gc:seconds"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	h := sample[0].Value.Float64Histogram()
	for i := len(h.Counts) - 1; i >= 0; i-- {
		if h.Counts[i] == 0 {
			continue
		}
		upper := h.Buckets[i+1]
		if math.IsInf(upper, 1) {
			upper = h.Buckets[i]
		}
		return uint64(upper * 1e9)
	}
	return 0
}
