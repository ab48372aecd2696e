package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"sluice/gateway/gatewaytest"
)

// TLS of others: Node's and Chromium's (BoringSSL), GnuTLS and curl; those of Go, OpenSSL and
// Python are in e2e_tls_test.go. One that is not installed is skipped.

func TestTLSPeers(t *testing.T) {
	cert, key := certificate(t)
	modules := nodeModules(t)
	eachRecords(t, func(t *testing.T, records string) {
		page := servePage(t, "tls.html")
		_, listen, admin := startTLS(t, records, cert, key, "--allowed-origins="+page.URL)
		page.gateway.Store("wss://" + listen)
		t.Run("curl", func(t *testing.T) { curlTLS(t, optional(t, "curl"), listen, cert) })
		t.Run("GnuTLS", func(t *testing.T) { gnuTLS(t, optional(t, "gnutls-cli"), listen, cert) })
		t.Run("Node", func(t *testing.T) {
			cmd := nodeClient(t, modules, "tls", listen)
			cmd.Args[len(cmd.Args)-1] = "wss://" + listen
			cmd.Env = append(cmd.Env, "NODE_EXTRA_CA_CERTS="+cert)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
		t.Run("Chromium", func(t *testing.T) {
			optional(t, "chromium")
			browse(t, page.URL, "--ignore-certificate-errors")
			const one = `{"right": 200, "code": 1000, "clean": true}`
			page.next(t, "tls", "["+one+","+one+"]")
		})
		for _, series := range []string{
			`sluice_tls_handshakes_total{result="failed"}`, `sluice_errors_total{reason="tls"}`,
		} {
			if n := metric(t, admin, series); n != 0 {
				t.Errorf("%s is %d, want 0", series, n)
			}
		}
	})
}

// optional finds a program of which a test can do without.
func optional(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("no %s here (scripts/install-test-deps.sh installs it where apt-get has it)", name)
	}
	return path
}

// curlTLS asks twice, the second time with the ticket of the first; curl reports a connection that
// ends without close_notify.
func curlTLS(t *testing.T, curl, listen, cert string) {
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.2", "1.3"} {
		out, err := exec.CommandContext(t.Context(), curl, "-sS", "-i", "--max-time", "60", "--cacert", cert,
			"--resolve", "a.test:"+port+":127.0.0.1", "--tlsv"+version, "--tls-max", version,
			"https://a.test:"+port+"/healthz", "https://a.test:"+port+"/none").CombinedOutput()
		text := string(out)
		if err != nil || !strings.Contains(text, "HTTP/1.1 200") || !strings.Contains(text, "HTTP/1.1 404") {
			t.Errorf("TLS %s: %v\n%s", version, err, text)
		}
	}
}

// gnuTLS talks through gnutls-cli, which reads lines: of a frame the last byte is a line's end, and
// none before. ^rekey^ has it change its keys, and ask for ours.
func gnuTLS(t *testing.T, path, listen, cert string) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--x509cafile", cert, "--sni-hostname", "a.test",
		"--verify-hostname", "a.test", "--inline-commands", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3",
		"--port", port, host)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	g := &sClient{T: t, stdin: in, stdout: out}
	g.until("Simple Client Mode")
	io.WriteString(in, gatewaytest.Upgrade("/ws"))
	g.until("101 Switching Protocols")
	for i := range 8 {
		if i%2 == 1 {
			io.WriteString(in, "^rekey^\n")
			g.until("Rekey was completed")
		}
		// Masked with ones, \x0b is a line's end.
		text := fmt.Sprintf("message %d\x0b", i)
		frame := []byte{0x82, 0x80 | byte(len(text)), 1, 1, 1, 1}
		for _, b := range []byte(text) {
			frame = append(frame, b^1)
		}
		if bytes.IndexByte(frame, '\n') != len(frame)-1 {
			t.Fatalf("%q is not one line", frame)
		}
		in.Write(frame)
		g.until(text)
	}
}
