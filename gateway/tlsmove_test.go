package gateway

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway/gatewaytest"
	"sluice/gateway/tls13"
)

// cutter is a socket that keeps the end of what is written, once, until rest.
type cutter struct {
	net.Conn
	cut  int // the next Write sends so many bytes less; 0: all
	kept []byte
}

func (c *cutter) Write(b []byte) (int, error) {
	if c.cut > 0 {
		n := max(len(b)-c.cut, 0)
		c.kept, c.cut = append(c.kept, b[n:]...), 0
		_, err := c.Conn.Write(b[:n])
		return len(b), err
	}
	return c.Conn.Write(b)
}

func (c *cutter) rest() { c.Conn.Write(c.kept); c.kept = nil }

// overTLS connects and upgrades over a socket of the test's own.
func overTLS(t testing.TB, conn net.Conn) *gatewaytest.Client {
	t.Helper()
	c := gatewaytest.Wrap(t, tls.Client(conn, &tls.Config{InsecureSkipVerify: true}))
	io.WriteString(c, gatewaytest.Upgrade(get))
	if got := c.Response().StatusCode; got != 101 {
		t.Fatalf("got %d, want 101", got)
	}
	return c
}

// TestTLSHandover: connections of the compact record layer go on where they were, in the middle of
// a record, of a frame, of a queue, or before their handshake; the others are drained.
func TestTLSHandover(t *testing.T) {
	cfg := Config{Heartbeat: time.Hour, MaxQueue: 1 << 20, DrainSpread: -1}
	cfg.Loops = 2
	from := serveTLSApp(t, cfg, true, movable{})
	cfg.Loops = 3
	to := serveTLSApp(t, cfg, true, movable{})
	const v13 = tls.VersionTLS13

	idle, _ := openTLS(t, from, v13)
	idle.Write(text("a"))
	idle.Expect("text 1 a")

	cut := &cutter{Conn: gatewaytest.Dial(t, tlsAddr{from}).Conn}
	inRecord := overTLS(t, cut)
	cut.cut = 20
	inRecord.Write(text("in two parts"))

	inFrame, _ := openTLS(t, from, v13)
	long := text(strings.Repeat("frame", 1000))
	inFrame.Write(long[:3000])

	hello := gatewaytest.Dial(t, tlsAddr{from})
	inHello := &cutter{Conn: hello.Conn, cut: 100}
	opened := make(chan *gatewaytest.Client)
	go func() {
		conn := tls.Client(inHello, &tls.Config{InsecureSkipVerify: true})
		c := gatewaytest.Wrap(t, conn)
		io.WriteString(c, gatewaytest.Upgrade(get)) // after the handshake
		opened <- c
	}()

	old, _ := openTLS(t, from, tls.VersionTLS12)

	slow := overTLS(t, narrow(t, from.TLSAddr().String()))
	const replies = 300
	payload := strings.Repeat("x", 4000)
	go func() {
		for range replies {
			if _, err := slow.Write(text(payload)); err != nil {
				return
			}
		}
	}()
	await(t, "all have come, and the slow reader has a queue", func() bool {
		parts, hellos, queued := 0, 0, false
		onLoops(from, func(w *worker) {
			for _, c := range w.conns {
				queued = queued || c.Queued() > 10_000
				if c.in != nil && c.in.inMessage() || c.rare.recordSince != 0 {
					parts++
				}
				if h := c.tlsHandshake(); h != nil && len(h.in) > 0 {
					hellos++
				}
			}
		})
		return parts >= 2 && hellos == 1 && queued
	})
	if n := move(t, from, to); n != 5 {
		t.Errorf("%d connections moved, want 5", n)
	}
	if from.Connections() != 1 || to.Connections() != 5 {
		t.Errorf("%d stay and %d have come, want 1 and 5", from.Connections(), to.Connections())
	}
	idle.Write(text("b"))
	idle.Expect("text 2 b")
	cut.rest()
	inRecord.Expect("text 1 in two parts")
	inFrame.Write(long[3000:])
	inFrame.Expect("text 1 " + strings.Repeat("frame", 1000))
	inHello.rest()
	asked := <-opened
	asked.Response()
	asked.Write(text("c"))
	asked.Expect("text 1 c")
	for i := range replies {
		slow.Expect(fmt.Sprintf("text %d %s", (i + 1), payload))
	}
	drained := make(chan error, 1)
	go func() { drained <- from.Drain(t.Context()) }()
	old.Expect("close 1001")
	old.Write(gatewaytest.CloseFrame(ws.StatusGoingAway, ""))
	old.Close()
	if err := <-drained; err != nil {
		t.Errorf("the old process drains: %v", err)
	}
	checkQuiet(t, from)
	for _, c := range []io.Closer{idle, inRecord, inFrame, asked, slow} {
		c.Close()
	}
	quietTLS(t, to)
}

// TestTLSHandoverWaits: a handshake under way ends before its connection travels. One whose client
// does not go on holds up nobody.
func TestTLSHandoverWaits(t *testing.T) {
	cfg := Config{Loops: 1, Heartbeat: time.Hour, DrainSpread: -1}
	from := serveTLSApp(t, cfg, true, movable{})
	to := serveTLSApp(t, cfg, true, movable{})
	half := gatewaytest.Dial(t, tlsAddr{from})
	tls.Client(readless{half}, &tls.Config{InsecureSkipVerify: true}).Handshake()
	goesOn := gatewaytest.Dial(t, tlsAddr{from})
	gate := &gated{Conn: goesOn.Conn, open: make(chan struct{})}
	opened := make(chan *gatewaytest.Client)
	go func() {
		c := gatewaytest.Wrap(t, tls.Client(gate, &tls.Config{InsecureSkipVerify: true}))
		io.WriteString(c, gatewaytest.Upgrade(get))
		opened <- c
	}()
	await(t, "both have begun", func() (begun bool) {
		onLoops(from, func(w *worker) { begun = w.tlsHandshakes.Len() == 2 })
		return begun
	})
	h := from.Handover(false)
	h.grace = time.Now().Add(time.Hour)
	close(gate.open)
	b, err := h.Next(t.Context())
	if err != nil || len(b.FDs) != 1 {
		t.Fatalf("got %v, want the connection whose handshake went on", err)
	}
	a := to.Adopt(dupFDs(t, b.FDs), b.States)
	b.Settle(a.Refused)
	a.Commit()
	h.grace = time.Now()
	if _, err := h.Next(t.Context()); err != io.EOF {
		t.Errorf("then got %v, want io.EOF", err)
	}
	h.End(true)
	c := <-opened
	c.Response()
	c.Write(text("a"))
	c.Expect("text 1 a")
	half.Close()
	if err := from.Drain(t.Context()); err != nil {
		t.Errorf("the old process drains: %v", err)
	}
}

// gated reads only once it is open.
type gated struct {
	net.Conn
	open chan struct{}
}

func (g *gated) Read(b []byte) (int, error) { <-g.open; return g.Conn.Read(b) }

// TestTLSHandoverRefused: a process that does not speak TLS, or does not have the compact record
// layer, takes none of its connections; they go on where they were.
func TestTLSHandoverRefused(t *testing.T) {
	cfg := Config{Loops: 1, Heartbeat: time.Hour}
	from := serveTLSApp(t, cfg, true, movable{})
	c, _ := openTLS(t, from, tls.VersionTLS13)
	for i, to := range []*Server{
		serve(t, cfg, movable{}), serveTLSApp(t, cfg, false, movable{}),
	} {
		h := from.Handover(false)
		b, err := h.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Write(text("meanwhile"))
		a := to.Adopt(dupFDs(t, b.FDs), b.States)
		if len(a.Refused) != 1 {
			t.Errorf("%d are refused, want 1", len(a.Refused))
		}
		b.Settle(a.Refused)
		a.Commit()
		for _, state := range b.States {
			if len(bytes.Trim(state, "\x00")) > 0 {
				t.Error("the packed state is not cleared")
			}
		}
		h.End(false)
		c.Expect(fmt.Sprintf("text %d meanwhile", i+1))
	}
}

// secretClient speaks TLS 1.3 with a Layer of its own, so that it can change keys when it likes.
type secretClient struct {
	net.Conn
	layer   tls13.Layer
	keys    tls13.Keys
	pending []byte // ciphertext
	secrets [2][]byte
	data    []byte
}

// logKey takes a line of the key log.
func (l *secretClient) logKey(line []byte) {
	words := strings.Fields(string(line))
	for i, label := range []string{"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"} {
		if words[0] == label {
			l.secrets[i], _ = hex.DecodeString(words[2])
		}
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// openSecret connects and upgrades. The client's key is replaced after so many records, and it asks
// for the gateway's each time.
func openSecret(t *testing.T, s *Server, rekeyAfter uint64) *gatewaytest.Client {
	t.Helper()
	raw := gatewaytest.Dial(t, tlsAddr{s})
	l := &secretClient{Conn: raw.Conn}
	conn := tls.Client(raw.Conn, &tls.Config{
		InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, KeyLogWriter: writerFunc(l.logKey),
	})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	var err error
	l.layer, err = tls13.New(conn.ConnectionState().CipherSuite, l.secrets[1], l.secrets[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	l.keys.RekeyAfter = rekeyAfter
	c := &gatewaytest.Client{T: t, Conn: l, R: bufio.NewReader(l)}
	io.WriteString(c, gatewaytest.Upgrade(get))
	c.Response()
	return c
}

func (l *secretClient) Write(b []byte) (int, error) {
	_, err := l.Conn.Write(l.layer.Seal(&l.keys, nil, b))
	return len(b), err
}

func (l *secretClient) Read(b []byte) (int, error) {
	for len(l.data) == 0 {
		data, n, err := l.layer.Open(&l.keys, l.pending)
		if err != nil {
			return 0, err
		}
		if l.data = data; n > 0 {
			l.pending = l.pending[n:]
			continue
		}
		more := make([]byte, 4096)
		m, err := l.Conn.Read(more)
		if err != nil {
			return 0, err
		}
		l.pending = append(bytes.Clone(l.pending), more[:m]...)
	}
	n := copy(b, l.data)
	l.data = l.data[n:]
	return n, nil
}

// TestTLSHandoverKeyUpdates: keys change on both sides before, between and after handovers.
func TestTLSHandoverKeyUpdates(t *testing.T) {
	cfg := Config{Loops: 1, Heartbeat: time.Hour}
	from := serveTLSApp(t, cfg, true, movable{})
	onLoops(from, func(w *worker) { w.tlsKeys.RekeyAfter = 5 })
	var clients []*gatewaytest.Client
	for _, rekeyAfter := range []uint64{1, 2, 3, 7, 1 << 20} {
		clients = append(clients, openSecret(t, from, rekeyAfter))
	}
	const rounds, messages = 4, 10
	for round := range rounds {
		for i := range messages {
			for _, c := range clients {
				c.Write(text("x"))
				c.Expect(fmt.Sprintf("text %d x", round*messages+i+1))
			}
		}
		to := serveTLSApp(t, cfg, true, movable{})
		onLoops(to, func(w *worker) { w.tlsKeys.RekeyAfter = 5 })
		if n := move(t, from, to); n != len(clients) {
			t.Fatalf("%d connections moved, want %d", n, len(clients))
		}
		from = to
	}
}
