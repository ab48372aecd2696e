package tlsserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/tls13"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// writePair makes a certificate for name that signs itself, in dir.
func writePair(t *testing.T, dir, name string, notAfter time.Time) KeyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair := KeyPair{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	writePEM(t, pair.Cert, "CERTIFICATE", cert)
	writePEM(t, pair.Key, "PRIVATE KEY", der)
	return pair
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	b := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newServer is a Server with cfg, and a certificate for a.test when cfg has none.
func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Certificates == nil {
		pair := writePair(t, t.TempDir(), "a.test", time.Now().Add(time.Hour))
		cfg.Certificates = []KeyPair{pair}
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// socketPair is a TCP connection: its writes do not wait for the other end's reads.
func socketPair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{client, server} {
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		t.Cleanup(func() { c.Close() })
	}
	return client, server
}

// handshake plays the loop of one connection until the handshake is over. rest is what came behind.
func handshake(s *Server, conn net.Conn) (h *Handshake, rest []byte, err error) {
	jobs := make(chan func(), 1)
	h = s.Handshake(func(job func()) bool { jobs <- job; return true }, func() {})
	var in []byte
	for first := true; ; {
		n, err := Whole(in, first)
		if err != nil {
			return h, nil, err
		}
		if n == 0 {
			b := make([]byte, 100) // records come in parts
			n, err := conn.Read(b)
			if err != nil {
				h.Abort()
				return h, nil, err
			}
			in = append(in, b[:n]...)
			continue
		}
		h.Give(in[:n])
		in, first = in[n:], false
		(<-jobs)()
		if _, err := conn.Write(h.Output()); err != nil {
			h.Abort()
			return h, nil, err
		}
		if over, err := h.Over(); over {
			return h, append(bytes.Clone(h.Rest()), in...), err
		}
	}
}

// echo answers what the client sends until it has ended, by Layer or by Stream.
func echo(h *Handshake, conn net.Conn, in []byte) (compact bool, err error) {
	var keys tls13.Keys
	layer, compact := h.Layer()
	var stream *Stream
	if compact {
		defer layer.Wipe(&keys)
	} else {
		stream = h.Stream()
	}
	for {
		var out []byte
		if compact {
			for {
				data, n, err := layer.Open(&keys, in)
				if err == io.EOF {
					_, err = conn.Write(layer.SealAlert(&keys, out, tls13.CloseNotify))
					return compact, err
				}
				if err != nil {
					return compact, err
				}
				if n == 0 {
					break
				}
				out = layer.Seal(&keys, out, data)
				in = in[n:]
			}
		} else {
			plain, answer, err := stream.Open(nil, in, false)
			in, out = nil, answer
			if len(plain) > 0 {
				out, _ = stream.Seal(out, plain)
			}
			if err == io.EOF {
				_, err = conn.Write(stream.Close(out))
				return compact, err
			}
			if err != nil {
				return compact, err
			}
		}
		if _, err := conn.Write(out); err != nil {
			return compact, err
		}
		b := make([]byte, 50)
		n, err := conn.Read(b)
		if err != nil {
			return compact, err
		}
		in = append(in, b[:n]...)
	}
}

// outcome is what a connection came to.
type outcome struct {
	state   tls.ConnectionState
	server  error
	client  error
	compact bool
	subject string // of the client's certificate, as the server has it
}

// connect has a client of crypto/tls connect, have 20 messages echoed and close.
func connect(t *testing.T, s *Server, cfg *tls.Config) (o outcome) {
	t.Helper()
	cfg = cfg.Clone()
	cfg.InsecureSkipVerify = true
	c, conn := socketPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer conn.Close()
		h, rest, err := handshake(s, conn)
		if err == nil {
			o.subject = Subject(h.State())
			o.compact, err = echo(h, conn, rest)
		}
		o.server = err
	}()
	client := tls.Client(c, cfg)
	o.client = exchange(client)
	o.state = client.ConnectionState()
	c.Close()
	<-done
	return o
}

func exchange(client *tls.Conn) error {
	if err := client.Handshake(); err != nil {
		return err
	}
	for i := range 20 {
		message := bytes.Repeat([]byte{byte(i)}, 1+i*1000)
		if _, err := client.Write(message); err != nil {
			return err
		}
		got := make([]byte, len(message))
		if _, err := io.ReadFull(client, got); err != nil {
			return err
		}
		if !bytes.Equal(got, message) {
			return errors.New("another message came back")
		}
	}
	if err := client.CloseWrite(); err != nil {
		return err
	}
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		return errors.New("no close_notify came")
	}
	return nil
}

func TestVersionsAndResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, compact := range []bool{false, true} {
			t.Run(tls.VersionName(version), func(t *testing.T) {
				s := newServer(t, Config{Compact: compact})
				cfg := &tls.Config{
					MaxVersion: version, ServerName: "a.test",
					ClientSessionCache: tls.NewLRUClientSessionCache(1),
				}
				for i := range 3 {
					o := connect(t, s, cfg)
					if o.client != nil || o.server != nil {
						t.Fatalf("client: %v, server: %v", o.client, o.server)
					}
					if o.state.DidResume != (i > 0) || o.state.Version != version {
						t.Errorf("connection %d: resumed %v, version %x", i, o.state.DidResume,
							o.state.Version)
					}
					if want := compact && version == tls.VersionTLS13; o.compact != want {
						t.Errorf("got compact %v, want %v", o.compact, want)
					}
				}
			})
		}
	}
}

func TestRefused(t *testing.T) {
	s := newServer(t, Config{MinVersion: tls.VersionTLS13, Compact: true})
	for name, cfg := range map[string]*tls.Config{
		"version": {MaxVersion: tls.VersionTLS12},
		"ALPN":    {NextProtos: []string{"h2"}},
	} {
		if o := connect(t, s, cfg); o.client == nil || o.server == nil {
			t.Errorf("%s: client: %v, server: %v, want errors", name, o.client, o.server)
		}
	}
	o := connect(t, s, &tls.Config{NextProtos: []string{"h2", "http/1.1"}})
	if o.client != nil || o.state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("got %v, protocol %q, want http/1.1", o.client, o.state.NegotiatedProtocol)
	}
}

func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	known := writePair(t, dir, "client.test", time.Now().Add(time.Hour))
	other := writePair(t, dir, "other.test", time.Now().Add(time.Hour))
	s := newServer(t, Config{ClientCA: known.Cert, Compact: true})
	for _, test := range []struct {
		pair KeyPair
		good bool
	}{{known, true}, {other, false}, {KeyPair{}, false}} {
		cfg := &tls.Config{}
		if test.pair.Cert != "" {
			cert, err := tls.LoadX509KeyPair(test.pair.Cert, test.pair.Key)
			if err != nil {
				t.Fatal(err)
			}
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &cert, nil // whatever the server asks for
			}
		}
		o := connect(t, s, cfg)
		if (o.server == nil) != test.good {
			t.Errorf("%q: got %v, want good %v", test.pair.Cert, o.server, test.good)
		}
		if want := "CN=client.test"; test.good && o.subject != want {
			t.Errorf("got subject %q, want %q", o.subject, want)
		}
	}
}

// A handshake that waits for its peer must not take the only turn from others.
func TestHalfHandshakesTakeNoTurn(t *testing.T) {
	s := newServer(t, Config{Workers: 1})
	ended := make(chan error, 8)
	var halves []net.Conn
	for range cap(ended) {
		c, conn := socketPair(t)
		go func() {
			_, _, err := handshake(s, conn)
			ended <- err
		}()
		client := tls.Client(&deafAfterHello{Conn: c}, &tls.Config{InsecureSkipVerify: true})
		if err := client.Handshake(); err == nil {
			t.Fatal("half a handshake succeeded")
		}
		halves = append(halves, c)
	}
	if o := connect(t, s, &tls.Config{}); o.client != nil || o.server != nil {
		t.Errorf("client: %v, server: %v", o.client, o.server)
	}
	for _, c := range halves {
		c.Close()
	}
	for range halves {
		if err := <-ended; err == nil {
			t.Error("half a handshake succeeded")
		}
	}
}

// deafAfterHello is a connection whose client sends its ClientHello and reads nothing.
type deafAfterHello struct{ net.Conn }

func (*deafAfterHello) Read([]byte) (int, error) { return 0, errors.New("deaf") }

// Only Workers handshakes compute: one more waits until a turn is given back.
func TestWorkersBounded(t *testing.T) {
	const workers = 2
	s := newServer(t, Config{Workers: workers})
	for range workers {
		s.turns <- struct{}{}
	}
	c, conn := socketPair(t)
	done := make(chan error, 1)
	go func() {
		_, _, err := handshake(s, conn)
		done <- err
	}()
	client := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	go client.Handshake()
	select {
	case <-done:
		t.Fatal("a handshake was computed without a turn")
	case <-time.After(50 * time.Millisecond):
	}
	<-s.turns
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, want := len(s.turns), workers-1; got != want {
		t.Errorf("%d turns taken after the handshake, want %d", got, want)
	}
}
