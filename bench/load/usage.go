package load

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bench/procfs"
)

// cost is what the load generator has used so far.
type cost struct {
	CPU  float64 // seconds
	Anon int64   // bytes
	Heap int64   // bytes of live Go heap
}

// meter measures the load generator itself, and leaves out the CPU that measuring takes.
type meter struct{ spent time.Duration }

func (m *meter) read() cost {
	used := processCPU() - m.spent
	debug.FreeOSMemory() // or the kernel would count free pages as ours
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	c := cost{CPU: used.Seconds(), Heap: int64(s.HeapAlloc), Anon: procfs.Anonymous(os.Getpid())}
	m.spent = processCPU() - used
	return c
}

func processCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// PhaseUsage is the CPU time that one phase of a run took.
type PhaseUsage struct {
	Name    string  `json:"name"` // ramp, hold, traffic, server closes, closing
	Seconds float64 `json:"seconds"`
	// Server and Tool are seconds of CPU time; Server is 0 without Spec.ServerPID.
	Server  float64 `json:"server_cpu_seconds"`
	Tool    float64 `json:"tool_cpu_seconds"`
	Machine float64 `json:"machine_cpu"` // share of all processors in use, 0 to 1
}

// phaseStart is what had been used when a phase began.
type phaseStart struct {
	at        time.Time
	server    float64
	tool      time.Duration
	busy, all float64
}

func (r *run) usageNow() phaseStart {
	u := phaseStart{at: time.Now(), tool: processCPU(), server: r.usage.server}
	u.busy, u.all = procfs.CPUTimes()
	if r.spec.ServerPID != 0 {
		if s, err := procfs.SampleCPU(r.spec.measured()...); err == nil {
			u.server = s.CPUSeconds
		}
	}
	return u
}

// endPhase notes what the phase at hand took. One that comes back, as in a search for the capacity,
// is noted once.
func (r *run) endPhase(next string) {
	if next == r.phase {
		return
	}
	now, last := r.usageNow(), r.usage
	r.usage = now
	if r.phase == "" || r.phase == "waiting" {
		return
	}
	r.result.Phases = append(r.result.Phases, PhaseUsage{Name: r.phase,
		Seconds: now.at.Sub(last.at).Seconds(), Server: now.server - last.server,
		Tool: (now.tool - last.tool).Seconds(), Machine: ratio(now.busy-last.busy, now.all-last.all)})
}
