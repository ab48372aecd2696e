package takeover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestEverythingMoves(t *testing.T) {
	p := newPond(t, 100)
	p.deny = func(state string) bool { return strings.HasSuffix(state, "7") }
	path, done := serve(t, p.offer())
	taker, err := Connect(path, "new", "pond")
	if err != nil {
		t.Fatal(err)
	}
	if taker.Build != "old" || taker.Conns != 100 {
		t.Errorf("welcome from %q with %d connections, want old and 100", taker.Build, taker.Conns)
	}
	fd, ok := taker.Listener("public")
	if !ok {
		t.Fatal("no public listener")
	}
	unix.Close(fd)
	if _, ok = taker.Listener("public"); ok {
		t.Error("a second public listener, want one")
	}
	if err = taker.Run(context.Background(), p, quiet); err != nil {
		t.Fatal(err)
	}
	if err = <-done; err != nil {
		t.Fatal(err)
	}
	defer p.closeAdopted()
	if n, kept := p.count("new"), p.count("kept"); n != 90 || kept != 10 {
		t.Errorf("%d moved and %d kept, want 90 and 10", n, kept)
	}
	chunks := []string{"idle: all of them"}
	if !slices.Equal(p.begun, []int{100}) {
		t.Errorf("begun with %v connections to come, want 100, once", p.begun)
	}
	if !p.accepted || !slices.Equal(p.ended, []bool{true}) || !slices.Equal(p.chunks, chunks) {
		t.Errorf("accepted %v, ended %v, chunks %q", p.accepted, p.ended, p.chunks)
	}
	// Each adopted descriptor is the socket that it stands for.
	for name, fd := range p.ours {
		var a, b unix.Stat_t
		if unix.Fstat(fd, &a) != nil || unix.Fstat(p.names[name], &b) != nil || a.Ino != b.Ino {
			t.Fatalf("%s: another socket came", name)
		}
	}
}

// TestTheNewProcessEnds: at each of its messages. What it has not acknowledged goes on in the old
// process, which serves the next that asks.
func TestTheNewProcessEnds(t *testing.T) {
	for messages := range 8 {
		t.Run(fmt.Sprint(messages), func(t *testing.T) {
			p := newPond(t, 40)
			path, done := serve(t, p.offer())
			acked := breakOff(t, p, path, messages)
			waitFor(t, func() bool { return len(snapshot(p)) == 0 }) // nothing travels
			if n := p.count("old") + acked; n != 40 {
				t.Fatalf("%d go on in the old process and %d were acknowledged, want 40", n-acked, acked)
			}
			taker, err := Connect(path, "newer", "pond")
			if err != nil {
				t.Fatal(err)
			}
			if err = taker.Run(context.Background(), p, quiet); err != nil {
				t.Fatal(err)
			}
			if err = <-done; err != nil {
				t.Fatal(err)
			}
			defer p.closeAdopted()
			if n := p.count("new") + acked; n != 40 {
				t.Errorf("%d moved in the end, want 40", n)
			}
		})
	}
}

func snapshot(p *pond) (travelling []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, who := range p.live {
		if who == "travelling" {
			travelling = append(travelling, name)
		}
	}
	return travelling
}

// breakOff is a new process that ends after so many messages of its own: hello, begin, and then one
// acknowledgement each. It returns how many connections it acknowledged.
func breakOff(t *testing.T, p *pond, path string, messages int) (acked int) {
	t.Helper()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l, soon := &link{conn: conn}, time.Now().Add(time.Minute)
	send := func(k kind, payload []byte) bool {
		if messages == 0 {
			return false
		}
		messages--
		if err := l.send(k, payload, nil, soon); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if !send(kindHello, hello{1, 1, "new", "pond"}.append(nil)) || !send(kindBegin, nil) {
		return 0
	}
	if os.Getenv("TAKEOVER_TEST_HANG") != "" {
		select {}
	}
	for {
		m, err := l.receive(soon)
		if err != nil {
			t.Fatal(err)
		}
		m.closeAll()
		if m.kind != kindBatch {
			continue
		}
		var b batch
		if err = b.parse(m.payload); err != nil {
			t.Fatal(err)
		}
		if !send(kindAck, ack{number: b.number}.append(nil)) {
			return acked
		}
		p.mu.Lock()
		for _, s := range b.states {
			p.become(string(s), "travelling", "gone")
		}
		p.mu.Unlock()
		acked += len(b.states)
	}
}

// TestTheNewProcessHangs: it is ended, and the old process goes on with everything.
func TestTheNewProcessHangs(t *testing.T) {
	if path := os.Getenv("TAKEOVER_TEST_HANG"); path != "" {
		p := newPond(t, 0)
		breakOff(t, p, path, 2)
	}
	p := newPond(t, 40)
	o := p.offer()
	o.step = 50 * time.Millisecond
	path, _ := serve(t, o)
	hang := exec.Command(os.Args[0], "-test.run=^TestTheNewProcessHangs$", "-test.v")
	hang.Env = append(os.Environ(), "TAKEOVER_TEST_HANG="+path)
	out, err := hang.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the new process: %v, want that it is killed\n%s", err, out)
	}
	waitFor(t, func() bool { return p.count("old") == 40 })
}

// TestTheOldProcessEnds: the new one goes on with what has arrived.
func TestTheOldProcessEnds(t *testing.T) {
	p := newPond(t, 40)
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		conn, err := ln.AcceptUnix()
		if err != nil {
			return
		}
		o := p.offer()
		l := &link{conn: conn}
		m, err := l.receive(time.Now().Add(time.Minute))
		if err != nil {
			return
		}
		if _, err = o.greet(l, m.payload); err != nil {
			return
		}
		if m, err := l.receive(time.Now().Add(time.Minute)); err != nil || m.kind != kindBegin {
			return
		}
		parcel, _ := o.Begin(Peer{}).Next(context.Background())
		_ = l.send(kindBatch, batch{1, parcel.States}.append(nil), parcel.FDs, time.Now().Add(time.Minute))
		conn.Close()
	}()
	taker, err := Connect(path, "new", "pond")
	if err != nil {
		t.Fatal(err)
	}
	if err = taker.Run(context.Background(), p, quiet); err != nil {
		t.Fatal(err)
	}
	defer p.closeAdopted()
	if n := p.count("new"); n != 7 || !p.accepted {
		t.Errorf("%d adopted, accepts %v, want 7 and true", n, p.accepted)
	}
}

// TestUpgrade: the process that asks is told how it went, and only one asks at a time.
func TestUpgrade(t *testing.T) {
	p := newPond(t, 20)
	o := p.offer()
	started := make(chan struct{}, 1)
	var works atomic.Bool
	o.Upgrade = func(taken <-chan struct{}) error {
		if !works.Load() {
			return errors.New("the new binary is broken")
		}
		started <- struct{}{}
		<-taken
		return nil
	}
	path, done := serve(t, o)
	ctx := context.Background()
	if err := Upgrade(ctx, path); err == nil || !strings.Contains(err.Error(), "binary is broken") {
		t.Fatalf("an upgrade that fails: got %v", err)
	}
	works.Store(true)
	told := make(chan error)
	go func() { told <- Upgrade(ctx, path) }()
	<-started
	if err := Upgrade(ctx, path); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Fatalf("a second upgrade: got %v", err)
	}
	taker, err := Connect(path, "new", "pond")
	if err != nil {
		t.Fatal(err)
	}
	if err = taker.Run(ctx, p, quiet); err != nil {
		t.Fatal(err)
	}
	defer p.closeAdopted()
	if err = <-told; err != nil {
		t.Errorf("an upgrade that works: got %v", err)
	}
	if err = <-done; err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	p := newPond(t, 1)
	path, _ := serve(t, p.offer())
	if _, err := Connect(path, "new", "lake"); err == nil || !strings.Contains(err.Error(), `"lake"`) {
		t.Errorf("another application: got %v", err)
	}
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l := &link{conn: conn}
	h := hello{oldest: newestVersion + 1, newest: newestVersion + 3, build: "new", app: "pond"}
	if err = l.send(kindHello, h.append(nil), nil, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if m, err := l.receive(time.Now().Add(time.Minute)); err != nil || m.kind != kindRefuse {
		t.Errorf("a newer protocol: got kind %d, %v, want a refusal", m.kind, err)
	}
	if p.count("old") != 1 || len(p.ended) != 0 {
		t.Error("something has moved")
	}
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	if _, err := Dial(path); err != ErrNobody {
		t.Errorf("no socket: got %v, want ErrNobody", err)
	}
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err = Dial(path); err != ErrNobody {
		t.Errorf("a socket that was left behind: got %v, want ErrNobody", err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("in place of a socket: %v", err)
	}
	defer second.Close()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%d entries in the directory, want the socket only", len(left))
	}
	file := filepath.Join(dir, "file")
	if err = os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = Listen(file); err == nil {
		t.Error("in place of a file: no error")
	}
	if os.Geteuid() == 0 {
		other := filepath.Join(dir, "other")
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: other, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if err = os.Lchown(other, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		if _, err = Listen(other); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("another user's socket: got %v", err)
		}
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to that")
		}
	}
}

// FuzzMessages: no bytes from the socket crash a parser, and what parses survives a round trip.
func FuzzMessages(f *testing.F) {
	f.Add(hello{1, 2, "v1", "count"}.append(nil))
	f.Add(welcome{1, "v1", 5}.append(nil))
	f.Add(batch{3, [][]byte{{1}, nil, {2, 3}}}.append(nil))
	f.Add(ack{3, []int{0, 2}}.append(nil))
	f.Add(chunk{"idle", []byte{1}}.append(nil))
	f.Add(appendStrings(nil, []string{"public", "tls"}))
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var h hello
		if h.parse(b) == nil {
			var again hello
			if err := again.parse(h.append(nil)); err != nil || again != h {
				t.Errorf("hello %+v comes back as %+v, %v", h, again, err)
			}
		}
		var k batch
		if k.parse(b) == nil {
			var again batch
			if err := again.parse(k.append(nil)); err != nil || len(again.states) != len(k.states) {
				t.Errorf("batch of %d comes back with %d, %v", len(k.states), len(again.states), err)
			}
		}
		var w welcome
		_ = w.parse(b)
		var a ack
		_ = a.parse(b)
		var c chunk
		_ = c.parse(b)
		_, _ = parseStrings(b)
	})
}
