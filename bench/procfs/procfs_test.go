package procfs

import "testing"

func TestUsageOfThisProcess(t *testing.T) {
	u, err := Sample(1 << 30)
	if err == nil {
		t.Errorf("a process that does not exist used %+v", u)
	}
	if got := kilobytes([]byte("Rss:   12 kB\nName: x\nPss: 3 kB\nbad kB\n")); got["Rss"] != 12<<10 || got["Pss"] != 3<<10 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}
