package main

import (
	"math"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/gateway"
)

func TestFitConns(t *testing.T) {
	reserved := gateway.ReservedDescriptors(2)
	left := 20_000 - reserved
	for _, tc := range []struct {
		asked int
		loops int
		files uint64
		want  int
		err   string
	}{
		{0, 2, 20_000, left, ""},
		{1, 2, 20_000, 1, ""},
		{left - 1, 2, 20_000, left - 1, ""},
		{left, 2, 20_000, left, ""},
		{left + 1, 2, 20_000, 0, "lower --max-conns to at most 19488, or raise `ulimit -n` (LimitNOFILE= in a unit file) to 20001"},
		{0, 2, uint64(reserved), 0, "leaves none for connections"},
		{0, 2, uint64(reserved) + 1, 1, ""},
		{0, 2, 0, 0, "leaves none for connections"},
		{0, 2, math.MaxUint64, 1<<30 - reserved, ""}, // RLIM_INFINITY
		{0, 64, 20_000, left, ""},
		{0, 65, 20_000, left - 5, ""},
	} {
		got, err := fitConns(tc.asked, tc.loops, tc.files)
		if got != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("fitConns(%d, %d, %d): got %d, %v, want %d, %q", tc.asked, tc.loops, tc.files, got, err, tc.want, tc.err)
		}
	}
}

func TestRaiseFiles(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	lower := before
	lower.Cur = before.Max / 2
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	got, err := raiseFiles()
	if err != nil || got != before.Max {
		t.Errorf("got %d, %v, want the hard limit %d", got, err, before.Max)
	}
}

func TestTuneProcs(t *testing.T) {
	t.Setenv("GOMAXPROCS", "")
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	for _, tc := range []struct {
		loops int
		store string
		want  int
	}{{4, "memory", 4}, {8, "memory", 4}, {1, "redis", 4}, {3, "redis", 4}, {4, "redis", 5}, {4, "memory", 4}, {3, "memory", 3}, {1, "memory", 1}} {
		if tuneProcs(tc.loops, tc.store); runtime.GOMAXPROCS(0) != tc.want {
			t.Errorf("%d loops, %s: got GOMAXPROCS %d, want %d", tc.loops, tc.store, runtime.GOMAXPROCS(0), tc.want)
		}
	}
	runtime.GOMAXPROCS(4)
	t.Setenv("GOMAXPROCS", "4")
	if tuneProcs(1, "memory"); runtime.GOMAXPROCS(0) != 4 {
		t.Errorf("set by the user: got GOMAXPROCS %d, want 4", runtime.GOMAXPROCS(0))
	}
}
