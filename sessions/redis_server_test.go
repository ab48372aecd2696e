package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must come. Only a failing test waits that long.
const patience = 60 * time.Second

// redisServer is a real redis-server of the test's own.
type redisServer struct {
	t    testing.TB
	dir  string
	port string // on host
	args []string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	tls  bool
}

// startRedis starts a server on a free port with a directory of its own; args are more of
// redis-server's options.
func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	r := &redisServer{t: t, dir: t.TempDir(), port: freePort(t), args: args}
	r.start()
	t.Cleanup(func() { r.kill() })
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	args := []string{"--port", r.port, "--bind", host, "--dir", r.dir, "--save", ""}
	if r.tls {
		args = []string{"--port", "0", "--tls-port", r.port, "--bind", host, "--dir", r.dir, "--save", ""}
	}
	r.command(append(args, r.args...)...)
}

// command runs redis-server with just these arguments, and waits until it serves. That it accepts
// connections is not enough: it may not listen on its other socket yet.
func (r *redisServer) command(args ...string) {
	r.t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		r.t.Fatalf("these tests need redis-server: make test installs it (%v)", err)
	}
	r.log = new(bytes.Buffer)
	r.cmd = exec.Command(bin, args...)
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("start redis-server: %v", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		c, err := net.Dial("tcp", r.addr())
		if err == nil {
			_ = c.SetDeadline(end)
			_, _ = c.Write([]byte("PING\r\n"))
			_, err = c.Read(make([]byte, 1))
			_ = c.Close()
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) { // TLS ends it
				return
			}
		}
		if time.Now().After(end) {
			r.kill() // its log is whole then
			r.t.Fatalf("redis-server does not serve: %v; it says\n%s", err, r.log)
		}
	}
}

func (r *redisServer) addr() string { return host + ":" + r.port }
func (r *redisServer) url() string  { return "redis://" + r.addr() }

// kill ends the server as a crash does.
func (r *redisServer) kill() {
	if r.cmd != nil {
		_ = r.cmd.Process.Signal(syscall.SIGCONT)
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}

func (r *redisServer) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatalf("signal redis-server: %v", err)
	}
}

// cli runs redis-cli against the server and returns what it printed.
func (r *redisServer) cli(args ...string) string {
	r.t.Helper()
	out, err := r.ask(args...)
	if err != nil {
		r.t.Fatalf("redis-cli %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// ask is cli for a server that may be away.
func (r *redisServer) ask(args ...string) (string, error) {
	out, err := exec.Command("redis-cli", append([]string{"-h", host, "-p", r.port}, args...)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// startCluster starts a Redis Cluster of three masters and returns them.
func startCluster(t testing.TB) []*redisServer {
	t.Helper()
	nodes := make([]*redisServer, 3)
	for i := range nodes {
		nodes[i] = startRedis(t, "--cluster-enabled", "yes", "--cluster-announce-ip", host, "--cluster-node-timeout", "2000", "--appendonly", "yes", "--appendfsync", "always")
	}
	for i, n := range nodes {
		n.cli("cluster", "addslotsrange", fmt.Sprint(i*5461), fmt.Sprint(min(i*5461+5460, 16383)))
		n.cli("cluster", "set-config-epoch", fmt.Sprint(i+1))
	}
	nodes[2].cli("cluster", "addslots", "16383")
	for _, n := range nodes[1:] {
		nodes[0].cli("cluster", "meet", host, n.port)
	}
	for _, n := range nodes {
		eventually(t, "the cluster is complete", func() bool {
			info := n.cli("cluster", "info")
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// host is a loopback address of this process alone, so that no client or server of another one
// takes a port here: neither between freePort and redis-server, nor while a killed redis-server
// is to come back.
var host = fmt.Sprintf("127.%d.%d.%d", 1+os.Getpid()>>16&0x3f, os.Getpid()>>8&0xff, os.Getpid()&0xff)

// lastPort is below those that the kernel gives away, as is the port of the cluster bus, 10,000
// more.
var lastPort atomic.Int32

// freePort returns a port of host that nobody else will have, and whose cluster bus port is free
// too.
func freePort(t testing.TB) string {
	t.Helper()
	for range 10_000 {
		port := 10_000 + lastPort.Add(1)%12_000
		if free(port) && free(port+10_000) {
			return fmt.Sprint(port)
		}
	}
	t.Fatal("no free port on " + host)
	return ""
}

// free reports whether a port can be listened on. Who listens on all addresses has it on host too.
func free(port int32) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// eventually waits for what a server or another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// testLoop is a loop: one goroutine that runs what is posted.
type testLoop struct {
	fns  chan func()
	done chan struct{}
	Loop
}

func newTestLoop(t testing.TB, s Store) *testLoop {
	l := &testLoop{fns: make(chan func(), 4096), done: make(chan struct{})}
	l.Loop = s.Join(l.post)
	go func() {
		for {
			select {
			case fn := <-l.fns:
				fn()
			case <-l.done:
				return
			}
		}
	}()
	t.Cleanup(l.end)
	return l
}

func (l *testLoop) post(fn func()) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.fns <- fn:
		return true
	case <-l.done:
		return false
	}
}

func (l *testLoop) end() {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
}

// on runs fn on the loop and waits for it.
func (l *testLoop) on(fn func()) {
	ran := make(chan struct{})
	if l.post(func() { fn(); close(ran) }) {
		<-ran
	}
}

// member is an Owner: it keeps what it is told and complains of what must not be.
type member struct {
	t    testing.TB
	loop *testLoop
	name string

	mu       sync.Mutex
	a        Attachment
	total    uint64
	resumed  bool
	err      error
	attached int
	numbers  []uint64 // acknowledged, in order
	detached int
	final    uint64
	finalErr error
}

func (m *member) Attached(a Attachment, total uint64, resumed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.a, m.total, m.resumed, m.err = a, total, resumed, err
	m.attached++
}

func (m *member) Acknowledged(first, last uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if first == 0 || last < first {
		m.t.Errorf("%s: acknowledged %d to %d", m.name, first, last)
	}
	if n := len(m.numbers); n > 0 && m.numbers[n-1] >= first || n == 0 && m.total >= first {
		m.t.Errorf("%s: acknowledged from %d after %v (joined at %d)", m.name, first, m.numbers, m.total)
	}
	for n := first; n <= last; n++ {
		m.numbers = append(m.numbers, n)
	}
}

func (m *member) Detached(total uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.final, m.finalErr = total, err
	m.detached++
}

// get reads a field of m that the loop writes.
func get[T any](m *member, field *T) T {
	m.mu.Lock()
	defer m.mu.Unlock()
	return *field
}

// join attaches to id and waits for the answer.
func (l *testLoop) join(t testing.TB, id ID, resume bool) *member {
	t.Helper()
	m := &member{t: t, loop: l, name: id.String()[:8]}
	l.on(func() { l.Attach(id, "", resume, m) })
	eventually(t, "Attached is called", func() bool { return get(m, &m.attached) == 1 })
	return m
}

// add counts n messages.
func (m *member) add(n int) {
	m.loop.on(func() {
		for range n {
			m.a.Add()
		}
	})
}

// acked waits until n messages are acknowledged in all.
func (m *member) acked(n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d messages acknowledged", n), func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.numbers) >= n
	})
	if got := get(m, &m.numbers); len(got) != n {
		m.t.Fatalf("%d messages acknowledged, want %d", len(got), n)
	}
}

// leave detaches and waits for the end of it.
func (m *member) leave() (uint64, error) {
	m.t.Helper()
	m.loop.on(func() { m.a.Detach(m) })
	eventually(m.t, "Detached is called", func() bool { return get(m, &m.detached) == 1 })
	return get(m, &m.final), get(m, &m.finalErr)
}

// newTestRedis is a store with its log in the test's.
func newTestRedis(t testing.TB, cfg RedisConfig) *Redis {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = testLogger(t, new(logBuffer))
	}
	s, err := NewRedis(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

// logBuffer collects a log; any goroutine.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func testLogger(t testing.TB, b *logBuffer) *slog.Logger {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", b)
		}
	})
	return slog.New(slog.NewTextHandler(b, nil))
}

// selfSigned writes a certificate for host and its key into dir.
func selfSigned(t testing.TB, dir string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM, keyPEM := makeCertificate(t)
	if err := os.WriteFile(cert, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func contains(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
