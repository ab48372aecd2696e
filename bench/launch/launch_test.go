package launch

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start(exec.Command("/bin/sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Stop(0) })
	return p
}

func TestHowAProcessEnded(t *testing.T) {
	p := start(t, "echo out; echo err >&2; exit 3")
	if err := p.Wait(); err == nil || err.Error() != "exit status 3" {
		t.Errorf("it ended with %v, want exit status 3", err)
	}
	if got := p.LastOutput(); got != "out\nerr" {
		t.Errorf("its output is %q", got)
	}
	if err := p.Stop(time.Second); err == nil {
		t.Error("stopping it again forgot how it ended")
	}
	if _, err := Start(exec.Command("/nonexistent")); err == nil {
		t.Error("a program that does not exist was started")
	}
}

func TestStopKillsWhatIgnoresSIGTERM(t *testing.T) {
	p := start(t, "trap '' TERM; echo ready; while :; do sleep 1; done")
	for end := time.Now().Add(time.Minute); p.LastOutput() != "ready"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not start")
		}
	}
	if err := p.Stop(10 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v, want killed", err)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	var tail Tail
	for range 10 {
		_, _ = tail.Write([]byte(strings.Repeat("x", tailBytes/2-1) + "y"))
	}
	if got := tail.String(); len(got) != tailBytes || !strings.HasSuffix(got, "xy") {
		t.Errorf("%d bytes are kept, want the last %d", len(got), tailBytes)
	}
}
