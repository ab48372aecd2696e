package gateway

import (
	"context"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// promtool, the tool of Prometheus itself, finds nothing to complain about.
func TestMetricsPleasePromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("promtool is missing (make test-deps installs it): %v", err)
	}
	s := serve(t, Config{}, nil)
	c := open101(t, s, "/ws")
	c.welcome(0, false)
	var b strings.Builder
	s.WriteMetrics(&b)
	text := b.String()
	for _, name := range []string{"sluice_max_connections", "sluice_build_info", "process_open_fds",
		"process_max_fds", "sluice_buffered_bytes"} {
		if !strings.Contains(text, "\n"+name) || !strings.Contains(text, "# TYPE "+name+" ") {
			t.Errorf("%s is missing, or has no type", name)
		}
	}
	cmd := exec.CommandContext(context.Background(), tool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// Ready is false from MaxConns on, and true again when a fiftieth of the room is free.
func TestReadyWhenFull(t *testing.T) {
	const most = 100
	s := serve(t, Config{MaxConns: most, Loops: 1}, Echo{})
	var conns []*wire
	open := func(n int) {
		for len(conns) < n {
			conns = append(conns, open101(t, s, "/ws"))
		}
		for len(conns) > n {
			conns[len(conns)-1].Close()
			conns = conns[:len(conns)-1]
		}
		await(t, "as many connections", func() bool { return s.Connections() == n })
	}
	for _, step := range []struct {
		held  int
		ready bool
	}{{most - 1, true}, {most, false}, {most - 1, false}, {most - 2, false}, {most - 3, true}, {most - 1, true}} {
		open(step.held)
		if err := s.Ready(); (err == nil) != step.ready {
			t.Errorf("with %d of %d connections: got %v, want ready %v", step.held, most, err, step.ready)
		}
	}
	open(most)
	c := dial(t, s)
	io.WriteString(c, "GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
	if resp, body := c.answer("GET"); resp.StatusCode != 503 || body != "not ready: full\n" {
		t.Errorf("got %d %q, want 503 and full", resp.StatusCode, body)
	}
}

// Unready is for the time before a drain: not ready, and still accepting.
func TestUnready(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	s.Unready()
	if err := s.Ready(); err != errDraining {
		t.Errorf("got %v, want %v", err, errDraining)
	}
	c := open101(t, s, "/ws")
	c.Write(text("a"))
	c.expect("text a")
}

func TestCheckOrigin(t *testing.T) {
	for _, tc := range []struct{ given, want string }{
		{"https://example.com", "https://example.com"},
		{"https://Example.COM:443", "https://example.com"},
		{"https://example.com/", ""},
		{"http://example.com:80", "http://example.com"},
		{"http://example.com:443", "http://example.com:443"},
		{"https://münchen.de", "https://xn--mnchen-3ya.de"},
		{"https://*.münchen.de:8443", "https://*.xn--mnchen-3ya.de:8443"},
		{"http://[::1]:8000", "http://[::1]:8000"},
		{"*", "*"}, {"null", "null"},
		{"https://*.", ""}, {"https://example.com.", ""}, {"https://*.example.com.", ""}, {"https://*.*.com", ""},
		{"https://a*.example.com", ""}, {"example.com", ""}, {"https://example.com/path", ""}, {"https://u@example.com", ""},
		{"https://", ""}, {"", ""}, {"https://exa mple.com", ""},
	} {
		got, err := CheckOrigin(tc.given)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%q: got %q, %v, want %q", tc.given, got, err, tc.want)
		}
	}
	if _, err := New(Config{Listen: "127.0.0.1:0", AllowedOrigins: []string{"https://*."}}, Echo{}); err == nil {
		t.Error("an origin that can never match was taken")
	}
}

func TestAllowedHosts(t *testing.T) {
	s := serve(t, Config{AllowedHosts: []string{"Good.example", "port.example:8000", "::1"}}, Echo{})
	for _, tc := range []struct {
		host string
		want int
	}{
		{"good.example", 101}, {"GOOD.example:1234", 101}, {"port.example:8000", 101}, {"[::1]:8000", 101}, {"[::1]", 101},
		{"port.example", 421}, {"port.example:8001", 421}, {"evil.example", 421}, {"good.example.evil.example", 421},
	} {
		c := dial(t, s)
		io.WriteString(c, strings.Replace(handshake(getChat), hostLine, "Host: "+tc.host, 1))
		if resp, _ := c.answer("GET"); resp.StatusCode != tc.want {
			t.Errorf("Host %s: got %d, want %d", tc.host, resp.StatusCode, tc.want)
		}
	}
}
