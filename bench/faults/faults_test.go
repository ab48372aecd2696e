package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// buildGateway builds cmd/sluice into dir, with the race detector when this test has it.
func buildGateway(ctx context.Context, dir string, flags ...string) (string, error) {
	bin := filepath.Join(dir, "sluice")
	args := append(append([]string{"build", "-o", bin}, flags...), "sluice/cmd/sluice")
	if b, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, b)
	}
	return bin, nil
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == ClientCommand { // the harness's own program is the test here
		if err := ServeClient(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestFaults is the short form of what the command does: a few faults, once each, with a small
// load.
func TestFaults(t *testing.T) {
	bin, err := buildGateway(t.Context(), t.TempDir(), buildFlags...)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if !f.short {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			load := usualLoad
			load.Sessions, load.Pause = 20, 30*time.Millisecond
			var out bytes.Buffer
			err := runAll(t.Context(), &out, []fault{f}, 1, plan{bin: bin, seconds: 1500 * time.Millisecond, short: true, load: load}, false)
			t.Log("\n" + out.String())
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAnUnknownFaultIsRefused(t *testing.T) {
	if _, err := named("no such"); err == nil || !strings.Contains(err.Error(), faults[0].name) {
		t.Errorf("got %v, want an error that names the faults that there are", err)
	}
}

// TestNothingRunIsNoSuccess: a harness that ran nothing has proved nothing.
func TestNothingRunIsNoSuccess(t *testing.T) {
	if err := runAll(t.Context(), io.Discard, faults, 0, plan{}, false); err == nil {
		t.Error("no run at all was a success")
	}
}

// echoServer answers everything with itself and counts what it got.
func echoServer(t *testing.T) (addr string, got chan byte) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	got = make(chan byte, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 1)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					got <- b[0]
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String(), got
}

func TestProxy(t *testing.T) {
	target, got := echoServer(t)
	p, err := startProxy(target)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	dial := func() net.Conn {
		c, err := net.DialTimeout("tcp", p.addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		return c
	}
	set := func(f flow, delay time.Duration) {
		if err := p.set(f, delay); err != nil {
			t.Fatal(err)
		}
	}
	answer := func(c net.Conn) (byte, error) {
		b := make([]byte, 1)
		_, err := c.Read(b)
		return b[0], err
	}
	say := func(c net.Conn, b byte) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}

	c := dial()
	say(c, 1)
	if b, err := answer(c); b != 1 || err != nil {
		t.Errorf("passing: got %d, %v", b, err)
	}
	<-got

	set(passing, 100*time.Millisecond)
	began := time.Now()
	say(c, 2)
	if b, err := answer(c); b != 2 || err != nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("delayed by 100 ms: got %d, %v after %v", b, err, time.Since(began))
	}
	<-got

	set(droppingBack, 0)
	say(c, 3)
	if b := <-got; b != 3 {
		t.Errorf("dropping replies: the server got %d, want 3", b)
	}
	if err := eventually("the reply is dropped", patience, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for c := range p.pipes {
			return c.doomed
		}
		return false
	}); err != nil {
		t.Fatal(err)
	}
	set(passing, 0)
	if b, err := answer(c); err == nil {
		t.Errorf("after a dropped reply: got %d, want the connection cut", b)
	}

	c = dial()
	say(c, 4)
	_, _ = answer(c)
	<-got
	set(blackHole, 0)
	say(c, 5)
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := answer(c); err == nil {
		t.Errorf("black hole: got %d", b)
	}
	if len(got) > 0 {
		t.Error("black hole: the server got something")
	}
	c.SetReadDeadline(time.Now().Add(patience))
	set(passing, 0)
	if b, err := answer(c); b != 5 || err != nil {
		t.Errorf("after the black hole: got %d, %v, want what waited", b, err)
	}

	set(refusing, 0)
	if _, err := answer(c); err == nil {
		t.Error("refusing: an open connection was not cut")
	}
	if c, err := net.Dial("tcp", p.addr); err == nil {
		c.Close()
		t.Error("refusing: a connection was accepted")
	}
	set(passing, 0)
	<-got
	c = dial()
	say(c, 6)
	if b, err := answer(c); b != 6 || err != nil {
		t.Errorf("passing again: got %d, %v", b, err)
	}

	<-got
	p.bar("127.0.0.2")
	say(c, 7)
	if b, err := answer(c); b != 7 || err != nil {
		t.Errorf("another address is barred: got %d, %v", b, err)
	}
	p.bar("127.0.0.1")
	if _, err := answer(c); err == nil {
		t.Error("barred: an open connection was not cut")
	}
	c = dial()
	if _, err := answer(c); err == nil {
		t.Error("barred: a new connection was not cut")
	}
}

// TestServiceFaults is the short form of Services.
func TestServiceFaults(t *testing.T) {
	bin, err := buildGateway(t.Context(), t.TempDir(), buildFlags...)
	if err != nil {
		t.Fatal(err)
	}
	tool := filepath.Join(t.TempDir(), "sluice-bench")
	if out, err := exec.Command("go", "build", "-o", tool, "sluice/cmd/sluice-bench").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, f := range serviceFaults {
		if !f.short {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			var out bytes.Buffer
			err := Services(t.Context(), &out, Options{Fault: f.name, Runs: 1, Bin: bin,
				Load: time.Second, Service: []string{tool, "service"}})
			t.Log("\n" + out.String())
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := Services(t.Context(), io.Discard, Options{Fault: "no such", Runs: 1}); err == nil {
		t.Error("an unknown fault was a success")
	}
}
