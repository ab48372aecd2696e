package procfs

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is USER_HZ, the unit of the CPU times in /proc/PID/stat: 100 on every Linux.
const clockTick = 100

// Usage is one sample of a process and its children, with the machine's kernel memory. Sizes are
// bytes.
type Usage struct {
	CPUSeconds float64 `json:"cpu_seconds"` // user + system, of all these processes, since they began
	RSS        int64   `json:"rss"`
	Peak       int64   `json:"peak"` // VmHWM: the largest RSS since they began
	PSS        int64   `json:"pss"`  // shared pages divided among those who share them
	USS        int64   `json:"uss"`  // Private_Clean + Private_Dirty: what an exit would free
	Anon       int64   `json:"anon"` // Anonymous: heap and stacks, without the pages of the binary
	FDs        int     `json:"fds"`  // open descriptors, in all tables
	Threads    int     `json:"threads"`
	Processes  int     `json:"processes"` // 0: nothing was sampled

	// Machine-wide: both ends of the connections when the load generator runs beside the server.
	KernelTCP  int64 `json:"kernel_tcp"`  // socket buffers: "mem" of /proc/net/sockstat × page size
	KernelSlab int64 `json:"kernel_slab"` // sockets, epoll items, dentries, inodes
	// SlabSource is where KernelSlab comes from: "slabinfo", "meminfo" (all of Slab) or "none".
	SlabSource string `json:"slab_source"`
	Available  int64  `json:"mem_available"` // MemAvailable

	At time.Time `json:"-"` // when it was sampled
}

// Sample measures the processes of these ids and their descendants, as one. It fails when one of
// them does not exist or may not be read.
func Sample(pids ...int) (Usage, error) {
	u, err := SampleCPU(pids...)
	if err != nil {
		return u, err
	}
	u.At = time.Now()
	u.RSS = 0
	for _, p := range families(pids) {
		m := smaps(p)
		u.RSS += m["Rss"]
		u.PSS += m["Pss"]
		u.USS += m["Private_Clean"] + m["Private_Dirty"]
		u.Anon += m["Anonymous"]
		u.FDs += Descriptors(p)
		u.Peak += statusField(p, "VmHWM") << 10
		u.Threads += int(statusField(p, "Threads"))
	}
	u.KernelTCP = sockstatTCP()
	u.KernelSlab, u.SlabSource = slab()
	u.Available = Available()
	return u, nil
}

// SampleCPU is the cheap part of Sample: CPU time and RSS.
func SampleCPU(pids ...int) (Usage, error) {
	var u Usage
	for _, p := range families(pids) {
		s, err := cpuSeconds(p)
		if err != nil {
			if slices.Contains(pids, p) {
				return u, fmt.Errorf("measure process %d: %w "+
					"(is --server-pid right, and is the process yours?)", p, err)
			}
			continue // a child that has just ended
		}
		u.Processes++
		u.CPUSeconds += s
		u.RSS += statusField(p, "VmRSS") << 10
	}
	return u, nil
}

// Anonymous is the anonymous memory of a process in bytes; 0 when it may not be read.
func Anonymous(pid int) int64 { return smaps(pid)["Anonymous"] }

// Family is pid and its descendants.
func Family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all) && i < 10_000; i++ {
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", all[i]))
		for _, t := range tasks { // a child belongs to the thread that made it
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", all[i], t.Name()))
			for _, f := range strings.Fields(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}

func families(pids []int) (all []int) {
	for _, pid := range pids {
		all = append(all, Family(pid)...)
	}
	return all
}

// Descriptors is how many descriptors a process has open, in the tables of all its threads; 0 when
// that may not be read. Threads share one table unless they have asked for their own.
func Descriptors(pid int) (n int) {
	var tables []int // a thread of each
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		tid, _ := strconv.Atoi(t.Name())
		if !slices.ContainsFunc(tables, func(of int) bool { return sameTable(of, tid) }) {
			tables = append(tables, tid)
			n += tableSize(pid, tid)
		}
	}
	return n
}

// tableSize is how many descriptors are open in a thread's table. Since Linux 6.2 the directory's
// size says it; to list a million entries would take seconds, and a gigabyte in the kernel.
func tableSize(pid, tid int) int {
	name := fmt.Sprintf("/proc/%d/task/%d/fd", pid, tid)
	if info, err := os.Stat(name); err == nil && info.Size() > 0 {
		return int(info.Size())
	}
	fds, _ := os.ReadDir(name)
	return len(fds)
}

// sameTable reports whether two threads share a descriptor table, which is taken for granted where
// the kernel does not tell.
func sameTable(a, b int) bool {
	const kcmpFiles = 2
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), kcmpFiles, 0, 0, 0)
	return errno != 0 || order == 0
}

// FDLimit is the soft limit of descriptors of a process; 0 when it is not known.
func FDLimit(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Max open files"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
			return n
		}
	}
	return 0
}

// cpuSeconds is user and system time of one process so far, its ended threads included. The
// process' CPU clock (clock_getcpuclockid(3)) has nanoseconds; /proc/PID/stat, for kernels that
// keep the clock to themselves, has ticks of 10 ms.
func cpuSeconds(pid int) (float64, error) {
	const cpuClockSched, pidMax = 2, 1 << 22
	var t unix.Timespec
	if pid <= pidMax && unix.ClockGettime(int32(^pid<<3|cpuClockSched), &t) == nil {
		return float64(t.Nano()) / 1e9, nil
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name may hold spaces and parentheses: count from the last one.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields after the name", pid, len(f))
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / clockTick, nil
}

// smaps is /proc/PID/smaps_rollup in bytes; empty when it may not be read.
func smaps(pid int) map[string]int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	return kilobytes(b)
}

// kilobytes parses lines of `Name:  123 kB`.
func kilobytes(b []byte) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "kB" {
			if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				m[strings.TrimSuffix(f[0], ":")] = n << 10
			}
		}
	}
	return m
}

func statusField(pid int, name string) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 10, 64)
			return n
		}
	}
	return 0
}
