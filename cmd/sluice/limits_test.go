package main

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

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
	}{{4, "memory", 4}, {8, "memory", 4}, {1, "redis", 4}, {3, "redis", 4}, {4, "redis", 5}, {4, "memory", 4}, {8, "redis", 5}, {4, "memory", 4}, {3, "memory", 3}, {1, "memory", 1}} {
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
