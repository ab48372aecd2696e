package bench

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// burner makes a process of the load generator as heavy as Spec.ExtraCPU asks, to find out whether its weight bends what it
// measures. At the end of each round of events it spins for that share of the CPU that the process has used since the
// last one: system calls, collections and the other goroutines included. A spin is short and gives way to a message that is due, so
// that the process gets heavier and what the server is sent does not change. Loop only.
type burner struct {
	share float64       // 1 doubles the process' CPU; 0 burns nothing and reads no clock
	began time.Duration // CPU of the process when this began
	burnt time.Duration // since then
}

// maxBurn bounds one spin: replies wait that long. What is left is made up for in the next rounds.
const maxBurn = 50 * time.Microsecond

func newBurner(share float64) burner {
	return burner{share: share, began: cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID)}
}

// endOfRound burns until due says to stop. It reports whether more is to be burnt.
func (b *burner) endOfRound(due func() bool) (more bool) {
	if b.share == 0 {
		return false
	}
	own := cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) - b.began - b.burnt
	debt := time.Duration(float64(own)*b.share) - b.burnt
	if debt <= 0 {
		return false
	}
	// The thread's clock: time for which the kernel ran somebody else was not burnt.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
	spun := time.Duration(0)
	for spun < min(debt, maxBurn) && !due() {
		spun = cpuTime(unix.CLOCK_THREAD_CPUTIME_ID) - start
	}
	b.burnt += spun
	return spun < debt
}

// cpuTime reads the CPU clock of this process or thread.
func cpuTime(clock int32) time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(clock, &ts) // cannot fail
	return time.Duration(ts.Nano())
}
