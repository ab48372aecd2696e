package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// python finds an interpreter that has the websockets library: the first on the PATH, or the
// distribution's, for which scripts/install-test-deps.sh installs it. That script goes on without
// it where apt-get cannot get it, and then so does this test, but not in CI, where a skipped test
// would prove nothing.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if err := exec.CommandContext(t.Context(), name, "-c", "import websockets").Run(); err == nil {
			return name
		}
	}
	const why = "no python3 here has the websockets library: apt-get install python3-websockets"
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
	return ""
}

// pythonClient is a scenario of testdata/python/client.py, not yet started.
func pythonClient(t *testing.T, interpreter, scenario, listen string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, interpreter, filepath.Join("testdata", "python", "client.py"), scenario, "ws://"+listen)
}

func TestPythonClient(t *testing.T) {
	interpreter := python(t)
	_, quiet, _ := start(t, "--heartbeat=0")
	_, beating, _ := start(t, "--heartbeat=2s")
	for _, tc := range []struct{ scenario, listen string }{
		{"count", quiet}, {"resume", quiet}, {"large", quiet}, {"heartbeat", beating},
	} {
		t.Run(tc.scenario, func(t *testing.T) {
			if out, err := pythonClient(t, interpreter, tc.scenario, tc.listen).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("drain", func(t *testing.T) {
		drains(t, func(listen string) *exec.Cmd { return pythonClient(t, interpreter, "drain", listen) })
	})
}
