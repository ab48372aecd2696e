package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// promotion is scripts/promote.sh with a directory, two colours and a balancer of its own.
type promotion struct {
	*testing.T
	dir, public string
	env         []string
}

// benchBinary is sluice-bench, built once.
var benchBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(binary), "sluice-bench")
	out, err := exec.Command("go", "build", "-o", path, "../sluice-bench").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// promoting starts a balancer, none for takeover. Whatever the colours are when the test ends is
// killed.
func promoting(t *testing.T, balancer string, args ...string) *promotion {
	t.Helper()
	for _, name := range []string{"curl", "flock"} {
		program(t, name)
	}
	bench, err := benchBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &promotion{T: t, dir: dir, public: freeAddress(t)}
	blue, green := freeAddress(t), freeAddress(t)
	args = append(args, "--heartbeat=0", "--drain-spread=100ms", "--loops=1", "--drain-timeout=20s")
	p.env = []string{
		"PROMOTE_SWITCH=" + balancer, "PROMOTE_DIR=" + dir, "PROMOTE_WAIT=30",
		"PROMOTE_BINARY=" + binary, "PROMOTE_BENCH=" + bench,
		"PROMOTE_URL=ws://" + p.public + "/ws/chat/",
		"PROMOTE_BLUE_URL=ws://" + blue + "/ws/chat/", "PROMOTE_GREEN_URL=ws://" + green + "/ws/chat/",
		"PROMOTE_BLUE_ARGS=--admin=off --listen=" + blue, "PROMOTE_GREEN_ARGS=--admin=off --listen=" + green,
		"PROMOTE_LIVE_ARGS=--admin=off --listen=" + p.public, "PROMOTE_ARGS=" + strings.Join(args, " "),
	}
	t.Cleanup(p.killAll)
	if balancer != "takeover" {
		p.balance(balancer, map[string]string{
			"127.0.0.1:8010": blue, "127.0.0.1:8020": green,
			"bind :8000": "bind " + p.public, "listen 8000": "listen " + p.public, `":8000"`: `"` + p.public + `"`,
		})
	}
	return p
}

// killAll ends the gateways that promote.sh has started: those that run a binary below its
// directory.
func (p *promotion) killAll() {
	processes, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range processes {
		if to, err := os.Readlink(exe); err == nil && strings.HasPrefix(to, p.dir+"/") {
			pid, _ := strconv.Atoi(strings.Split(exe, "/")[2])
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// balance starts the balancer with the configuration of scripts/balancers, on this test's
// addresses.
func (p *promotion) balance(balancer string, replace map[string]string) {
	p.Helper()
	path, err := exec.LookPath(balancer)
	if err != nil {
		p.Skipf("no %s here", balancer)
	}
	files := map[string][]string{
		"haproxy": {"haproxy.cfg", "active.map"},
		"nginx":   {"nginx.conf", "active.conf"},
		"traefik": {"traefik.yaml", "routes.yaml"},
	}[balancer]
	replace["/run/"] = p.dir + "/"
	replace["/etc/haproxy/"] = p.dir + "/"
	replace["haproxy/sluice.sock"] = "sluice.sock"
	replace["scripts/balancers"] = p.dir
	replace["worker_rlimit_nofile 1048576;"] = "" // not ours to raise here
	replace["worker_connections 200000;"] = "worker_connections 2000;"
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "balancers", name))
		if err != nil {
			p.Fatal(err)
		}
		for from, to := range replace {
			text = []byte(strings.ReplaceAll(string(text), from, to))
		}
		if err := os.WriteFile(filepath.Join(p.dir, name), text, 0o600); err != nil {
			p.Fatal(err)
		}
	}
	config := filepath.Join(p.dir, files[0])
	p.env = append(p.env, "PROMOTE_FILE="+filepath.Join(p.dir, files[1]))
	var check, run []string
	switch balancer {
	case "haproxy":
		check, run = []string{"-c", "-f", config}, []string{"-db", "-f", config}
		p.env = append(p.env, "PROMOTE_SOCKET="+filepath.Join(p.dir, "sluice.sock"))
	case "nginx":
		nginx := []string{"-p", p.dir, "-c", config, "-e", "stderr"}
		check, run = append(nginx, "-t"), append(nginx, "-g", "daemon off;")
		p.env = append(p.env, "PROMOTE_RELOAD="+strings.Join(append([]string{path}, append(nginx, "-s", "reload")...), " "))
	case "traefik":
		run = []string{"--configFile=" + config}
	}
	if check != nil {
		if out, err := exec.Command(path, check...).CombinedOutput(); err != nil {
			p.Fatalf("%s refuses %s: %v\n%s", balancer, config, err, out)
		}
	}
	cmd := exec.Command(path, run...)
	log, err := os.Create(filepath.Join(p.dir, "balancer.log"))
	if err != nil {
		p.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its workers
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); p.Failed() {
			p.Logf("%s says:\n%s", balancer, text)
		}
	})
	waitFor(p.T, balancer+" listens", func() bool {
		conn, err := net.Dial("tcp", p.public)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// command is promote.sh, to be started.
func (p *promotion) command(name string, env ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.Context(), filepath.Join("..", "..", "scripts", "promote.sh"), name)
	cmd.Env = append(append(os.Environ(), p.env...), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience
	return cmd
}

// does runs promote.sh, which must end with this status and say this.
func (p *promotion) does(name string, status int, want string, env ...string) {
	p.Helper()
	cmd := p.command(name, env...)
	out, err := cmd.CombinedOutput()
	if got := cmd.ProcessState.ExitCode(); got != status || !strings.Contains(string(out), want) {
		p.Fatalf("promote.sh %s: got status %d (%v), want %d and %q\n%s", name, got, err, status, want, out)
	}
}

// colour is what the balancer gives a new client now.
func (p *promotion) colour() string {
	res, err := http.Get("http://" + p.public + "/readyz")
	if err != nil {
		return err.Error()
	}
	res.Body.Close()
	return cmp.Or(res.Header.Get("X-Sluice-Colour"), res.Status)
}

// direct asks a colour at its own path of the balancer.
func (p *promotion) direct(colour string) {
	p.Helper()
	res, err := http.Get("http://" + p.public + "/colour/" + colour + "/readyz")
	if err != nil {
		p.Fatal(err)
	}
	res.Body.Close()
	if got := res.Header.Get("X-Sluice-Colour"); res.StatusCode != http.StatusOK || got != colour {
		p.Errorf("the path of %s leads to %q, %s", colour, got, res.Status)
	}
}

// TestPromote switches under clients that count: through each balancer, where every client is told
// with bye and 1001, and comes back to its count; and by takeover, where none notices anything.
// PROMOTE_SWITCHES and PROMOTE_CLIENTS make it longer.
func TestPromote(t *testing.T) {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
			return n
		}
		return otherwise
	}
	switches, clients := number("PROMOTE_SWITCHES", 2), number("PROMOTE_CLIENTS", 15)
	for _, balancer := range []string{"takeover", "haproxy", "nginx", "traefik"} {
		t.Run(balancer, func(t *testing.T) {
			t.Parallel() // it waits more than it works
			var args []string
			if balancer != "takeover" {
				args = []string{"--session-store=redis", "--redis-url=" + redisServer(t)}
			}
			p := promoting(t, balancer, args...)
			p.does("rollback", 0, "nothing to roll back; nothing serves")
			p.does("promote", 0, "nothing is deployed; nothing serves")
			p.does("deploy", 0, "blue is deployed; clients stay on nothing")
			p.does("deploy", 0, "blue is deployed; clients stay on nothing")
			p.does("promote", 0, "blue serves")
			p.does("promote", 0, "nothing is deployed; blue serves")
			p.does("rollback", 0, "nothing to roll back; blue serves")
			p.does("status", 0, "active blue, deployed none, rollback to none")
			if balancer == "traefik" {
				p.direct("blue")
			}

			l := startCounters(t, p.public, clients)
			for i := range switches {
				if i%3 == 2 {
					p.does("rollback", 0, "serves")
				} else {
					p.does("deploy", 0, "is deployed")
					p.does("promote", 0, "serves")
				}
				l.untilCounted()
			}
			moves := 0
			if balancer != "takeover" {
				moves = switches
			}
			l.stop(moves)
			t.Logf("%s: %d switches, %d clients: %s", balancer, switches, clients, l)
		})
	}
}

// TestPromoteReverts: whatever is wrong with the new version, clients stay where they are.
func TestPromoteReverts(t *testing.T) {
	p := promoting(t, "haproxy", "--session-store=redis", "--redis-url="+redisServer(t))
	p.does("deploy", 0, "blue is deployed")
	p.does("promote", 0, "blue serves")
	l := startCounters(t, p.public, 5)
	script := func(text string) string {
		path := filepath.Join(t.TempDir(), "sluice")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
		return "PROMOTE_BINARY=" + path
	}
	for _, tc := range []struct{ name, binary, says string }{
		{"ends at once", script("echo cannot >&2; exit 3"), "green ended: cannot"},
		{"never ready", script("[ $1 = version ] || exec sleep 60"), "green is not ready after 1 s"},
		// It becomes ready, and answers nothing.
		{"wrong answers", script(`[ $1 = version ] || exec "` + binary + `" "$@" --app=echo --session-store=memory`), "green does not hold"},
	} {
		p.does("deploy", 1, tc.says, tc.binary, "PROMOTE_WAIT=1", "PROMOTE_CHECK=--timeout=1s")
		p.does("status", 0, "active blue, deployed none")
		if got := p.colour(); got != "blue" {
			t.Fatalf("%s: new clients get to %s", tc.name, got)
		}
	}
	p.does("deploy", 0, "green is deployed")
	// The balancer cannot be told, does not follow, or leads to something else.
	p.does("promote", 1, "CANNOT SWITCH BACK", "PROMOTE_SOCKET=/nonexistent")
	p.does("status", 0, "a switch to green was interrupted")
	p.does("rollback", 0, "blue serves")
	p.does("deploy", 0, "green is deployed")
	p.does("promote", 1, "reverted: blue serves", "PROMOTE_CHECK=--header=Origin:http://elsewhere.example")
	p.does("status", 0, "active blue, deployed none")
	if got := p.colour(); got != "blue" {
		t.Errorf("new clients get to %s", got)
	}
	l.untilCounted()
	l.stop(0)
	for _, tc := range []struct{ command, says, env string }{
		{"promotion", "want deploy, promote, rollback or status", ""},
		{"deploy", "want takeover, haproxy, nginx or traefik", "PROMOTE_SWITCH=dns"},
		{"deploy", "is not the file", "PROMOTE_FILE=/nonexistent"},
		{"deploy", "is no program", "PROMOTE_BINARY=/nonexistent"},
		{"deploy", "is no ws://", "PROMOTE_URL=http://x/"},
		{"deploy", "want seconds", "PROMOTE_WAIT=1m"},
		{"deploy", "want process or systemd", "PROMOTE_RUNNER=docker"},
	} {
		p.does(tc.command, 2, tc.says, tc.env)
	}
}

// TestPromoteInterrupted ends promote.sh at its n-th command, by SIGKILL or by SIGTERM, and
// goes on with promote or rollback. No client loses more than its connection, with bye and 1001.
// PROMOTE_EVERY=1 does so at every command.
func TestPromoteInterrupted(t *testing.T) {
	every := 9
	if n, err := strconv.Atoi(os.Getenv("PROMOTE_EVERY")); err == nil && n > 0 {
		every = n
	}
	p := promoting(t, "haproxy", "--session-store=redis", "--redis-url="+redisServer(t))
	// Each of these counts itself, and one of them ends the script, which leads their process
	// group.
	shims := filepath.Join(p.dir, "shims")
	if err := os.Mkdir(shims, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mv", "cp", "sync", "socat", "curl", "sed", "touch", "setsid"} {
		text := fmt.Sprintf("#!/bin/bash\necho %[1]s >>\"$SHIM_LOG\"\nn=$(wc -l <\"$SHIM_LOG\")\n"+
			"read -r -a s </proc/$$/stat\n"+
			"if [ $n = \"$SHIM_AT\" ]; then case $SHIM_SIGNAL in KILL) kill -KILL -- -${s[4]};; *) kill -TERM ${s[4]};; esac; fi\n"+
			"exec %[2]s \"$@\"\n", name, program(t, name))
		if err := os.WriteFile(filepath.Join(shims, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	log := filepath.Join(p.dir, "shims.log")
	// interrupted runs a command of promote.sh, and reports whether it came to its n-th command.
	interrupted := func(name, signal string, n int) bool {
		_ = os.Remove(log)
		out, _ := p.command(name, "PATH="+shims+":"+os.Getenv("PATH"), "SHIM_LOG="+log,
			"SHIM_AT="+strconv.Itoa(n), "SHIM_SIGNAL="+signal).CombinedOutput()
		text, _ := os.ReadFile(log)
		if t.Failed() {
			t.Logf("promote.sh %s: %s", name, out)
		}
		return strings.Count(string(text), "\n") >= n
	}
	p.does("deploy", 0, "blue is deployed")
	p.does("promote", 0, "blue serves")
	l := startCounters(t, p.public, 5)
	signals, times := []string{"KILL", "TERM"}, 0
	for _, command := range []string{"deploy", "promote", "rollback"} {
		for n := 1; ; n += every {
			signal := signals[times%2]
			times++
			p.does("promote", 0, "serves") // what the one before left
			if command != "deploy" {
				p.does("deploy", 0, "is deployed")
			}
			if command == "rollback" {
				p.does("promote", 0, "serves")
			}
			if !interrupted(command, signal, n) {
				break
			}
			// Go on, forwards or backwards.
			next := []string{"promote", "rollback", "deploy"}[times%3]
			p.does(next, 0, "")
			p.does("status", 0, "ready")
			l.untilCounted()
			if t.Failed() {
				t.Fatalf("%s ended by %s at its command %d, then %s", command, signal, n, next)
			}
		}
	}
	l.stop(-1)
	t.Logf("interrupted %d times: %s", times, l)
}

// Two at once: the second says so.
func TestPromoteOnlyOne(t *testing.T) {
	p := promoting(t, "takeover")
	lock, err := os.Create(filepath.Join(p.dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Fatal(err)
	}
	p.does("deploy", 1, "another promote.sh is at work")
	if err := os.WriteFile(filepath.Join(p.dir, "state"), []byte("blue rm -rf\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.does("status", 1, "state is damaged")
}
