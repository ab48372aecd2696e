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
