package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sluice/gateway/gatewaytest"
)

// socketUnit is a listening socket as systemd opens one, blocking and with the kernel's buffers.
func socketUnit(t *testing.T) (f *os.File, addr string) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	ln, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if f, err = ln.(*net.TCPListener).File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, ln.Addr().String()
}

// activating starts a gateway with sockets, as systemd does.
func activating(t *testing.T, names string, sockets []*os.File, args ...string) *process {
	t.Helper()
	// The shell's process becomes the gateway's.
	script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d LISTEN_FDNAMES=%s exec "$0" "$@"`, len(sockets), names)
	args = append([]string{"-c", script, binary, "serve", "--heartbeat=0", "--drain-timeout=1m"}, args...)
	cmd := exec.Command("/bin/sh", args...)
	cmd.ExtraFiles = sockets
	return launchCommand(t, cmd)
}

// TestSocketActivation: the gateway serves sockets of systemd, on each loop; the next process takes
// them over; and while none runs, clients wait for the one that is started then.
func TestSocketActivation(t *testing.T) {
	cert, key := certificate(t)
	public, listen := socketUnit(t)
	admin, adminAt := socketUnit(t)
	secure, _ := socketUnit(t)
	sockets := []*os.File{public, admin, secure}
	for _, tables := range []string{"--max-conns=0", fmt.Sprintf("--max-conns=%d", limitOfFiles(t)+1000)} {
		args := []string{"--loops=2", tables, "--takeover=" + filepath.Join(t.TempDir(), "t.sock"),
			"--tls-listen=127.0.0.1:0", "--tls-cert=" + cert, "--tls-key=" + key}
		p := activating(t, "public:admin:tls", sockets, args...)
		if ready := p.until("ready"); ready["listen"] != listen || ready["admin"] != adminAt {
			t.Fatalf("got %v, want %s and %s", ready, listen, adminAt)
		}
		// Buffers as --socket-buffer says, which the kernel doubles.
		if n := receiveBuffer(t, public); n != 2*96<<10 {
			t.Errorf("the receive buffer is %d, want %d", n, 2*96<<10)
		}
		var clients []*gatewaytest.Client
		for range 40 {
			c, _ := session(t, listen, "", 0)
			clients = append(clients, c)
		}
		if status, text := get(t, "http://"+adminAt+"/metrics"); status != http.StatusOK || !strings.Contains(text, "\nsluice_connections 40\n") {
			t.Errorf("got %d and %s, want 40 connections", status, grep(text, "sluice_connections"))
		}
		p.signal(syscall.SIGHUP)
		next := p.next()
		p.until("exit")
		for _, c := range clients {
			c.Write(gatewaytest.Text("a"))
			c.Expect(`text {"count":1}`)
		}
		session(t, listen, "", 0)
		if err := next.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody serves the socket now, and a client that connects waits.
	gatewaytest.Await(t, "the client waits", func() bool {
		c, err := net.Dial("tcp", adminAt)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	waiting := gatewaytest.Dial(t, at(listen))
	fmt.Fprint(waiting, gatewaytest.Upgrade("/ws"))
	p := activating(t, "public", []*os.File{public}, "--admin=off")
	p.until("ready")
	if resp := waiting.Response(); resp.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("the client that waited: got %s", resp.Status)
	}

	for _, tc := range []struct {
		names, says string
		socket      *os.File
	}{
		{"sluice.socket", "named \"sluice.socket\": want public, tls, admin or control", public},
		{"public", "not a TCP socket", unixSocket(t)},
		{"public", "not a listening socket", os.Stdin},
	} {
		p := activating(t, tc.names, []*os.File{tc.socket}, "--admin=off", "--listen=127.0.0.1:0")
		status := p.exit()
		if log := strings.Join(p.log, "\n"); status != exitFailed || !strings.Contains(strings.ReplaceAll(log, `\"`, `"`), tc.says) {
			t.Errorf("got status %d and %s, want %d and %q", status, log, exitFailed, tc.says)
		}
	}
}

// receiveBuffer does not use Fd, which would make the socket a blocking one, in all processes.
func receiveBuffer(t *testing.T, f *os.File) (n int) {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		n, failed = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return n
}

func unixSocket(t *testing.T) *os.File {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// limitOfFiles is what a process here may have open.
func limitOfFiles(t *testing.T) uint64 {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return min(limit.Max, 1<<20)
}
