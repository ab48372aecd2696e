package topics

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// redisServer is a real redis-server of the test's own.
type redisServer struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
}

// host is a loopback address of this process alone, so that nothing of another one is in the way.
var host = fmt.Sprintf("127.%d.%d.2", 65+os.Getpid()>>8&63, os.Getpid()&255)

var lastPort atomic.Int32

// freePort returns a port of host below those that the kernel gives away, as is the port of the
// cluster bus, 10,000 more.
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

func free(port int32) bool {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
	return err == nil && l.Close() == nil
}

func startRedis(t testing.TB, args ...string) *redisServer {
	t.Helper()
	r := &redisServer{t: t, dir: t.TempDir(), port: freePort(t), args: args}
	r.start()
	t.Cleanup(r.kill)
	return r
}

func (r *redisServer) start() {
	r.t.Helper()
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		r.t.Fatalf("these tests need redis-server: make test installs it (%v)", err)
	}
	args := append([]string{"--port", r.port, "--bind", host, "--dir", r.dir, "--save", ""}, r.args...)
	r.cmd = exec.Command(bin, args...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("start redis-server: %v", err)
	}
	eventually(r.t, "redis-server accepts connections", func() bool {
		c, err := net.Dial("tcp", r.addr())
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (r *redisServer) addr() string { return net.JoinHostPort(host, r.port) }
func (r *redisServer) url() string  { return "redis://" + r.addr() }

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
		r.t.Fatal(err)
	}
}

func (r *redisServer) cli(args ...string) string {
	r.t.Helper()
	out, err := exec.Command("redis-cli",
		append([]string{"-h", host, "-p", r.port}, args...)...).CombinedOutput()
	if err != nil {
		r.t.Fatalf("redis-cli %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// startCluster starts a Redis Cluster of three masters.
func startCluster(t testing.TB) []*redisServer {
	t.Helper()
	nodes := make([]*redisServer, 3)
	for i := range nodes {
		nodes[i] = startRedis(t, "--cluster-enabled", "yes", "--cluster-announce-ip", host,
			"--cluster-node-timeout", "2000")
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
			return strings.Contains(info, "cluster_state:ok") &&
				strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// quick is a configuration for tests that wait for failures.
func quick(url string) *RedisConfig {
	return &RedisConfig{URL: url, Deadline: 500 * time.Millisecond,
		ProbeInterval: 50 * time.Millisecond}
}
