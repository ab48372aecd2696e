package procfs

import (
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine describes this machine.
type Machine struct {
	Host      string `json:"host"`
	CPUs      int    `json:"cpus"`
	CPU       string `json:"cpu"`
	MemoryB   int64  `json:"memory_bytes"`
	Kernel    string `json:"kernel"`
	GoVersion string `json:"go"`
	NoFile    uint64 `json:"nofile"` // hard limit of descriptors
}

// Describe describes this machine; what cannot be read is left empty.
func Describe() Machine {
	m := Machine{CPUs: runtime.NumCPU(), GoVersion: runtime.Version(),
		MemoryB: meminfo()["MemTotal"], NoFile: OwnFDLimit()}
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

// OwnFDLimit is this process's hard limit of descriptors, to which the Go runtime raises the soft
// one.
func OwnFDLimit() uint64 {
	var r unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return r.Max
}

// Available is MemAvailable in bytes; 0 when it is not known.
func Available() int64 { return meminfo()["MemAvailable"] }

// EphemeralPorts is the size of the kernel's range of local ports.
func EphemeralPorts() int {
	b, _ := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if f := strings.Fields(string(b)); len(f) == 2 {
		low, _ := strconv.Atoi(f[0])
		high, _ := strconv.Atoi(f[1])
		if high > low {
			return high - low + 1
		}
	}
	return 28_232
}

// CPUTimes is the machine's CPU time so far, in ticks: in use, and all.
func CPUTimes() (busy, all float64) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		v, err := strconv.ParseFloat(f, 64)
		if err != nil || i > 8 { // the name; guest time is part of user time
			continue
		}
		all += v
		if i != 4 && i != 5 { // idle, iowait
			busy += v
		}
	}
	return busy, all
}

// LoadAverage is the machine's, of the last minute, or -1 when it is not known.
func LoadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	v, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return -1
	}
	return v
}

func meminfo() map[string]int64 {
	b, _ := os.ReadFile("/proc/meminfo")
	return kilobytes(b)
}

// sockstatTCP is the size of the buffers of all TCP sockets of the machine, in bytes.
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

// connectionSlabs are the kernel's objects behind a connection: sockets, their inodes and
// dentries, files, epoll items and wait queue entries, hash buckets, small allocations.
var connectionSlabs = map[string]bool{
	"TCP": true, "TCPv6": true, "sock_inode_cache": true, "dentry": true, "filp": true,
	"eventpoll_epi": true, "eventpoll_pwq": true, "tcp_bind_bucket": true,
	"tcp_bind2_bucket": true, "tw_sock_TCP": true, "request_sock_TCP": true,
	"skbuff_head_cache": true, "skbuff_small_head": true, "skbuff_fclone_cache": true,
	"lsm_file_cache": true, "lsm_inode_cache": true,
}

// slab is the memory of connectionSlabs, machine-wide, where slabinfo may be read (by root; some
// kernels merge these caches with others of the same size), else all of Slab.
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
