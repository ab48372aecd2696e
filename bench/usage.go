package bench

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file reads /proc. What it costs is a few hundred microseconds a sample, and more for smaps_rollup of a large process,
// so full samples are taken between the phases of a run only.

// clockTick is USER_HZ, the unit of the CPU times in /proc/PID/stat: 100 on every Linux.
const clockTick = 100

// cost is a worker's own use of the machine.
type cost struct {
	CPU   float64 // seconds
	Burnt float64 // of these, for Spec.ExtraCPU
	Anon  int64
	Heap  int64 // live Go heap
}

// ownCost leaves out what it takes itself, which is not part of the load.
func (w *worker) ownCost() *cost {
	used := cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) - w.measuring
	debug.FreeOSMemory() // collects, and gives back what the kernel would otherwise count as ours
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c := &cost{CPU: used.Seconds(), Burnt: w.burner.burnt.Seconds(), Heap: int64(m.HeapAlloc), Anon: smaps(os.Getpid())["Anonymous"]}
	w.measuring = cpuTime(unix.CLOCK_PROCESS_CPUTIME_ID) - used
	return c
}

// SampleUsage measures pid and all its descendants. It fails when pid does not exist or may not be read.
func SampleUsage(pid int) (Usage, error) {
	u, err := sampleCPU(pid)
	if err != nil {
		return u, err
	}
	u.at = time.Now()
	u.RSS = 0
	for _, p := range family(pid) {
		m := smaps(p)
		u.RSS += m["Rss"]
		u.PSS += m["Pss"]
		u.USS += m["Private_Clean"] + m["Private_Dirty"]
		u.Anon += m["Anonymous"]
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p)); err == nil {
			u.FDs += len(fds)
		}
		u.Threads += int(statusField(p, "Threads"))
	}
	u.KernelTCP = sockstatTCP()
	u.KernelSlab, u.SlabSource = slab()
	u.Available = meminfo()["MemAvailable"]
	return u, nil
}

// sampleCPU is the cheap part: CPU time and RSS.
func sampleCPU(pid int) (Usage, error) {
	var u Usage
	for i, p := range family(pid) {
		s, err := cpuSeconds(p)
		if err != nil {
			if i == 0 {
				return u, fmt.Errorf("measure process %d: %w (is --server-pid right, and is it yours?)", pid, err)
			}
			continue // a child that has just ended
		}
		u.Processes++
		u.CPUSeconds += s
		u.RSS += statusField(p, "VmRSS") << 10
	}
	return u, nil
}

// family is pid and its descendants.
func family(pid int) []int {
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

// cpuSeconds is user and system time of one process so far, its ended threads included.
func cpuSeconds(pid int) (float64, error) {
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

func meminfo() map[string]int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	return kilobytes(b)
}

// kilobytes reads lines of `Name:  123 kB`.
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

// sockstatTCP is what the buffers of all TCP sockets of the machine hold, in bytes.
func sockstatTCP() int64 {
	b, _ := os.ReadFile("/proc/net/sockstat")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "TCP:" {
			for i := 1; i+1 < len(f); i += 2 {
				if f[i] == "mem" {
					pages, _ := strconv.ParseInt(f[i+1], 10, 64)
					return pages * int64(os.Getpagesize())
				}
			}
		}
	}
	return 0
}

// connectionSlabs are the kernel's objects behind a connection: sockets, their inodes and dentries, files, epoll
// items and wait queue entries, socket hash buckets, small allocations.
var connectionSlabs = map[string]bool{
	"TCP": true, "TCPv6": true, "sock_inode_cache": true, "dentry": true, "filp": true, "eventpoll_epi": true,
	"eventpoll_pwq": true, "tcp_bind_bucket": true, "tcp_bind2_bucket": true, "tw_sock_TCP": true, "request_sock_TCP": true,
	"skbuff_head_cache": true, "skbuff_small_head": true, "skbuff_fclone_cache": true, "lsm_file_cache": true, "lsm_inode_cache": true,
}

// slab is the memory of connectionSlabs, machine-wide, where the kernel tells (root may read slabinfo; some kernels
// merge these caches with others of the same size), else all of Slab.
func slab() (size int64, source string) {
	b, err := os.ReadFile("/proc/slabinfo")
	if err == nil {
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || !connectionSlabs[f[0]] {
				continue
			}
			objects, _ := strconv.ParseInt(f[1], 10, 64)
			each, _ := strconv.ParseInt(f[3], 10, 64)
			size += objects * each
		}
		if size > 0 {
			return size, "slabinfo"
		}
	}
	if s := meminfo()["Slab"]; s > 0 {
		return s, "meminfo"
	}
	return 0, "none"
}

func describeMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), GoVersion: runtime.Version(), MemoryB: meminfo()["MemTotal"], NoFile: descriptorLimit()}
	m.Host, _ = os.Hostname()
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			m.CPU = strings.TrimSpace(v)
			break
		}
	}
	return m
}
