package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSystemdUnits: systemd accepts the units, they confine the gateway, and the gateway accepts
// its arguments in them.
func TestSystemdUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("no systemd-analyze here")
	}
	dir := t.TempDir()
	settings := filepath.Join(dir, "sluice.yaml")
	if err := os.WriteFile(settings, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile(`(?m)^Exec(Start|Reload)=(\S+) (.*)$`)
	var units []string
	for _, name := range []string{"sluice.service", "sluice.socket", "sluice@.service"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		commands := command.FindAllStringSubmatch(string(text), -1)
		for _, c := range commands {
			args := strings.Fields(strings.ReplaceAll(c[3], "/etc/sluice/sluice.yaml", settings))
			switch c[1] {
			case "Start":
				args[0] = "config" // judges the same settings as serve
			case "Reload":
				args = append(args, "--help")
			}
			if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil {
				t.Errorf("%s: sluice %q: %v\n%s", name, args, err, out)
			}
		}
		if service := strings.HasSuffix(name, ".service"); service != (len(commands) > 0) {
			t.Errorf("%s has %d commands", name, len(commands))
		}
		unit := filepath.Join(dir, strings.ReplaceAll(name, "@.", "@blue."))
		whole := command.ReplaceAllString(string(text), "Exec${1}="+binary+" ${3}")
		if err := os.WriteFile(unit, []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, unit := range units {
		if !strings.HasSuffix(unit, ".service") {
			continue
		}
		// Of 100; what is left is mostly that it has a network.
		out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
	}
}

// TestPromoteUnits: promote.sh with units in place of processes. A systemctl of this test's starts
// and stops them, as systemd does: stop returns when the service has ended.
func TestPromoteUnits(t *testing.T) {
	p := promoting(t, "haproxy", "--session-store=redis", "--redis-url="+redisServer(t))
	shims := filepath.Join(p.dir, "systemd")
	if err := os.Mkdir(shims, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`#!/bin/bash
dir=%s unit=${*: -1} colour=${unit#sluice@} colour=${colour%%.service}
pid=$(cat $dir/systemd/$colour 2>/dev/null)
echo "$*" >>$dir/systemd/log
case $1 in
is-active) [ -n "$pid" ] && [ -e /proc/$pid/exe ] ;;
start)
	args=PROMOTE_${colour^^}_ARGS
	setsid $dir/$colour/sluice serve ${!args} $PROMOTE_ARGS >/dev/null 2>&1 9>&- &
	echo $! >$dir/systemd/$colour
	;;
stop)
	kill -TERM $pid
	while [ -e /proc/$pid/exe ]; do sleep 0.05; done
	;;
*) exit 1 ;;
esac
`, p.dir)
	if err := os.WriteFile(filepath.Join(shims, "systemctl"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	p.env = append(p.env, "PROMOTE_RUNNER=systemd", "PATH="+shims+":"+os.Getenv("PATH"))
	p.does("deploy", 0, "blue is deployed")
	p.does("promote", 0, "blue serves")
	l := startCounters(t, p.public, 3)
	p.does("deploy", 0, "green is deployed")
	p.does("promote", 0, "green serves")
	l.untilCounted()
	p.does("rollback", 0, "blue serves")
	l.untilCounted()
	p.does("deploy", 1, "reverted: blue serves", "PROMOTE_CHECK=--app=echo --timeout=1s")
	l.untilCounted()
	l.stop(2)
	p.does("status", 0, "active blue, deployed none")
	log, err := os.ReadFile(filepath.Join(shims, "log"))
	if err != nil || !strings.Contains(string(log), "stop sluice@green.service\n") {
		t.Errorf("systemctl was told %s (%v), want green to be stopped", log, err)
	}
}
