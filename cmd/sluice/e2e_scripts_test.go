package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRunRedis stops `make run-redis` the way a terminal does: the status is the gateway's, which
// drained, and nothing stays behind.
func TestRunRedis(t *testing.T) {
	for _, name := range []string{"redis-server", "redis-cli"} {
		program(t, name)
	}
	temporary := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "..", "scripts", "run-redis.sh"), "--listen=127.0.0.1:0", "--admin=off")
	cmd.Env = append(os.Environ(), "RUN_REDIS_GATEWAY="+binary, "TMPDIR="+temporary)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // killed, it could not end what it started
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer watchdog.Stop()
	var log strings.Builder
	redis := 0
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		line := lines.Text()
		fmt.Fprintln(&log, line)
		fmt.Sscanf(line, "redis-server: process %d,", &redis)
		if strings.Contains(line, `"msg":"ready"`) {
			cmd.Process.Signal(syscall.SIGINT)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGINT: %v, want status 0", err)
	}
	for _, word := range []string{`"msg":"ready"`, `"msg":"drained"`, `"status":0`} {
		if !strings.Contains(log.String(), word) {
			t.Errorf("the gateway's log has no %s", word)
		}
	}
	if redis == 0 {
		t.Error("it does not say which process redis-server is")
	} else if err := syscall.Kill(redis, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("redis-server, process %d, is still there (%v)", redis, err)
	}
	if left, err := os.ReadDir(temporary); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if t.Failed() {
		t.Log(log.String())
	}
}

// TestShellcheck: what reads shell scripts better than people do finds nothing.
func TestShellcheck(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("no shellcheck here (scripts/install-test-deps.sh installs it where apt-get has it)")
	}
	scripts, err := filepath.Glob(filepath.Join("..", "..", "scripts", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	out, err := exec.Command(shellcheck, append([]string{"--severity=warning"}, scripts...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
