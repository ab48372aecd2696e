package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"

	"sluice/gateway/gatewaytest"
)

// certificate makes a certificate for a.test that signs itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.test"},
		DNSNames:  []string{"a.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "crt.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: signed}, key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// startTLS is start with --tls-listen.
func startTLS(t *testing.T, records, cert, key string, more ...string) (p *process,
	listen, admin string) {
	t.Helper()
	p = launch(t, append([]string{"serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--app=echo",
		"--heartbeat=0", "--drain-spread=0", "--tls-listen=127.0.0.1:0", "--tls-cert=" + cert,
		"--tls-key=" + key, "--tls-records=" + records}, more...)...)
	ready := p.until("ready")
	listen, _ = ready["tls_listen"].(string)
	admin, _ = ready["admin"].(string)
	return p, listen, admin
}

func TestTLSClients(t *testing.T) {
	cert, key := certificate(t)
	roots := x509.NewCertPool()
	if text, _ := os.ReadFile(cert); !roots.AppendCertsFromPEM(text) {
		t.Fatal("the certificate cannot be read")
	}
	for _, records := range []string{"std", "compact"} {
		p, listen, admin := startTLS(t, records, cert, key)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(records+" Go "+tls.VersionName(version), func(t *testing.T) {
				echoTLS(t, listen, &tls.Config{
					RootCAs: roots, ServerName: "a.test", MinVersion: version, MaxVersion: version,
				})
			})
		}
		t.Run(records+" openssl", func(t *testing.T) { openssl(t, listen, cert) })
		t.Run(records+" Python", func(t *testing.T) { pythonTLS(t, listen, cert) })

		_, metrics := get(t, "http://"+admin+"/metrics")
		for _, want := range []string{
			`sluice_tls_handshakes_total{result="failed"} 0`, `sluice_errors_total{reason="tls"} 0`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("%s: the metrics lack %s", records, want)
			}
		}
		client := dialTLS(t, listen)
		p.signal(syscall.SIGTERM)
		client.Expect("close 1001")
		client.Close()
		if status := p.exit(); status != exitClean {
			t.Errorf("the gateway's status is %d, want 0", status)
		}
	}
}

// dialTLS connects and upgrades.
func dialTLS(t *testing.T, listen string) *gatewaytest.Client {
	t.Helper()
	conn, err := tls.Dial("tcp", listen, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	c := &gatewaytest.Client{T: t, Conn: conn, R: bufio.NewReader(conn)}
	io.WriteString(c, gatewaytest.Upgrade("/ws"))
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("got %d, want 101", got)
	}
	return c
}

// TestTakeoverDrainsTLS: what crypto/tls carries cannot travel. Its clients are told 1001, and find
// the next process at the same address.
func TestTakeoverDrainsTLS(t *testing.T) {
	cert, key := certificate(t)
	p, listen, _ := startTLS(t, "std", cert, key,
		"--loops=2", "--takeover="+filepath.Join(t.TempDir(), "t.sock"))
	c := dialTLS(t, listen)
	p.signal(syscall.SIGHUP)
	next := p.next()
	c.Expect("close 1001")
	c.Write(gatewaytest.CloseFrame(1001, ""))
	c.Close()
	if status := p.until("exit")["status"]; status != 0.0 {
		t.Errorf("the old process's status is %v, want 0", status)
	}
	for range 4 {
		c = dialTLS(t, listen)
		c.Write(gatewaytest.Text("hello"))
		c.Expect("text hello")
		c.Close()
	}
	_ = next.Signal(syscall.SIGTERM)
}

// echoTLS sends very many messages without waiting for their answers, which come in order.
func echoTLS(t *testing.T, listen string, cfg *tls.Config) {
	c, _, err := (&gorilla.Dialer{HandshakeTimeout: patience, TLSClientConfig: cfg}).Dial(
		"wss://"+listen+"/ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(2 * patience))
	const messages = 30_000
	go func() {
		for i := range messages {
			text := fmt.Sprintf("%d %s", i, strings.Repeat("x", i%300))
			if c.WriteMessage(gorilla.TextMessage, []byte(text)) != nil {
				return
			}
		}
	}()
	for i := range messages {
		_, got, err := c.ReadMessage()
		if want := fmt.Sprintf("%d ", i); err != nil || !strings.HasPrefix(string(got), want) ||
			len(got) != len(want)+i%300 {
			t.Fatalf("message %d: got %.40q of %d, %v", i, got, len(got), err)
		}
	}
}

// openssl talks through s_client, which changes its keys (k), and asks for ours too (K).
func openssl(t *testing.T, listen, cert string) {
	o := newOpenSSL(t, listen, cert)
	for i, command := range []string{"", "k\n", "K\n", "K\n", "k\n"} {
		o.update(command)
		text := fmt.Sprintf("message %d", i)
		o.stdin.Write(gatewaytest.Frame(true, ws.OpText, text))
		o.until(text)
	}
}

// sClient is openssl s_client with a WebSocket.
type sClient struct {
	*testing.T
	stdin  io.Writer
	stdout io.Reader
	seen   []byte
}

func newOpenSSL(t *testing.T, listen, cert string) *sClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	cmd := exec.CommandContext(ctx, program(t, "openssl"), "s_client", "-connect", listen,
		"-CAfile", cert, "-servername", "a.test", "-verify_return_error", "-tls1_3")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout // KEYUPDATE is there
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cancel()
	})
	o := &sClient{T: t, stdin: stdin, stdout: stdout}
	o.until("---\n")
	io.WriteString(stdin, gatewaytest.Upgrade("/ws"))
	o.until("101 Switching Protocols")
	return o
}

// until reads up to and with want.
func (o *sClient) until(want string) {
	o.Helper()
	b := make([]byte, 4096)
	for {
		if _, rest, found := bytes.Cut(o.seen, []byte(want)); found {
			o.seen = rest
			return
		}
		n, err := o.stdout.Read(b)
		if o.seen = append(o.seen, b[:n]...); err != nil {
			o.Fatalf("got %q, %v, want %q", o.seen, err, want)
		}
	}
}

// update changes keys.
func (o *sClient) update(command string) {
	o.Helper()
	if command != "" {
		io.WriteString(o.stdin, command)
		o.until("KEYUPDATE")
	}
}

// count changes keys, and sends a message that is the nth.
func (o *sClient) count(command string, n int) {
	o.Helper()
	o.update(command)
	o.stdin.Write(gatewaytest.Frame(true, ws.OpText, "x"))
	o.until(fmt.Sprintf(`{"count":%d}`, n))
}

// pythonTLS has the websockets library, over Python's own ssl, send and receive.
func pythonTLS(t *testing.T, listen, cert string) {
	const script = `
import asyncio, ssl, sys, websockets
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2])
    async with websockets.connect("wss://" + sys.argv[1] + "/ws", ssl=context,
                                  server_hostname="a.test", ping_interval=None) as ws:
        for i in range(1000):
            text = "x" * i
            await ws.send(text)
            assert await ws.recv() == text, i
    assert ws.close_code == 1000, ws.close_code
asyncio.run(main())
`
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, python(t), "-c", script, listen, cert)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
