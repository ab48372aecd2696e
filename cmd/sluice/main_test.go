package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "sluice-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "sluice")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// patience is how long a test waits for something that should take milliseconds, on a machine that
// is busy.
const patience = time.Minute

// process is a running gateway and its log.
type process struct {
	*testing.T
	cmd   *exec.Cmd
	lines chan string // of the log; closed at its end
	log   []string    // what has been taken from lines
}

// start runs the gateway on ports of its own and waits until it says that it is ready.
func start(t *testing.T, args ...string) (p *process, listen, admin string) {
	t.Helper()
	p = launch(t, append([]string{"serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--drain-timeout=1m"}, args...)...)
	ready := p.until("ready")
	listen, _ = ready["listen"].(string)
	admin, _ = ready["admin"].(string)
	if listen == "" || admin == "" {
		t.Fatalf("the ready line %v does not say where", ready)
	}
	return p, listen, admin
}

func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return launchCommand(t, exec.Command(binary, args...))
}

// launchCommand is launch for a gateway that is started in another way.
func launchCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{T: t, cmd: cmd, lines: make(chan string, 1000)}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		for range p.lines { // let the reader end
		}
		<-read
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", strings.Join(p.log, "\n"))
		}
	})
	return p
}

// until returns the next log line with this message.
func (p *process) until(msg string) map[string]any {
	p.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				p.Fatalf("the log ended before %q", msg)
			}
			p.log = append(p.log, line)
			m := map[string]any{}
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				p.Fatalf("log line %q is not JSON: %v", line, err)
			}
			if m["msg"] == msg || msg == "" {
				return m
			}
		case <-deadline:
			p.Fatalf("no %q in the log after %v", msg, patience)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.Fatal(err)
	}
}

// exit waits for the end of the process and returns its status.
func (p *process) exit() int {
	p.Helper()
	watchdog := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer watchdog.Stop()
	for line := range p.lines { // Wait closes the pipe, so the log comes first
		p.log = append(p.log, line)
	}
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	c := http.Client{Timeout: patience}
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func TestServe(t *testing.T) {
	p, listen, admin := start(t)

	ws, res, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial("ws://"+listen+"/ws/chat/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetReadDeadline(time.Now().Add(patience))
	id := res.Header.Get("X-Session-Id")
	if _, welcome, err := ws.ReadMessage(); err != nil || !strings.Contains(string(welcome), id) || id == "" {
		t.Fatalf("welcome: got %q, %v, want session %q in it", welcome, err, id)
	}
	for i := 1; i <= 3; i++ {
		if err := ws.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, reply, err := ws.ReadMessage(); err != nil || string(reply) != fmt.Sprintf(`{"count":%d}`, i) {
			t.Fatalf("message %d: got %q, %v", i, reply, err)
		}
	}

	for _, tc := range []struct {
		url    string
		status int
		body   string // a part of it
	}{
		{"http://" + listen + "/healthz", 200, ""},
		{"http://" + listen + "/readyz", 200, ""},
		{"http://" + admin + "/healthz", 200, "ok"},
		{"http://" + admin + "/readyz", 200, "ready"},
		{"http://" + admin + "/sessions/" + id, 200, `"count":3`},
		{"http://" + admin + "/sessions/00000000-0000-4000-8000-000000000000", 404, "no such session"},
		{"http://" + admin + "/sessions/x", 400, "malformed"},
		{"http://" + admin + "/version", 200, `"go":"go1.`},
		{"http://" + admin + "/metrics", 200, "\nsluice_connections 1\n"},
		{"http://" + admin + "/debug/pprof/", 200, "goroutine"},
	} {
		if status, body := get(t, tc.url); status != tc.status || !strings.Contains(body, tc.body) {
			t.Errorf("%s: got %d %.300q, want %d with %q", tc.url, status, body, tc.status, tc.body)
		}
	}

	p.signal(syscall.SIGHUP) // is told about, and changes nothing
	p.until("SIGHUP ignored: the next process needs a way to take the connections over (set --takeover)")

	p.signal(syscall.SIGTERM)
	_, bye, err := ws.ReadMessage()
	if err != nil || string(bye) != `{"bye":true,"total":3}` {
		t.Errorf("drain: got %q, %v, want the bye with 3", bye, err)
	}
	// Reading on answers the Close; then it is for the client to hang up.
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("drain: got %v, want close 1001", err)
	}
	ws.Close()
	if status := p.exit(); status != exitClean {
		t.Errorf("after a drain: got status %d, want 0", status)
	}
	p.logged("start", "ready", "SIGHUP ignored: the next process needs a way to take the connections over (set --takeover)", "drain", "drained", "exit")
}

// logged checks the messages of the whole log, in order: one line for each step of life, none for a
// connection.
func (p *process) logged(want ...string) {
	p.Helper()
	var got []string
	for _, line := range p.log {
		m := map[string]any{}
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			p.Errorf("log line %q is not JSON: %v", line, err)
		}
		got = append(got, fmt.Sprint(m["msg"]))
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		p.Errorf("log: got %q, want %q", got, want)
	}
}

// A client that never answers keeps the drain waiting; a second signal does not wait for it.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	p, listen, admin := start(t, "--drain-timeout=10m", "--drain-spread=0")
	c, err := net.Dial("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", listen)
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, " 101 ") {
		t.Fatalf("handshake: got %q, %v", line, err)
	}
	p.signal(syscall.SIGINT)
	p.until("drain")
	// The admin address goes on telling why no client should come.
	for deadline := time.Now().Add(patience); ; {
		status, body := get(t, "http://"+admin+"/readyz")
		if status == 503 && strings.Contains(body, "drain") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("/readyz while draining: got %d %q, want 503 and why", status, body)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.exit(); status != exitCut {
		t.Errorf("after a second signal: got status %d, want %d", status, exitCut)
	}
	p.logged("start", "ready", "drain", "second signal: ending at once", "exit")
}

func TestExitStatuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := busy.Addr().String()
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		stderr string // a part of it
	}{
		{"usage", []string{"serve", "--loops=x"}, exitUsage, `sluice: --loops: "x" is not a count`},
		{"too many connections", []string{"serve", "--max-conns=2000000000"}, exitUsage,
			"sluice: --max-conns: 2000000000 connections do not fit into the limit of "},
		{"address in use", []string{"serve", "--admin=off", "--listen=" + taken}, exitFailed, "set --listen"},
		{"admin address in use", []string{"serve", "--listen=127.0.0.1:0", "--admin=" + taken}, exitFailed, "set --admin"},
		{"version", []string{"version"}, exitClean, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := launch(t, tc.args...)
			status := p.exit()
			if log := strings.Join(p.log, "\n"); status != tc.status || !strings.Contains(log, tc.stderr) {
				t.Errorf("%q: got status %d and %q, want %d and %q", tc.args, status, log, tc.status, tc.stderr)
			}
		})
	}
}

// The variables really come from the environment of the process.
func TestServeBySettingsOfTheEnvironment(t *testing.T) {
	t.Setenv("SLUICE_APP", "echo")
	t.Setenv("SLUICE_LOOPS", "1")
	t.Setenv("SLUICE_LOOP", "1")
	p := launch(t, "serve", "--listen=127.0.0.1:0", "--admin=off", "--log-level=info")
	first := p.until("unknown environment variable")
	if first["name"] != "SLUICE_LOOP" {
		t.Errorf("got %v, want a word about SLUICE_LOOP", first)
	}
	if line := p.until("start"); line["app"] != "echo" || line["loops"] != 1.0 || line["admin"] != "off" {
		t.Errorf("got %v, want app echo, 1 loop, no admin address", line)
	}
	ready := p.until("ready")
	if _, ok := ready["admin"]; ok {
		t.Errorf("got %v, want no admin address", ready)
	}
	ws, _, err := (&websocket.Dialer{HandshakeTimeout: patience}).Dial(fmt.Sprintf("ws://%s/ws", ready["listen"]), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	ws.SetReadDeadline(time.Now().Add(patience))
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte("\x00same")); err != nil {
		t.Fatal(err)
	}
	if _, reply, err := ws.ReadMessage(); err != nil || string(reply) != "\x00same" {
		t.Errorf("echo: got %q, %v", reply, err)
	}
	p.signal(syscall.SIGTERM)
	ws.ReadMessage() // answers the Close
	ws.Close()
	if status := p.exit(); status != exitClean {
		t.Errorf("got status %d, want 0", status)
	}
}

// A configuration that does not come does not keep the process from being stopped.
func TestSignalWhileReadingTheConfiguration(t *testing.T) {
	for _, command := range []string{"serve", "config"} {
		pipe := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := unix.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
		p := launch(t, command, "--config="+pipe)
		writer := -1
		for deadline := time.Now().Add(patience); writer < 0; time.Sleep(time.Millisecond) {
			var err error
			// It opens as soon as the process reads the other end.
			if writer, err = unix.Open(pipe, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil && (err != unix.ENXIO || time.Now().After(deadline)) {
				t.Fatalf("%s: open the pipe: %v", command, err)
			}
		}
		p.signal(syscall.SIGTERM)
		p.exit()
		unix.Close(writer)
		if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGTERM {
			t.Errorf("%s: got status %#x, want it ended by SIGTERM", command, status)
		}
	}
}

// The loops share their port, which must not let another process share it too.
func TestSecondGatewayOnTheSamePort(t *testing.T) {
	_, listen, _ := start(t, "--loops=2")
	p := launch(t, "serve", "--loops=2", "--admin=off", "--listen="+listen)
	status := p.exit()
	if log := strings.Join(p.log, "\n"); status != exitFailed || !strings.Contains(log, "address already in use (set --listen)") {
		t.Errorf("got status %d and %q, want 1 and the reason", status, log)
	}
}

// deafPort returns an address that refuses connections until the test ends: taken, so that nobody
// else listens there, and not listened on.
func deafPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
}

// A Redis that is away is waited for; the gateway says that it is not ready, and stops when asked.
func TestServeWithoutItsRedis(t *testing.T) {
	nobody := deafPort(t)
	p, listen, admin := start(t, "--session-store=redis", "--redis-url=redis://user:hunter2@"+nobody)
	for _, url := range []string{"http://" + listen + "/readyz", "http://" + admin + "/readyz"} {
		if status, body := get(t, url); status != 503 || strings.Contains(body, "hunter2") {
			t.Errorf("%s: got %d %q, want 503 and no password", url, status, body)
		}
	}
	if status, body := get(t, "http://"+admin+"/sessions/00000000-0000-4000-8000-000000000000"); status != 503 {
		t.Errorf("a session that nobody can look up: got %d %q, want 503", status, body)
	}
	if status, _ := get(t, "http://"+admin+"/healthz"); status != 200 {
		t.Errorf("/healthz: got %d, want 200: restarting this process mends no Redis", status)
	}
	p.signal(syscall.SIGTERM)
	if status := p.exit(); status != exitClean {
		t.Errorf("got status %d, want 0", status)
	}
	if log := strings.Join(p.log, "\n"); strings.Contains(log, "hunter2") || !strings.Contains(log, nobody) {
		t.Errorf("the log must name the address, and not the password:\n%s", log)
	}
}
