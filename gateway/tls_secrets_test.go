package gateway

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/gobwas/ws"

	"sluice/gateway/gatewaytest"
)

// TestTLSSecretsAreGone looks for the secrets of a connection in everything that the process holds,
// while the connection is open and when it has ended. The client is another process, so that its
// own copy is not found here.
func TestTLSSecretsAreGone(t *testing.T) {
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	s := serveTLS(t, Config{Loops: 1}, true)
	log := filepath.Join(t.TempDir(), "keys")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "s_client", "-connect", s.TLSAddr().String(), "-tls1_3",
		"-quiet", "-keylogfile", log)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, gatewaytest.Upgrade(get))
	stdin.Write(gatewaytest.Frame(true, ws.OpText, "hello"))
	var seen []byte
	for buf := make([]byte, 512); !bytes.Contains(seen, []byte("hello")); {
		n, err := stdout.Read(buf)
		if seen = append(seen, buf[:n]...); err != nil {
			t.Fatalf("got %q, %v, want the echo", seen, err)
		}
	}
	duringFile := heapDump(t)
	stdin.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	quietTLS(t, s)
	afterFile := heapDump(t)

	// Only now are files read, which puts the secrets into this process's memory.
	text, during, after := readFile(t, log), readFile(t, duringFile), readFile(t, afterFile)
	found := 0
	for line := range bytes.Lines(text) {
		words := bytes.Fields(line)
		if len(words) != 3 || !bytes.HasSuffix(words[0], []byte("_TRAFFIC_SECRET_0")) {
			continue
		}
		found++
		secret, err := hex.DecodeString(string(words[2]))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(during, secret) {
			t.Errorf("%s is not found where it must be: the search does not see it", words[0])
		}
		if bytes.Contains(during, words[2]) {
			t.Errorf("while it is open, the line of the key log with %s is still held", words[0])
		}
		if bytes.Contains(after, secret) || bytes.Contains(after, words[2]) {
			t.Errorf("after its end, %s is still held", words[0])
		}
	}
	if found != 2 {
		t.Errorf("%d secrets are in the client's key log, want 2", found)
	}
}

// heapDump is a file of every object that the process holds, and its stacks.
func heapDump(t *testing.T) (path string) {
	t.Helper()
	runtime.GC()
	runtime.GC() // what has a finalizer
	f, err := os.Create(filepath.Join(t.TempDir(), "heap"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	debug.WriteHeapDump(f.Fd())
	return f.Name()
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
