package million

import (
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"sluice/bench/procfs"
	"sluice/bench/reactor"
	"sluice/bench/units"
)

// Check is one thing that many connections need.
type Check struct {
	Name   string `json:"name"`
	Found  string `json:"found"`
	Reach  int    `json:"reach"`            // how many connections it is enough for
	Enough bool   `json:"enough"`           // for those asked for
	Advice string `json:"advice,omitempty"` // what to change when it is not
}

func (c Check) String() string {
	if c.Enough {
		return fmt.Sprintf("ok       %s: %s", c.Name, c.Found)
	}
	return fmt.Sprintf("missing  %s: %s, enough for %s connections; %s",
		c.Name, c.Found, units.Number(c.Reach), c.Advice)
}

// Reach is how many connections all checks are enough for.
func Reach(checks []Check) int {
	reach := math.MaxInt
	for _, c := range checks {
		reach = min(reach, c.Reach)
	}
	return reach
}

// machine is what the checks look at.
type machine struct {
	descriptors int   // the limit of one table
	split       error // why a thread cannot have a table of its own
	available   int64 // bytes of memory
	files       int   // of the whole machine, that may still be opened
	watches     int   // of epoll, for this user
	ports       int   // local ports for one pair of addresses
	conntrack   int   // connections that the packet filter may still track; 0: it does not
	cpus        int
}

// unlimited stands for what is not limited, or not known.
const unlimited = math.MaxInt32

func readMachine() machine {
	m := machine{descriptors: int(min(procfs.OwnFDLimit(), unlimited)), split: reactor.CanSplit(),
		available: procfs.Available(), files: unlimited, watches: unlimited, ports: procfs.EphemeralPorts(),
		cpus: runtime.GOMAXPROCS(0)}
	if f := numbers("/proc/sys/fs/file-nr"); len(f) == 3 {
		m.files = f[2] - f[0]
	}
	if f := numbers("/proc/sys/fs/epoll/max_user_watches"); len(f) == 1 {
		m.watches = f[0]
	}
	m.conntrack = tracked()
	if limit, used := numbers("/sys/fs/cgroup/memory.max"), numbers("/sys/fs/cgroup/memory.current"); len(limit) == 1 &&
		len(used) == 1 {
		m.available = min(m.available, int64(limit[0]-used[0]))
	}
	return m
}

// tracked is how many connections the packet filter may still track; 0 when it does not track those
// of this machine with itself: it is loaded in many a container that has no rule which uses it.
func tracked() int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer ln.Close()
	if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		defer conn.Close()
	}
	most, now := numbers("/proc/sys/net/netfilter/nf_conntrack_max"),
		numbers("/proc/sys/net/netfilter/nf_conntrack_count")
	if len(most) != 1 || len(now) != 1 || now[0] == 0 {
		return 0
	}
	return max(most[0]-now[0], 1)
}

// numbers reads a file of numbers; none when it holds anything else.
func numbers(name string) (all []int) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	for _, f := range strings.Fields(string(b)) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return nil
		}
		all = append(all, int(min(n, unlimited<<20)))
	}
	return all
}

// What one connection takes, both ends together.
const (
	kernelBytes = 8200 // sockets, files, inodes, epoll items
	userBytes   = 900  // the gateway and this tool
	fixedBytes  = 200 << 20
	// beatCPU is processor time for one heartbeat: written, read, its Ping answered.
	beatCPU = 50 * time.Microsecond
	// share is of the processors, for heartbeats: the rest is for messages and hiccups.
	share = 0.9
	// perSource is how many connections the load makes from one address; see package load.
	perSource = 4000
)

// preflight checks whether the machine can hold n connections.
func preflight(n int, heartbeat time.Duration, m machine) (checks []Check) {
	add := func(name, found string, reach float64, advice string) {
		c := Check{Name: name, Found: found, Reach: int(max(min(reach, unlimited), 0)), Advice: advice}
		if c.Enough = c.Reach >= n; c.Enough {
			c.Advice = ""
		}
		checks = append(checks, c)
	}
	tables := "each loop can have a table of its own"
	reach := float64(unlimited)
	if m.split != nil {
		tables, reach = m.split.Error(), float64(m.descriptors-512)
	}
	add("descriptors", fmt.Sprintf("%s a table; %s", units.Number(m.descriptors), tables), reach,
		"raise ulimit -n, or allow close_range (Linux 5.9)")
	add("memory", units.Bytes(float64(m.available))+" available",
		float64(m.available-fixedBytes)/(kernelBytes+userBytes),
		fmt.Sprintf("%s are needed", units.Bytes(float64(n)*(kernelBytes+userBytes)+fixedBytes)))
	add("open files of the machine", count(m.files)+" left", float64(m.files-1000)/2, "raise fs.file-max")
	add("epoll watches", count(m.watches), float64(m.watches-1000)/2, "raise fs.epoll.max_user_watches")
	ports := float64(unlimited)
	if m.ports < perSource {
		ports = 0
	}
	add("local ports", units.Number(m.ports)+" for each of the addresses in 127.0.0.0/8", ports,
		"widen net.ipv4.ip_local_port_range to 4,000 ports at least")
	if m.conntrack > 0 {
		add("connection tracking", count(m.conntrack)+" left", float64(m.conntrack),
			"raise net.netfilter.nf_conntrack_max")
	}
	add("processors", fmt.Sprintf("%d, for a heartbeat every %v", m.cpus, heartbeat),
		share*float64(m.cpus)*heartbeat.Seconds()/beatCPU.Seconds(), "use a longer --heartbeat")
	return checks
}

func count(n int) string {
	if n >= unlimited {
		return "no limit"
	}
	return units.Number(n)
}
