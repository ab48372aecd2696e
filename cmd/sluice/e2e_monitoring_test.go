package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"sluice/gateway/gatewaytest"
)

// expressions are the PromQL of the rules and of the dashboard.
func expressions(t *testing.T) (exprs []string) {
	t.Helper()
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "monitoring", "rules.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &rules)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			exprs = append(exprs, r.Expr)
		}
	}
	text, err = os.ReadFile(filepath.Join("..", "..", "scripts", "monitoring", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard any
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if e, ok := v["expr"].(string); ok {
				exprs = append(exprs, e)
			}
			for _, below := range v {
				walk(below)
			}
		case []any:
			for _, below := range v {
				walk(below)
			}
		}
	}
	walk(dashboard)
	if len(exprs) < 40 {
		t.Fatalf("%d expressions, want those of all rules and panels", len(exprs))
	}
	return exprs
}

// TestMonitoring: each metric of the rules and of the dashboard is one that a gateway really has,
// and each label value that they name, too.
func TestMonitoring(t *testing.T) {
	cert, key := certificate(t)
	_, _, admin := start(t, "--tls-listen=127.0.0.1:0", "--tls-cert="+cert, "--tls-key="+key)
	_, metrics := get(t, "http://"+admin+"/metrics")
	has := map[string]bool{}
	for line := range strings.Lines(metrics) {
		if name, _, ok := strings.Cut(line, "{"); ok {
			has[name] = true
		}
		if name, _, ok := strings.Cut(line, " "); ok {
			has[name] = true
		}
	}
	name := regexp.MustCompile(`\b(sluice|process|go)_[a-z0-9_]+`)
	label := regexp.MustCompile(`(reason|result|code|direction)="([a-z_0-9]+)"`)
	exprs := expressions(t)
	for _, e := range exprs {
		names := name.FindAllString(e, -1)
		if len(names) == 0 && !strings.Contains(e, "up{") {
			t.Errorf("no metric in %q", e)
		}
		for _, n := range names {
			if !has[n] {
				t.Errorf("no gateway has %s, of %q", n, e)
			}
		}
		for _, l := range label.FindAllString(e, -1) {
			if !strings.Contains(metrics, l) {
				t.Errorf("no series has %s, of %q", l, e)
			}
		}
	}
	if !strings.Contains(metrics, "\nsluice_ready 1\n") {
		t.Errorf("got %s, want sluice_ready 1", grep(metrics, "sluice_ready"))
	}

	// Prometheus itself reads the expressions of the dashboard, once Grafana's variables are
	// values.
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	for i, e := range exprs {
		e = strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*").Replace(e)
		rules = append(rules, rule{fmt.Sprintf("panel:%d", i), e})
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "all", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	panels := filepath.Join(t.TempDir(), "panels.yaml")
	if err := os.WriteFile(panels, text, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool := program(t, "promtool")
	check := exec.Command(promtool, "check", "metrics")
	check.Stdin = strings.NewReader(metrics)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
	monitoring := filepath.Join("..", "..", "scripts", "monitoring")
	for _, args := range [][]string{
		{"check", "rules", panels},
		{"check", "rules", filepath.Join(monitoring, "rules.yaml")},
		{"test", "rules", filepath.Join(monitoring, "rules_test.yaml")},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
}

// TestMonitorScript: it shows warnings of the log and the counters that grow fastest.
func TestMonitorScript(t *testing.T) {
	program(t, "curl")
	script := filepath.Join("..", "..", "scripts", "monitor.sh")
	t.Setenv("SLUICE_ADMIN_TOKEN", "0123456789abcdef")
	_, listen, admin := start(t, "--heartbeat=0")
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("{\"level\":\"ERROR\",\"msg\":\"an old one\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	said := func() string {
		text, err := os.ReadFile(out.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	cmd := exec.CommandContext(t.Context(), script, "--every", "1", "http://"+admin+"/metrics", log)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, _ := session(t, listen, "", 0)
	n := 0
	waitFor(t, "the counters and the error", func() bool {
		n++
		c.Write(gatewaytest.Text("x"))
		c.Expect(fmt.Sprintf(`text {"count":%d}`, n))
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, "{\"level\":\"INFO\",\"msg\":\"all is well\"}\n{\"level\":\"ERROR\",\"msg\":\"a new one\"}\n")
		f.Close()
		text := said()
		return strings.Contains(text, "a new one") && strings.Contains(text, "  sluice_messages_received_total\n")
	})
	if text := said(); strings.Contains(text, "an old one") || strings.Contains(text, "all is well") {
		t.Errorf("got %s, want new errors only", text)
	}
	_ = cmd.Process.Signal(os.Interrupt)
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("after an interrupt: %v", cmd.ProcessState)
	}

	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--every", "x"}, 2, "wants a number"},
		{[]string{"--often", "1"}, 2, "--often is unknown"},
		{[]string{"ftp://x"}, 2, "is no http"},
		{[]string{"--rounds", "1", "--every", "1", "http://" + deafPort(t) + "/metrics"}, 0, "does not answer"},
	} {
		cmd := exec.Command(script, tc.args...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != tc.status || !strings.Contains(string(out), tc.says) {
			t.Errorf("monitor.sh %q: got %d and %q, want %d and %q", tc.args, got, out, tc.status, tc.says)
		}
	}
}
