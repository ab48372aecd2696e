package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
)

// stuck is a reader of the log that takes nothing until it is freed.
type stuck struct {
	free chan struct{}
	bytes.Buffer
}

func (s *stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.Buffer.Write(p)
}

func TestLineQueueLosesWhatNobodyReads(t *testing.T) {
	const size = 1 << 10
	w := &stuck{free: make(chan struct{})}
	q := newLineQueue(w)
	lost := make(chan int, 1)
	q.start(func(n int) { lost <- n })
	line := append(bytes.Repeat([]byte{'x'}, size-1), '\n')
	const sent = 10 * maxLines / size
	for range sent {
		if n, err := q.Write(line); n != size || err != nil {
			t.Fatalf("Write: %d, %v", n, err)
		}
	}
	close(w.free)
	n := <-lost
	q.close(patience)
	got := strings.Count(w.String(), "\n")
	// Up to one more batch may be in the hands of the reader.
	if got+n != sent || got < maxLines/size || got > 2*maxLines/size {
		t.Errorf("got %d lines and %d lost of %d", got, n, sent)
	}
}

func TestLineQueueCloseDoesNotWaitForEver(t *testing.T) {
	w := &stuck{free: make(chan struct{})}
	q := newLineQueue(w)
	q.start(func(int) {})
	q.Write([]byte("line\n"))
	q.close(time.Millisecond)
	close(w.free)
	<-q.done
}

// A gateway drains, and tells its clients, whether its log is read or not.
func TestDrainWithoutAReaderOfTheLog(t *testing.T) {
	for _, gone := range []bool{true, false} {
		read, write, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		cmd := exec.Command(binary, "serve", "--listen=127.0.0.1:0", "--admin=off", "--drain-timeout=1m", "--log-level=debug")
		cmd.Stderr = write
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()
		var log []byte
		for !bytes.Contains(log, []byte(`"ready"`)) {
			var b [4096]byte
			n, err := read.Read(b[:])
			if err != nil {
				t.Fatalf("%v after %s", err, log)
			}
			log = append(log, b[:n]...)
		}
		listen := logLines(t, string(log[:bytes.LastIndexByte(log, '\n')+1]))
		addr := listen[len(listen)-1]["listen"].(string)
		if gone {
			read.Close()
		} else {
			fill(t, write)
		}
		write.Close()
		ws, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/ws", nil)
		if err != nil {
			t.Fatalf("log gone %v: %v", gone, err)
		}
		defer ws.Close()
		cmd.Process.Signal(syscall.SIGTERM)
		ws.SetReadDeadline(time.Now().Add(patience))
		var bye string
		for {
			_, message, err := ws.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
					t.Errorf("log gone %v: the connection ended with %v, want 1001", gone, err)
				}
				break
			}
			bye = string(message)
		}
		if bye != `{"bye":true,"total":0}` {
			t.Errorf("log gone %v: last words %q", gone, bye)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("log gone %v: %v, want a clean exit", gone, err)
		}
	}
}

// fill leaves no room in the pipe behind f.
func fill(t *testing.T, f *os.File) {
	t.Helper()
	// The description is shared with the gateway: it gets its blocking mode back.
	fd := int(f.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	var b [4096]byte
	for size := len(b); size > 0; {
		if _, err := unix.Write(fd, b[:size]); err == unix.EAGAIN {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
}
