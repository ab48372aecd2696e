package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"
)

// at is a gateway at an address.
type at string

func (a at) Addr() netip.AddrPort { return netip.MustParseAddrPort(string(a)) }

// session opens a connection and returns it with its session's id.
func session(t *testing.T, listen, id string, count int) (c *gatewaytest.Client, session string) {
	t.Helper()
	c = gatewaytest.Dial(t, at(listen))
	target := "/ws/chat/"
	if id != "" {
		target += "?session_id=" + id
	}
	fmt.Fprint(c, gatewaytest.Upgrade(target))
	resp := c.Response()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s", resp.Status)
	}
	if session = resp.Header.Get("X-Session-Id"); id != "" && session != id {
		t.Fatalf("got session %s, want %s", session, id)
	}
	want := fmt.Sprintf(`text {"session_id":%q,"count":%d,"resumed":%t}`, session, count, id != "")
	if got := c.Next(); got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	return c, session
}

// next waits for the process that an upgrade of p has started, and has it killed at the test's end.
func (p *process) next() *os.Process {
	p.Helper()
	pid, _ := p.until("upgrade: next process started")["pid"].(float64)
	next, err := os.FindProcess(int(pid))
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { _ = next.Kill() })
	return next
}

// TestTakeover: processes replace each other while clients talk, are in the middle of something, or
// are away. None of them is closed, and every message has its number.
func TestTakeover(t *testing.T) {
	for _, store := range []string{"memory", "redis"} {
		t.Run(store, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "t.sock")
			args := []string{"--takeover=" + socket, "--heartbeat=0", "--loops=2"}
			if store == "redis" {
				args = append(args, "--session-store=redis", "--redis-url="+redisServer(t))
			}
			p, listen, admin := start(t, args...)
			leaves, away := session(t, listen, "", 0)
			leaves.Write(gatewaytest.Text("a"))
			leaves.Expect(`text {"count":1}`)
			leaves.Write(gatewaytest.CloseFrame(1000, ""))
			leaves.Expect(`text {"bye":true,"total":1}`, "close 1000")
			half, _ := session(t, listen, "", 0)
			message := gatewaytest.Text(strings.Repeat("half ", 200))
			half.Write(message[:300])
			shared, both := session(t, listen, "", 0)
			shared2 := sharedWith(t, listen, both)

			var talkers sync.WaitGroup
			enough := make(chan struct{})
			for range 20 {
				c, _ := session(t, listen, "", 0)
				talkers.Go(func() {
					for n := 1; ; n++ {
						c.Write(gatewaytest.Text("x"))
						if got, want := c.Next(), fmt.Sprintf(`text {"count":%d}`, n); got != want {
							t.Errorf("got %q, want %q", got, want)
							return
						}
						select {
						case <-enough:
							return
						default:
						}
					}
				})
			}
			var last *os.Process
			const times = 4
			for i := range times {
				if i == 0 {
					p.signal(syscall.SIGHUP)
				} else if out, err := exec.Command(binary, "upgrade", "--takeover", socket).CombinedOutput(); err != nil {
					t.Fatalf("sluice upgrade: %v\n%s", err, out)
				}
				last = p.next()
				p.until("exit") // of the process before
			}
			close(enough)
			talkers.Wait()
			half.Write(message[300:])
			half.Expect(`text {"count":1}`)
			back, _ := session(t, listen, away, 1)
			back.Write(gatewaytest.Text("b"))
			back.Expect(`text {"count":2}`)
			for i, c := range []*gatewaytest.Client{shared, shared2, shared} {
				c.Write(gatewaytest.Text("c"))
				c.Expect(fmt.Sprintf(`text {"count":%d}`, i+1))
			}
			if _, text := get(t, "http://"+admin+"/metrics"); !strings.Contains(text, `sluice_connections_moved_total{direction="in"} 23`) {
				t.Errorf("the last process does not say that 23 connections have come:\n%s", grep(text, "sluice_connections"))
			}
			if err := last.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			back.Expect(`text {"bye":true,"total":2}`, "close 1001")
			p.until("drain")
		})
	}
}

// sharedWith is another connection of a session that nobody has counted in.
func sharedWith(t *testing.T, listen, id string) *gatewaytest.Client {
	t.Helper()
	c := gatewaytest.Dial(t, at(listen))
	fmt.Fprint(c, gatewaytest.Upgrade("/ws/chat/?session_id="+id))
	c.Response()
	if got := c.Next(); !strings.Contains(got, id) {
		t.Fatalf("got %q, want a welcome", got)
	}
	return c
}

func grep(text, word string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

// TestUpgradeThatFails: a binary that does not start, or that cannot take over, changes nothing.
func TestUpgradeThatFails(t *testing.T) {
	dir := t.TempDir()
	socket, own := filepath.Join(dir, "t.sock"), filepath.Join(dir, "sluice")
	replace := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(own+".new", data, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(own+".new", own); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	replace(good)
	whole := binary
	binary = own
	p, listen, _ := start(t, "--takeover="+socket, "--heartbeat=0")
	binary = whole
	c, _ := session(t, listen, "", 0)
	replace([]byte("#!/bin/sh\nexit 3\n"))
	out, err := exec.Command(whole, "upgrade", "--takeover", socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exit status 3") {
		t.Errorf("a binary that exits: got %v, %s", err, out)
	}
	replace([]byte("not a program"))
	p.signal(syscall.SIGHUP)
	p.until("upgrade failed, going on as before")
	c.Write(gatewaytest.Text("a"))
	c.Expect(`text {"count":1}`)
	replace(good)
	if out, err = exec.Command(whole, "upgrade", "--takeover", socket).CombinedOutput(); err != nil {
		t.Fatalf("a good binary again: %v\n%s", err, out)
	}
	p.next()
	c.Write(gatewaytest.Text("b"))
	c.Expect(`text {"count":2}`)

	// Somebody else's application, and nobody at all.
	out, err = exec.Command(whole, "serve", "--listen="+listen, "--app=echo", "--takeover="+socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "its application is") {
		t.Errorf("another application: got %v, %s", err, out)
	}
	out, err = exec.Command(whole, "upgrade", "--takeover", filepath.Join(dir, "none")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no gateway listens") {
		t.Errorf("nobody there: got %v, %s", err, out)
	}
}

// redisServer is a private Redis, and its URL.
func redisServer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "redis.sock")
	cmd := exec.Command(program(t, "redis-server"), "--port", "0", "--unixsocket", socket, "--dir", dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	gatewaytest.Await(t, "redis-server listens", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "unix://" + socket
}

// TestTakeoverKilled: the next process is killed at some moment of its start or of the takeover.
// What it had acknowledged ends with it; all else goes on in the process before, in order, and the
// next attempt works.
func TestTakeoverKilled(t *testing.T) {
	takeover := "--takeover=" + filepath.Join(t.TempDir(), "t.sock")
	p, listen, _ := start(t, takeover, "--heartbeat=0", "--loops=2")
	testTakeoverKilled(t, p, 2000, func() *gatewaytest.Client {
		c, _ := session(t, listen, "", 0)
		return c
	})
}

// TestTakeoverOfTLSKilled: likewise, of connections whose secrets and sequence numbers travel.
func TestTakeoverOfTLSKilled(t *testing.T) {
	cert, key := certificate(t)
	p, listen, _ := startTLS(t, "compact", cert, key, "--app=count", "--welcome=false", "--loops=2",
		"--takeover="+filepath.Join(t.TempDir(), "t.sock"))
	testTakeoverKilled(t, p, 500, func() *gatewaytest.Client { return dialTLS(t, listen) })
}

func testTakeoverKilled(t *testing.T, p *process, clients int, open func() *gatewaytest.Client) {
	var alive []*gatewaytest.Client
	for range clients {
		alive = append(alive, open())
	}
	count := 0 // of each that is alive
	for range 5 {
		p.signal(syscall.SIGHUP)
		pid, _ := p.until("upgrade: next process started")["pid"].(float64)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		_ = syscall.Kill(int(pid), syscall.SIGKILL)
		outcome, given := p.outcome()
		if outcome == "taken over" { // it was killed when it had everything
			if p.exit() != exitClean {
				t.Error("the process before did not end in order")
			}
			return
		}
		count++
		var still []*gatewaytest.Client
		for _, c := range alive {
			if _, err := c.Write(gatewaytest.Text("a")); err == nil && c.Alive() {
				c.Expect(fmt.Sprintf(`text {"count":%d}`, count))
				still = append(still, c)
			}
		}
		if len(still) != len(alive)-given {
			t.Fatalf("%d of %d go on, want all but the %d that were acknowledged", len(still), len(alive), given)
		}
		alive = still
		open().Close() // it accepts again
	}
	p.signal(syscall.SIGHUP)
	p.next()
	p.until("took over")
	for _, c := range alive {
		c.Write(gatewaytest.Text("z"))
		c.Expect(fmt.Sprintf(`text {"count":%d}`, count+1))
	}
}

// outcome is how an upgrade ended, and how many connections the next process had acknowledged when
// it failed.
func (p *process) outcome() (msg string, given int) {
	p.Helper()
	for {
		line := p.until("")
		switch msg, _ = line["msg"].(string); msg {
		case "takeover failed, going on":
			n, _ := line["given"].(float64)
			given = int(n)
		case "upgrade failed, going on as before", "taken over":
			return msg, given
		}
	}
}

// TestNotify is what systemd hears: of readiness, of the process that goes on, and of the end.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify.sock")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	_ = systemd.SetReadDeadline(time.Now().Add(time.Minute))
	expect := func(want string) {
		t.Helper()
		b := make([]byte, 100)
		n, err := systemd.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("systemd hears %q, %v, want %q", b[:n], err, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", path)
	p := launch(t, "serve", "--listen=127.0.0.1:0", "--admin=off", "--loops=1",
		"--takeover="+filepath.Join(t.TempDir(), "t.sock"))
	p.until("ready")
	expect("READY=1")
	p.signal(syscall.SIGHUP)
	next := p.next()
	p.until("exit")    // of the process before
	var heard []string // the two processes speak independently
	for range 2 {
		b := make([]byte, 100)
		n, err := systemd.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		heard = append(heard, string(b[:n]))
	}
	slices.Sort(heard)
	if want := []string{fmt.Sprintf("MAINPID=%d", next.Pid), "READY=1"}; !slices.Equal(heard, want) {
		t.Errorf("systemd hears %q, want %q", heard, want)
	}
	if err := next.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	p.until("exit")
}
