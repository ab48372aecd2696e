package poller

import (
	"os"
	"os/exec"
	"testing"
)

// yields makes all loops of the tests yield.
var yields = os.Getenv("SLUICE_TEST_YIELDS") != ""

// Loops that yield do all that others do.
func TestYields(t *testing.T) {
	if yields {
		t.Skip("this is the test of it")
	}
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.timeout=5m")
	cmd.Env = append(os.Environ(), "SLUICE_TEST_YIELDS=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// What a loop has opened to yield is closed with it.
func TestALoopThatYieldedIsGone(t *testing.T) {
	before := len(mainTable(t))
	for range 20 {
		l, err := Start(Config{Yields: true}, func(l *Loop) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		on(t, l, func() {})
		l.Close()
		if err := l.Wait(); err != nil {
			t.Error(err)
		}
	}
	if after := len(mainTable(t)); after > before+2 { // other tests may run
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
}

// Without a descriptor for it, a loop that is to yield does not open, and says why.
func TestNoDescriptorToYield(t *testing.T) {
	if !alone(t) {
		return
	}
	setFileLimit(t, 64)
	for left := range 6 {
		fillers := fill()
		closeAll(fillers[:left])
		for range 3 { // what leaks at the first attempt is missing at the next
			l, err := NewLoop(Config{Yields: true})
			if want := left >= 4; (err == nil) != want {
				t.Fatalf("%d descriptors left: got %v, want success %v", left, err, want)
			}
			if err == nil {
				l.Close()
				if err := l.Run(); err != nil {
					t.Error(err)
				}
			}
		}
		if got := fill(); len(got) != left {
			t.Errorf("%d descriptors left of %d after three attempts", len(got), left)
		} else {
			closeAll(got)
		}
		closeAll(fillers[left:])
	}
}
