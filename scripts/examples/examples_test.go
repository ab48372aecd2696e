// Package examples has no code but the test that runs the examples as their READMEs say.
package examples

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"

	"github.com/coder/websocket"
)

const patience = time.Minute

// channels is the example that publishes through Redis, and needs no control address.
const channels = "channels-chat"

// TestExamples runs the two commands of each README, with other ports, and has a conversation in
// two tabs of a browser.
func TestExamples(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "sluice")
	if out, err := exec.Command("go", "build", "-o", binary,
		"sluice/cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	for _, tt := range []struct {
		name  string
		port  string // of the service, in its README
		needs func() error
	}{
		{"django-chat", "9000", module("django")},
		{"node-chat", "9001", installed("npm", "node")},
		{channels, "9000", module("django", "channels", "channels_redis")},
		{"pushpin", "9000", installed("pushpin")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.needs(); err != nil {
				t.Skipf("%v; scripts/install-test-deps.sh installs what it needs", err)
			}
			port, control, gateway, files := freePort(t), freePort(t), freePort(t), t.TempDir()
			redis := freePort(t)
			address := "ws://127.0.0.1:" + gateway
			replace := strings.NewReplacer("bin/sluice", binary, "ws://127.0.0.1:7999", address,
				"127.0.0.1:"+tt.port, "127.0.0.1:"+port, "127.0.0.1:5561", "127.0.0.1:"+control, "6399", redis,
				"chat.py", "chat.py "+port, "server.js", "server.js "+port,
				"scripts/examples/pushpin/pushpin.conf", files+"/pushpin.conf", "/tmp/sluice-pushpin", files)
			conf, _ := os.ReadFile("pushpin/pushpin.conf")
			os.WriteFile(files+"/pushpin.conf",
				[]byte(strings.NewReplacer("/tmp/sluice-pushpin", files, "127.0.0.1:7999", "127.0.0.1:"+
					gateway, "5561", control).Replace(string(conf))), 0o600)
			env := append(os.Environ(), "CONTROL=http://127.0.0.1:"+control, "GATEWAY="+
				address, "SLUICE_LISTEN=127.0.0.1:"+gateway, "SLUICE_ADMIN=off",
				"REDIS=redis://127.0.0.1:"+
					redis, "npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false")
			needed := []string{port, gateway, control}
			if tt.name == channels {
				needed = []string{port, gateway, redis}
			}
			for _, command := range commands(t, tt.name) {
				start(t, replace.Replace(command), env)
			}
			for _, p := range needed {
				await(t, "something listens on "+p, func() bool { return listens(p) })
			}
			conversation(t, "http://127.0.0.1:"+port+"/")
		})
	}
}

// commands are the lines of the README's first block of shell.
func commands(t *testing.T, name string) []string {
	text, err := os.ReadFile(filepath.Join(name, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```sh\n")
	block, _, ok := strings.Cut(rest, "\n```")
	lines := strings.Split(strings.ReplaceAll(block, "\\\n", ""), "\n")
	if !ok || len(lines) != 2 {
		t.Fatalf("%s/README.md has no block of two commands", name)
	}
	return lines
}

// start runs a command from the root of the checkout, until the test ends.
func start(t *testing.T, command string, env []string) {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", command)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "../..", env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with all that it starts
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s\n%s", command, text)
		}
	})
}

// conversation opens the chat in two tabs, and says something in each that both see.
func conversation(t *testing.T, page string) {
	b := startBrowser(t)
	one, two := b.open(t, page), b.open(t, page)
	for _, tab := range []*tab{one, two} {
		tab.shows(t, "connected", "welcome to lobby")
	}
	one.say(t, "hello from the first")
	two.shows(t, "hello from the first")
	one.shows(t, "hello from the first")
	two.say(t, "grüße <b>from</b> the second")
	one.shows(t, "grüße <b>from</b> the second")
	two.shows(t, "grüße <b>from</b> the second")
}

// browser is a headless Chromium, spoken to by the DevTools protocol.
type browser struct{ address string }

func startBrowser(t *testing.T) *browser {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome",
		"google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("no Chromium in PATH; scripts/install-test-deps.sh installs it")
	}
	// not t.TempDir, which fails t when a helper still writes there
	profile, err := os.MkdirTemp("", "examples-browser")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(profile) })
	start(t, fmt.Sprintf("exec %s --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "+
		"--no-first-run --disable-background-networking "+
		"--disable-component-update --disable-sync --remote-debugging-port=0 --user-data-dir=%s "+
		"about:blank", path, profile), os.Environ())
	b := new(browser)
	await(t, "the browser is up", func() bool {
		text, err := os.ReadFile(filepath.Join(profile, "DevToolsActivePort"))
		port, _, ok := strings.Cut(string(text), "\n")
		b.address = "127.0.0.1:" + port
		return err == nil && ok
	})
	return b
}

// tab is one page.
type tab struct {
	conn *websocket.Conn
	id   int
}

func (b *browser) open(t *testing.T, page string) *tab {
	t.Helper()
	req, err := http.NewRequest(http.MethodPut, "http://"+b.address+"/json/new?"+page, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var target struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	text, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(text, &target); err != nil {
		t.Fatalf("open a tab: %v\n%s", err, text)
	}
	conn, _, err := websocket.Dial(t.Context(), target.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(1 << 20)
	t.Cleanup(func() { conn.CloseNow() })
	return &tab{conn: conn}
}

// run evaluates an expression whose value is a string.
func (p *tab) run(t *testing.T, expression string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p.id++
	request, _ := json.Marshal(map[string]any{"id": p.id, "method": "Runtime.evaluate",
		"params": map[string]any{"expression": expression}})
	if err := p.conn.Write(ctx, websocket.MessageText, request); err != nil {
		t.Fatal(err)
	}
	for {
		_, text, err := p.conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			ID     int
			Result struct{ Result struct{ Value any } }
		}
		if json.Unmarshal(text, &answer) == nil && answer.ID == p.id {
			return fmt.Sprint(answer.Result.Result.Value)
		}
	}
}

// shows waits until the page shows lines with these texts.
func (p *tab) shows(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		var lines string
		await(t, fmt.Sprintf("a line with %q", text), func() bool {
			lines = p.run(t, `[...document.querySelectorAll("#log li")].map(li => li.textContent).join("\n")`)
			return strings.Contains(lines, text)
		})
	}
}

func (p *tab) say(t *testing.T, text string) {
	t.Helper()
	quoted, _ := json.Marshal(text)
	p.run(t, fmt.Sprintf(`document.getElementById("text").value = %s; document.querySelector("button").click(); ""`, quoted))
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s", patience, what)
		}
	}
}

func listens(port string) bool {
	c, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func freePort(t *testing.T) string { return strconv.Itoa(gatewaytest.FreePort(t)) }

func installed(programs ...string) func() error {
	return func() error {
		for _, p := range programs {
			if _, err := exec.LookPath(p); err != nil {
				return err
			}
		}
		return nil
	}
}

// module asks for modules of the distribution's Python.
func module(names ...string) func() error {
	return func() error {
		if out, err := exec.Command("/usr/bin/python3", "-c", "import "+
			strings.Join(names, ", ")).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}
