package baseline

import (
	"encoding/json"
	"runtime"
	"slices"
)

// Stats is what GET /stats answers: what only the process itself knows.
type Stats struct {
	Goroutines     int    `json:"goroutines"`
	HeapInUse      uint64 `json:"heap_inuse_bytes"`
	StackInUse     uint64 `json:"stack_inuse_bytes"`
	Sys            uint64 `json:"sys_bytes"` // all memory the Go runtime has taken from the system
	GCCycles       uint32 `json:"gc_cycles"`
	GCPauseTotalNS uint64 `json:"gc_pause_total_ns"`
	GCPauseMaxNS   uint64 `json:"gc_pause_max_ns"` // of the last 256 collections, as in the metrics of Sluice
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
		GCPauseMaxNS:   slices.Max(m.PauseNs[:]),
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
