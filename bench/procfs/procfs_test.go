package procfs

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Descriptors of threads with a table of their own count, and those that share one count once.
func TestDescriptorsOfAllTables(t *testing.T) {
	pid := os.Getpid()
	before := Descriptors(pid)
	if before < 3 {
		t.Fatalf("%d descriptors are open, want standard input, output and error at least", before)
	}
	stay, ready := make(chan bool), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the table ends with the thread
		err := unix.CloseRange(3, 1<<31, unix.CLOSE_RANGE_UNSHARE)
		for i := 0; err == nil && i < 100; i++ {
			_, err = unix.Eventfd(0, unix.EFD_CLOEXEC)
		}
		ready <- err
		<-stay
	}()
	defer close(stay)
	if err := <-ready; err != nil {
		t.Skip(err)
	}
	if got := Descriptors(pid) - before; got < 100 || got > 110 {
		t.Errorf("%d descriptors more, want 100 and those that both tables have", got)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := Sample(1 << 30)
	if err == nil {
		t.Errorf("a process that does not exist used %+v", u)
	}
	if _, err := Sample(os.Getpid(), 1<<30); err == nil {
		t.Error("of two processes one does not exist, and nothing is said")
	}
	one, err := SampleCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	two, err := SampleCPU(os.Getpid(), os.Getpid())
	if err != nil || two.Processes < 2 || two.CPUSeconds < 2*one.CPUSeconds {
		t.Errorf("counted twice: %+v after %+v (%v)", two, one, err)
	}
	if got := kilobytes([]byte("Rss:   12 kB\nName: x\nPss: 3 kB\nbad kB\n")); got["Rss"] != 12<<10 || got["Pss"] != 3<<10 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}
