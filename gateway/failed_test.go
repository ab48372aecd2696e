package gateway

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reactors lists the process' epoll descriptors.
func reactors(t *testing.T) map[int]bool {
	t.Helper()
	found := make(map[int]bool)
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, _ := os.Readlink(link); target == "anon_inode:[eventpoll]" {
			fd, _ := strconv.Atoi(filepath.Base(link))
			found[fd] = true
		}
	}
	return found
}

// A loop whose epoll_wait fails says so, and its connections do not hang.
func TestLoopThatFails(t *testing.T) {
	before := reactors(t)
	s := serve(t, Config{Loops: 1}, Echo{})
	c := open101(t, s, "/ws")
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	for fd := range reactors(t) {
		if !before[fd] {
			if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.workers[0].loop.Post(func() {}) // out of the wait under way, into one that fails
	select {
	case err := <-s.Failed():
		t.Log(err)
	case <-time.After(testPatience):
		t.Fatal("the failure was not reported")
	}
	if got := c.next(); got != "EOF" && got[:5] != "error" {
		t.Errorf("got %q, want the end of the connection", got)
	}
	if n := s.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
