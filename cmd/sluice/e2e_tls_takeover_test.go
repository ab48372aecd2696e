package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway/gatewaytest"
)

// TestTakeoverOfTLS: processes replace each other while clients with TLS 1.3 talk, read slowly,
// have sent half a record, or change their keys. None of them is closed, and every message has its
// number. One with TLS 1.2 is told 1001, and finds its session when it comes back.
func TestTakeoverOfTLS(t *testing.T) {
	cert, key := certificate(t)
	socket := filepath.Join(t.TempDir(), "t.sock")
	p, listen, admin := startTLS(t, "compact", cert, key, "--app=count", "--welcome=false", "--loops=2",
		"--takeover="+socket)

	var talkers sync.WaitGroup
	enough := make(chan struct{})
	for range 20 {
		c := dialTLS(t, listen)
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
	cut := &lateEnd{Conn: gatewaytest.Dial(t, at(listen)).Conn}
	half := overTLS(t, cut)
	cut.hold = 20
	half.Write(gatewaytest.Text("half a record"))

	slow := overTLS(t, narrowSocket(t, listen))
	const many = 20_000 // 320 KB of replies
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		message := gatewaytest.Text("y")
		for range many {
			slow.Write(message)
		}
	}()
	keys := newOpenSSL(t, listen, cert)
	keys.count("", 1)
	keys.count("k\n", 2)
	keys.count("K\n", 3)

	const oldSession = "9b2f3c1e-0d4a-4c55-8e0b-3f6f6a1d2c77"
	old := overTLS12(t, listen, oldSession)
	old.Write(gatewaytest.Text("x"))
	old.Expect(`text {"count":1}`)
	for i := range 3 {
		if i == 0 {
			p.signal(syscall.SIGHUP)
		} else if out, err := exec.Command(binary, "upgrade", "--takeover", socket).CombinedOutput(); err != nil {
			t.Fatalf("sluice upgrade: %v\n%s", err, out)
		}
		last := p.next()
		if i == 0 {
			old.Expect(`text {"bye":true,"total":1}`, "close 1001")
			old.Close()
			old = overTLS12(t, listen, oldSession)
			old.Write(gatewaytest.Text("x"))
			old.Expect(`text {"count":2}`)
			old.Close()
		}
		p.until("exit") // of the process before
		for j, command := range []string{"", "K\n", "k\n"} {
			keys.count(command, 4+3*i+j)
		}
		if i == 2 {
			defer last.Signal(syscall.SIGTERM)
		}
	}
	close(enough)
	talkers.Wait()
	cut.release()
	half.Expect(`text {"count":1}`)
	for n := range many {
		slow.Expect(fmt.Sprintf(`text {"count":%d}`, n+1))
	}
	<-sent
	fresh := dialTLS(t, listen)
	fresh.Write(gatewaytest.Text("z"))
	fresh.Expect(`text {"count":1}`)
	_, text := get(t, "http://"+admin+"/metrics")
	for _, want := range []string{
		`sluice_connections_moved_total{direction="in"} 23`, `sluice_errors_total{reason="tls"} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the last process does not say %s:\n%s", want, grep(text, "sluice_connections"))
		}
	}
}

// lateEnd keeps the end of what is written once, until release.
type lateEnd struct {
	net.Conn
	hold int
	kept []byte
}

func (c *lateEnd) Write(b []byte) (int, error) {
	n := max(len(b)-c.hold, 0)
	c.kept, c.hold = append(c.kept, b[n:]...), 0
	_, err := c.Conn.Write(b[:n])
	return len(b), err
}

func (c *lateEnd) release() { c.Conn.Write(c.kept) }

// narrowSocket has a small receive buffer.
func narrowSocket(t *testing.T, addr string) net.Conn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		failed := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096)
		})
		return errors.Join(err, failed)
	}}
	conn, err := dialer.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience))
	return conn
}

// overTLS upgrades over a socket of the test's own.
func overTLS(t *testing.T, conn net.Conn) *gatewaytest.Client {
	t.Helper()
	return upgraded(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}), "/ws")
}

func overTLS12(t *testing.T, listen, session string) *gatewaytest.Client {
	t.Helper()
	return upgraded(t, tls.Client(gatewaytest.Dial(t, at(listen)).Conn, &tls.Config{
		InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12,
	}), "/ws?session_id="+session)
}

func upgraded(t *testing.T, conn net.Conn, target string) *gatewaytest.Client {
	t.Helper()
	c := gatewaytest.Wrap(t, conn)
	io.WriteString(c, gatewaytest.Upgrade(target))
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("got %d, want 101", got)
	}
	return c
}
