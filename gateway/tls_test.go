package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway/gatewaytest"
	"sluice/gateway/tlsserver"
)

// serveTLS is a Server whose TLSAddr speaks TLS.
func serveTLS(t testing.TB, cfg Config, compact bool) *Server {
	t.Helper()
	return serveTLSApp(t, cfg, compact, Echo{})
}

func serveTLSApp(t testing.TB, cfg Config, compact bool, app App) *Server {
	t.Helper()
	cfg.TLS, cfg.TLSListen = newTLS(t, compact), "127.0.0.1:0"
	return serve(t, cfg, app)
}

// newTLS has a certificate that signs itself.
func newTLS(t testing.TB, compact bool) *tlsserver.Server {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "a.test"}, DNSNames: []string{"a.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pair := tlsserver.KeyPair{Cert: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key")}
	for path, block := range map[string]*pem.Block{
		pair.Cert: {Type: "CERTIFICATE", Bytes: cert}, pair.Key: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server, err := tlsserver.New(tlsserver.Config{
		Certificates: []tlsserver.KeyPair{pair}, Compact: compact, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// tlsAddr is a Server as tests dial it with TLS.
type tlsAddr struct{ s *Server }

func (a tlsAddr) Addr() netip.AddrPort { return a.s.TLSAddr() }

func dialTLS(t testing.TB, s *Server, version uint16) *tls.Conn {
	t.Helper()
	raw := gatewaytest.Dial(t, tlsAddr{s})
	return tls.Client(raw.Conn, &tls.Config{
		InsecureSkipVerify: true, MinVersion: version, MaxVersion: version,
	})
}

// openTLS connects and upgrades.
func openTLS(t testing.TB, s *Server, version uint16) (*gatewaytest.Client, *tls.Conn) {
	t.Helper()
	conn := dialTLS(t, s, version)
	c := &gatewaytest.Client{T: t, Conn: conn, R: bufio.NewReader(conn)}
	io.WriteString(c, gatewaytest.Upgrade(get))
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("got %d, want 101", got)
	}
	return c, conn
}

// quietTLS insists that nothing is left of connections that have ended.
func quietTLS(t *testing.T, s *Server) {
	t.Helper()
	await(t, "the last connection", func() bool { return s.Connections() == 0 })
	checkQuiet(t, s)
	onLoops(s, func(w *worker) {
		if n := w.tlsHandshakes.Len(); n > 0 {
			t.Errorf("%d handshakes are under way without a connection", n)
		}
		if n := w.loop.Buffers.Held(); n > 0 {
			t.Errorf("%d bytes of buffers are held", n)
		}
	})
}

// eachTLS runs a test for each version and record layer.
func eachTLS(t *testing.T, test func(t *testing.T, version uint16, compact bool)) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, compact := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, compact %v", tls.VersionName(version), compact), func(t *testing.T) {
				test(t, version, compact)
			})
		}
	}
}

func TestTLSEchoes(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16, compact bool) {
		s := serveTLS(t, Config{Loops: 2}, compact)
		series := `sluice_tls_handshakes_total{result="std"}`
		if compact && version == tls.VersionTLS13 {
			series = `sluice_tls_handshakes_total{result="compact"}`
		}
		count := counting(s, series)
		c, _ := openTLS(t, s, version)
		for _, size := range []int{0, 1, 125, 126, 16383, 16384, 16385, 65536} {
			text := strings.Repeat("x", size)
			c.Write(gatewaytest.Text(text))
			if got := c.Next(); got != "text "+text && got != text {
				t.Fatalf("%d bytes: got %.40q of %d", size, got, len(got))
			}
		}
		var frames []byte
		const many = 2000
		for range many {
			frames = append(frames, gatewaytest.Text("message")...)
		}
		go c.Write(frames)
		for range many {
			c.Next()
		}
		c.Write(gatewaytest.CloseFrame(ws.StatusNormalClosure, ""))
		c.Next()
		if _, err := c.R.ReadByte(); err != io.EOF {
			t.Errorf("after the Close frame: got %v, want close_notify and EOF", err)
		}
		c.Close()
		if n := count(); n != 1 {
			t.Errorf("%s grew by %d, want 1", series, n)
		}
		quietTLS(t, s)
	})
}

// TestTLSEnds has connections end in each of the ways that are not a Close frame.
func TestTLSEnds(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16, compact bool) {
		s := serveTLS(t, Config{Loops: 1}, compact)
		t.Run("close_notify", func(t *testing.T) {
			c, conn := openTLS(t, s, version)
			c.Write(gatewaytest.Text("last"))
			conn.CloseWrite()
			got, err := io.ReadAll(c.R)
			if err != nil || !strings.Contains(string(got), "last") {
				t.Errorf("got %q, %v, want the echo and close_notify", got, err)
			}
			c.Close()
		})
		t.Run("FIN alone", func(t *testing.T) {
			c, conn := openTLS(t, s, version)
			conn.NetConn().(*net.TCPConn).CloseWrite()
			if _, err := io.ReadAll(c.R); err != nil {
				t.Errorf("got %v, want close_notify", err)
			}
			c.Close()
		})
		t.Run("reset", func(t *testing.T) {
			_, conn := openTLS(t, s, version)
			tcp := conn.NetConn().(*net.TCPConn)
			tcp.SetLinger(0)
			tcp.Close()
		})
		t.Run("a record that does not decrypt", func(t *testing.T) {
			failed := counting(s, `sluice_errors_total{reason="tls"}`)
			c, conn := openTLS(t, s, version)
			conn.NetConn().Write(append([]byte{23, 3, 3, 0, 40}, make([]byte, 40)...))
			if _, err := io.ReadAll(c.R); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
				t.Errorf("got %v, want the alert bad_record_mac", err)
			}
			if n := failed(); n != 1 {
				t.Errorf("counted %d, want 1", n)
			}
			c.Close()
		})
		t.Run("part of a record", func(t *testing.T) {
			c, conn := openTLS(t, s, version)
			conn.NetConn().Write([]byte{23, 3, 3, 0x40, 0, 1, 2, 3})
			await(t, "the part", func() (held bool) {
				onLoops(s, func(w *worker) { held = w.loop.Buffers.Held() > 0 })
				return held
			})
			onLoops(s, func(w *worker) {
				for _, c := range w.conns {
					c.rare.recordSince -= w.cfg.MessageTimeout
					c.rearm()
				}
			})
			if got := c.Next(); !strings.Contains(got, "1008") {
				t.Errorf("got %q, want Close with 1008", got)
			}
			c.Close()
		})
		quietTLS(t, s)
	})
}

func TestTLSHandshakesThatFail(t *testing.T) {
	s := serveTLS(t, Config{Loops: 1, MaxTLSHandshakes: 2}, true)
	result := func(name string) func() uint64 {
		return counting(s, `sluice_tls_handshakes_total{result="`+name+`"}`)
	}
	garbage, failed, busy := result("not_tls"), result("failed"), result("busy")
	ends := func(c net.Conn) {
		t.Helper()
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("got %v, want FIN", err)
		}
		c.Close()
	}
	for _, text := range []string{
		"GET / HTTP/1.1\r\n\r\n", "\x16\x02", "\x16\x03\x01\x00\x02ab",
		"\x17\x03\x03\x00\x05abcde",
	} {
		c := gatewaytest.Dial(t, tlsAddr{s})
		io.WriteString(c, text)
		ends(c)
	}
	if n := garbage(); n != 4 {
		t.Errorf("got %d that are not TLS, want 4", n)
	}
	c := gatewaytest.Dial(t, tlsAddr{s})
	io.WriteString(c, "\x16\x03\x01\x00\x05\x01\x00\x00\x01a")
	if got, _ := io.ReadAll(c); len(got) < 7 || got[0] != 21 {
		t.Errorf("got %x, want an alert", got)
	}
	c.Close()
	if n := failed(); n != 1 {
		t.Errorf("got %d failed, want 1", n)
	}
	// Nothing, a part of a ClientHello, and half a handshake: the deadline ends them.
	for _, text := range []string{"", "\x16\x03\x01\x02\x00\x01"} {
		c := gatewaytest.Dial(t, tlsAddr{s})
		io.WriteString(c, text)
		await(t, "the connection", func() bool { acceptAll(s); return s.Connections() == 1 })
		overdue(s)
		ends(c)
		await(t, "its end", func() bool { return s.Connections() == 0 })
	}
	half := func() net.Conn {
		c := gatewaytest.Dial(t, tlsAddr{s})
		client := tls.Client(readless{c}, &tls.Config{InsecureSkipVerify: true})
		client.Handshake() // sends the ClientHello and fails
		if _, err := c.R.Peek(1); err != nil {
			t.Fatal(err) // the gateway waits from here on
		}
		return c
	}
	first, second := half(), half()
	if n := busy(); n != 0 {
		t.Errorf("%d were too many, want none of two", n)
	}
	third := half()
	if _, err := io.ReadAll(first); err == nil {
		t.Error("the handshake that has waited the longest ends in order, want a reset")
	}
	if n := busy(); n != 1 {
		t.Errorf("%d were too many, want 1", n)
	}
	c1, _ := openTLS(t, s, tls.VersionTLS13) // takes the place of the second
	c1.Write(gatewaytest.Text("hello"))
	c1.Next()
	for _, c := range []net.Conn{first, second, third, c1} {
		c.Close()
	}
	quietTLS(t, s)
}

// readless is a connection whose reads fail.
type readless struct{ net.Conn }

func (readless) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestTLSDrainTells1001(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16, compact bool) {
		s := serveTLS(t, Config{Loops: 2, DrainSpread: -1}, compact)
		c, _ := openTLS(t, s, version)
		drained := make(chan error, 1)
		go func() { drained <- s.Drain(t.Context()) }()
		if got := c.Next(); !strings.Contains(got, "1001") {
			t.Errorf("got %q, want Close with 1001", got)
		}
		c.Write(gatewaytest.CloseFrame(ws.StatusGoingAway, ""))
		io.ReadAll(c.R)
		c.Close()
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}
