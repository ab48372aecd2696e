package main

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// gcPercent trades CPU for memory: most of the heap is connections that hardly change, so
// collecting at a fifth of their growth costs little and keeps bytes per connection low. With
// Redis each batch makes garbage, and still the price is not to be seen beside that of the system
// calls: see sessions/README.md.
const gcPercent = 20

// raiseFiles raises the soft limit of open files to the hard one. The Go runtime does the same at
// start; this makes sure, and says what it got.
func raiseFiles() (limit uint64, err error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return 0, fmt.Errorf("raise the limit of open files to %d: %w", l.Max, err)
		}
	}
	return l.Cur, nil
}

// defaultBuffered is what connections may hold in all: a quarter of the memory that the process may
// use, by GOMEMLIMIT or else by its cgroup, and 256 MiB where neither is set. The rest is for the
// connections themselves and for the kernel's socket buffers, which a cgroup is charged for too.
func defaultBuffered(goLimit int64, cgroup fs.FS) int {
	const usual, least = 256 << 20, 16 << 20
	limit := goLimit
	if limit == math.MaxInt64 {
		for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
			text, err := fs.ReadFile(cgroup, name)
			if err != nil {
				continue
			}
			// Version 1 says "none" with a number near the largest, version 2 with
			// "max".
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n < 1<<60 {
				limit = n
				break
			}
		}
	}
	if limit == math.MaxInt64 {
		return usual
	}
	return int(max(limit/4, least))
}

// tuneGC sets the pace of the garbage collector, unless the user did.
func tuneGC() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

// tuneProcs sets how many threads run Go code, unless the user did.
//
// When the loops do all the work, no more than there are loops: the Go scheduler wakes an idle
// thread each time a loop runs out of events, and that one takes the loop over. With one loop on
// two cores a message costs 18 µs so, and 25 µs without (20,000 a second).
//
// With more loops than cores, one thread for each core, as Go has it. With 53 loops on two cores
// connects and drains are dearer with any other number of threads (bench/README.md).
//
// With Redis, one more than there are loops, or cores: a loop that waits in epoll_wait keeps its
// place for up to 10 ms, in which nobody else may read what Redis answers. At 10,000 messages a
// second on two cores, half of the acknowledgements come within 0.4 ms so, and 15 ms without. With
// one for each of 53 loops, a connect costs three times the CPU, and acknowledgements take ten
// times as long.
func tuneProcs(loops int, store string) {
	procs := runtime.GOMAXPROCS(0)
	switch {
	case os.Getenv("GOMAXPROCS") != "":
	case store == "redis":
		runtime.GOMAXPROCS(max(procs, min(procs, loops)+1))
	default:
		runtime.GOMAXPROCS(min(procs, loops))
	}
}
