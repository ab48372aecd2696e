package main

import (
	"math"
	"testing"
	"testing/fstest"
)

func TestDefaultBuffered(t *testing.T) {
	file := func(name, text string) fstest.MapFS {
		return fstest.MapFS{name: {Data: []byte(text)}}
	}
	const none = math.MaxInt64
	for _, tc := range []struct {
		name    string
		goLimit int64
		cgroup  fstest.MapFS
		want    int
	}{
		{"nothing is set", none, nil, 256 << 20},
		{"GOMEMLIMIT", 4 << 30, file("memory.max", "1073741824\n"), 1 << 30},
		{"cgroup version 2", none, file("memory.max", "1073741824\n"), 256 << 20},
		{"cgroup version 2, unlimited", none, file("memory.max", "max\n"), 256 << 20},
		{"cgroup version 1", none, file("memory/memory.limit_in_bytes", "2147483648\n"), 512 << 20},
		{"cgroup version 1, unlimited", none, file("memory/memory.limit_in_bytes", "9223372036854771712\n"), 256 << 20},
		{"very little", 1 << 20, nil, 16 << 20},
	} {
		if got := defaultBuffered(tc.goLimit, tc.cgroup); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}
