package tls13

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	_ "unsafe" // go:linkname
)

// crypto/tls has no setting for the cipher suite of TLS 1.3. quic-go sets these two the same way.
//
//go:linkname tlsSuites crypto/tls.defaultCipherSuitesTLS13
var tlsSuites []uint16

//go:linkname tlsSuitesNoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var tlsSuitesNoAES []uint16

// suites are all there are.
var suites = []uint16{AES128GCM, AES256GCM, ChaCha20Poly1305}

// forceSuite has handshakes negotiate one suite until undo is called.
func forceSuite(suite uint16) (undo func()) {
	a, b := tlsSuites, tlsSuitesNoAES
	tlsSuites, tlsSuitesNoAES = []uint16{suite}, []uint16{suite}
	return func() { tlsSuites, tlsSuitesNoAES = a, b }
}

// errAgain is what a wire without bytes answers, as a non-blocking socket would.
type errAgain struct{}

func (errAgain) Error() string   { return "try again" }
func (errAgain) Timeout() bool   { return true }
func (errAgain) Temporary() bool { return true }

// wire is one end of a connection in memory. It blocks while the handshake runs, and not any more
// once loose is called.
type wire struct {
	mu    sync.Mutex
	cond  *sync.Cond
	loose bool
	shut  bool
	in    bytes.Buffer
	peer  *wire
	sent  bytes.Buffer // what was written once loose
}

func newWires() (a, b *wire) {
	a, b = new(wire), new(wire)
	a.cond, b.cond = sync.NewCond(&a.mu), sync.NewCond(&b.mu)
	a.peer, b.peer = b, a
	return a, b
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.in.Len() == 0 {
		switch {
		case w.shut:
			return 0, io.EOF
		case w.loose:
			return 0, errAgain{}
		}
		w.cond.Wait()
	}
	return w.in.Read(p)
}

func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	loose := w.loose
	if loose {
		w.sent.Write(p)
	}
	w.mu.Unlock()
	if !loose {
		w.peer.feed(p)
	}
	return len(p), nil
}

func (w *wire) feed(p []byte) {
	w.mu.Lock()
	w.in.Write(p)
	w.mu.Unlock()
	w.cond.Broadcast()
}

func (w *wire) loosen() {
	w.mu.Lock()
	w.loose = true
	w.mu.Unlock()
}

func (w *wire) Close() error {
	w.mu.Lock()
	w.shut = true
	w.mu.Unlock()
	w.cond.Broadcast()
	return nil
}
func (w *wire) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (w *wire) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (w *wire) SetDeadline(time.Time) error      { return nil }
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

var testCert = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"test"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// pair is a handshake made by crypto/tls on both sides, and a Layer with the server's state: three
// ends of one connection.
type pair struct {
	client, server         *tls.Conn
	clientWire, serverWire *wire
	layer                  *Layer
	keys                   *Keys
	tickets                uint64
	clientSecret           []byte
	serverSecret           []byte
}

// Write implements io.Writer for Config.KeyLogWriter: "LABEL random secret", in hex.
func (p *pair) Write(line []byte) (int, error) {
	words := strings.Fields(string(line))
	if len(words) == 3 {
		secret, err := hex.DecodeString(words[2])
		if err != nil {
			return 0, err
		}
		switch words[0] {
		case "CLIENT_TRAFFIC_SECRET_0":
			p.clientSecret = secret
		case "SERVER_TRAFFIC_SECRET_0":
			p.serverSecret = secret
		}
	}
	return len(line), nil
}

// connect makes a handshake. The client has read its tickets when it returns.
func connect(t testing.TB, suite uint16, tickets bool) *pair {
	t.Helper()
	defer forceSuite(suite)()
	p := &pair{keys: new(Keys)}
	p.clientWire, p.serverWire = newWires()
	server := &tls.Config{Certificates: []tls.Certificate{testCert()}, KeyLogWriter: p,
		SessionTicketsDisabled: !tickets, MinVersion: tls.VersionTLS13}
	server.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		p.tickets++
		return server.EncryptTicket(cs, ss)
	}
	p.server = tls.Server(p.serverWire, server)
	p.client = tls.Client(p.clientWire, &tls.Config{InsecureSkipVerify: true,
		ClientSessionCache: tls.NewLRUClientSessionCache(1)})
	done := make(chan error, 1)
	go func() { done <- p.server.Handshake() }()
	if err := p.client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.clientWire.loosen()
	p.serverWire.loosen()
	if got := p.client.ConnectionState().CipherSuite; got != suite {
		t.Fatalf("got cipher suite %#x, want %#x", got, suite)
	}
	layer, err := New(suite, p.clientSecret, p.serverSecret, p.tickets)
	if err != nil {
		t.Fatal(err)
	}
	p.layer = &layer
	if _, err := p.client.Read(make([]byte, 1)); !errors.As(err, new(errAgain)) {
		t.Fatalf("client after the handshake: %v", err)
	}
	return p
}

// mirror is the client's end of the connection as a Layer.
func (p *pair) mirror(t testing.TB) *Layer {
	t.Helper()
	l, err := New(p.layer.CipherSuite(), p.serverSecret, p.clientSecret, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.half[in].seq = p.tickets
	return &l
}

// drain reads all that c has; end is nil when there is just no more.
func drain(c *tls.Conn) (data []byte, end error) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		data = append(data, buf[:n]...)
		if errors.As(err, new(errAgain)) {
			return data, nil
		}
		if err != nil {
			return data, err
		}
	}
}

// openAll opens all whole records of b, which it overwrites, and returns what is left.
func openAll(l *Layer, k *Keys, b []byte) (data, rest []byte, end error) {
	for {
		got, n, err := l.Open(k, b)
		data = append(data, got...)
		b = b[n:]
		if err != nil || n == 0 {
			return data, b, err
		}
	}
}
