package accesslog

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway"
	"sluice/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var sample = gateway.Summary{
	Client: netip.MustParseAddrPort("192.0.2.1:4711"), User: "alice", Subject: "CN=alice,O=x",
	Session: "123e4567-e89b-42d3-a456-426614174000",
	Path:    "/ws/chat/", RequestID: "abc", Code: 1000, MessagesReceived: 3, MessagesSent: 4, BytesReceived: 312, BytesSent: 655,
	Ended: time.Date(2026, 11, 25, 20, 15, 2, 123e6, time.UTC), Duration: 12345 * time.Millisecond,
}

func TestFormats(t *testing.T) {
	const wantJSON = `{"time":"2026-11-25T20:15:02.123Z","client":"192.0.2.1:4711","user":"alice","subject":"CN=alice,O=x","session":"123e4567-e89b-42d3-a456-426614174000",` +
		`"path":"/ws/chat/","request_id":"abc","code":1000,"messages_in":3,"messages_out":4,"bytes_in":312,"bytes_out":655,"seconds":12.345}` + "\n"
	if got := string(appendJSON(nil, &sample)); got != wantJSON {
		t.Errorf("JSON: got %s, want %s", got, wantJSON)
	}
	const wantCommon = `192.0.2.1 - alice [25/Nov/2026:20:14:49 +0000] "GET /ws/chat/ HTTP/1.1" 1000 655` + "\n"
	if got := string(appendCommon(nil, &sample)); got != wantCommon {
		t.Errorf("common: got %s, want %s", got, wantCommon)
	}
	six := gateway.Summary{Client: netip.MustParseAddrPort("[2001:db8::1]:1"), Path: "/"}
	if got := string(appendCommon(nil, &six)); !strings.HasPrefix(got, "2001:db8::1 - - [") {
		t.Errorf("IPv6 and no user: got %s", got)
	}
}

// commonLine is what readers of the Common Log Format take.
var commonLine = regexp.MustCompile(`^[0-9a-f.:]+ - [!-~]+ \[[^\]]+\] "GET [!-~]* HTTP/1\.1" \d+ \d+\n$`)

// FuzzFormats: whatever clients call themselves, a line is one line, and reads back as what it was.
func FuzzFormats(f *testing.F) {
	f.Add("alice", "/ws/chat/")                       // the usual
	f.Add("a\"b\\c", "/\"")                           // what ends strings
	f.Add("a\r\n{\"client\":\"x\"}", "/\x00\x7f\xff") // what ends lines
	f.Add("αλίκη\u2028", "/%0a")                      // beyond ASCII
	f.Fuzz(func(t *testing.T, user, path string) {
		s := sample
		s.User, s.Path = user, path
		line := appendJSON(nil, &s)
		var got struct{ Client, User, Path string }
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if got.Client != "192.0.2.1:4711" || got.User != strings.ToValidUTF8(user, "\ufffd") && !strings.Contains(got.User, "\ufffd") {
			t.Fatalf("%s: got %+v", line, got)
		}
		for _, text := range [][]byte{line, appendCommon(nil, &s)} {
			if n := strings.Count(string(text), "\n"); n != 1 {
				t.Fatalf("%q has %d lines", text, n)
			}
		}
		if text := appendCommon(nil, &s); !commonLine.Match(text) {
			t.Fatalf("%q is not in the Common Log Format", text)
		}
	})
}

func open(t *testing.T, cfg Config) *Log {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

func TestFileIsAppendedToAndRotated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(file, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, Config{File: file, Common: true})
	line := string(appendCommon(nil, &sample))
	l.Ended(&sample)
	gatewaytest.Await(t, "the first line", func() bool { return read(t, file) == "before\n"+line })
	// By renaming and Reopen, as logrotate does with a signal.
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	gatewaytest.Await(t, "the new file", func() bool { _, err := os.Stat(file); return err == nil })
	l.Ended(&sample)
	gatewaytest.Await(t, "a line in the new file", func() bool { return read(t, file) == line })
	// By copying and truncating.
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	l.Ended(&sample)
	if err := l.Close(gatewaytest.Patience); err != nil {
		t.Fatal(err)
	}
	if got := read(t, file); got != line {
		t.Errorf("after truncation: got %q, want one line", got)
	}
	if got := read(t, file+".1"); got != "before\n"+line {
		t.Errorf("the old file: got %q", got)
	}
}

func TestReopenThatFailsKeepsTheFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "access.log")
	l := open(t, Config{File: file, Common: true})
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	l.Ended(&sample)
	if err := l.Close(gatewaytest.Patience); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir+"2", "access.log")); !commonLine.MatchString(got) {
		t.Errorf("got %q", got)
	}
	if _, err := Open(Config{File: file}); err == nil {
		t.Error("a file in a directory that is not there is opened")
	}
}

// TestNobodyReads: a file that takes nothing (a pipe that nobody reads) loses lines and blocks
// nobody; the bound holds to the byte.
func TestNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	line := len(appendJSON(nil, &sample))
	l := open(t, Config{File: os.DevNull, MaxPending: 10 * line})
	l.mu.Lock()
	l.out = w
	l.mu.Unlock()
	w.Write(make([]byte, 1<<16)) // it is full
	// One batch is under way, which takes what had come by then; then ten lines fit, and no
	// eleventh.
	l.Ended(&sample)
	gatewaytest.Await(t, "a batch under way", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return len(l.pending) == 0 })
	lost := linesLost.Get()
	for i, want := range []int{9, 10, 11, 12} {
		for n := 0; n < 9 && i == 0; n++ {
			l.Ended(&sample)
		}
		if i > 0 {
			l.Ended(&sample)
		}
		l.mu.Lock()
		got := len(l.pending)
		l.mu.Unlock()
		if got != min(want, 10)*line || int(linesLost.Get()-lost) != max(want-10, 0) {
			t.Errorf("%d lines: %d bytes wait and %d lines are lost", want, got, linesLost.Get()-lost)
		}
	}
	if err := l.Close(10 * time.Millisecond); err == nil {
		t.Error("Close does not say that lines are left")
	}
	go io.Copy(io.Discard, r)
	<-l.done
	r.Close()
}

// TestManyLoops: no line is cut or mixed with another.
func TestManyLoops(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: file})
	var all sync.WaitGroup
	const each = 500
	for i := range 4 {
		all.Go(func() {
			s := sample
			for n := range each {
				s.RequestID = fmt.Sprintf("%d-%d", i, n)
				l.Ended(&s)
			}
		})
	}
	all.Wait()
	if err := l.Close(gatewaytest.Patience); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(read(t, file)) {
		var got struct {
			RequestID string `json:"request_id"`
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		seen[got.RequestID] = true
	}
	if len(seen) != 4*each {
		t.Errorf("got %d lines, want %d", len(seen), 4*each)
	}
	if n := testing.AllocsPerRun(100, func() { appendJSON(make([]byte, 0, 512), &sample) }); n != 0 {
		t.Errorf("a line allocates %v times", n)
	}
	l.Ended(&sample) // after Close: lost, and no harm
}

// TestOfAGateway: the line of a real connection.
func TestOfAGateway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	l := open(t, Config{File: file})
	s, err := gateway.New(gateway.Config{Listen: "127.0.0.1:0", Heartbeat: -1, Ended: l.Ended, Logger: slog.New(slog.DiscardHandler)}, gateway.Echo{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	c := gatewaytest.Open(t, s, "/ws?token=secret")
	c.Write(gatewaytest.Text("hello"))
	c.Expect("text hello")
	c.Write(gatewaytest.CloseFrame(4000, ""))
	c.Expect("close 4000", "EOF")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(gatewaytest.Patience); err != nil {
		t.Fatal(err)
	}
	got := read(t, file)
	if strings.Contains(got, "secret") || !strings.Contains(got, `"path":"/ws","request_id":"`) ||
		!strings.Contains(got, `,"code":4000,"messages_in":1,"messages_out":1,`) {
		t.Errorf("got %s", got)
	}
}
