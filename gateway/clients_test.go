package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway/client"
	"sluice/gateway/gatewaytest"
)

// addressApp tells each client its address, as its first message.
type addressApp struct{ Echo }

func (a addressApp) ForLoop(func(fn func()) bool) Handler { return a }

func (addressApp) Open(c *Conn, _ *Request) {
	c.Accept("")
	c.Send(ws.OpText, []byte(c.RemoteAddr().String()))
}

// from connects from an address of this machine.
func from(t testing.TB, s *Server, ip string) *gatewaytest.Client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	conn, err := d.Dial("tcp", s.Addr().String())
	if errors.Is(err, unix.ECONNRESET) { // it came before Dial returned
		var other net.Conn
		conn, other = net.Pipe()
		other.Close()
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(gatewaytest.Patience))
	return gatewaytest.Wrap(t, conn)
}

// status is what the server answers to text: "101 ADDRESS", "403", "reset".
func status(c *gatewaytest.Client, text string) string {
	c.T.Helper()
	io.WriteString(c, text)
	line, err := c.R.ReadString('\n')
	if err != nil {
		return "reset"
	}
	code := strings.Fields(line)[1]
	if code != "101" {
		return code
	}
	for line != "\r\n" {
		if line, err = c.R.ReadString('\n'); err != nil {
			c.T.Fatal(err)
		}
	}
	address, _ := strings.CutPrefix(c.Next(), "text ")
	return "101 " + address
}

func proxyV2(command byte, source string) string {
	at := netip.MustParseAddrPort(source)
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, 0x11, 0, 12)
	four := at.Addr().As4()
	b = append(append(b, four[:]...), 127, 0, 0, 1)
	b = binary.BigEndian.AppendUint16(b, at.Port())
	return string(append(b, 0x1f, 0x40))
}

const get = "/ws"

// TestWhoTheClientIs: 127.0.1.0/24 are proxies, everybody else is not.
func TestWhoTheClientIs(t *testing.T) {
	xff := func(value string) string { return gatewaytest.Upgrade(get, "X-Forwarded-For: "+value+"\r\n") }
	v1 := "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
	plain := gatewaytest.Upgrade(get)
	for _, test := range []struct {
		name, from string
		proxy      bool
		text, want string
	}{
		{"nobody between", "127.0.0.9", false, plain, "101 127.0.0.9:"},
		{"a proxy that says nothing", "127.0.1.1", false, plain, "101 127.0.1.1:"},
		{"X-Forwarded-For of a proxy", "127.0.1.1", false, xff("192.0.2.1"), "101 192.0.2.1:0"},
		{"X-Forwarded-For through two proxies", "127.0.1.1", false, xff("192.0.2.1, 127.0.1.2"), "101 192.0.2.1:0"},
		{"spoofed by the client, through a proxy", "127.0.1.1", false, xff("203.0.113.9, 192.0.2.1"), "101 192.0.2.1:0"},
		{"spoofed by a direct client", "127.0.0.9", false, xff("192.0.2.1"), "101 127.0.0.9:"},
		{"Forwarded, where it is not the header", "127.0.1.1", false, gatewaytest.Upgrade(get, "Forwarded: for=192.0.2.1\r\n"), "101 127.0.1.1:"},
		{"garbage of a proxy", "127.0.1.1", false, xff("garbage"), "101 127.0.1.1:"},
		{"a PROXY header where none is expected", "127.0.1.1", false, v1 + plain, "400"},
		{"v1", "127.0.1.1", true, v1 + plain, "101 192.0.2.1:56324"},
		{"v2", "127.0.1.1", true, proxyV2(0x21, "192.0.2.1:56324") + plain, "101 192.0.2.1:56324"},
		{"v2 LOCAL", "127.0.1.1", true, proxyV2(0x20, "192.0.2.1:56324") + plain, "101 127.0.1.1:"},
		{"v1 UNKNOWN", "127.0.1.1", true, "PROXY UNKNOWN\r\n" + plain, "101 127.0.1.1:"},
		{"no header of a proxy", "127.0.1.1", true, plain, "400"},
		{"a malformed one", "127.0.1.1", true, "PROXY TCP4 192.0.2.1\r\n" + plain, "400"},
		{"two of them", "127.0.1.1", true, v1 + v1 + plain, "400"},
		{"spoofed v1", "127.0.0.9", true, v1 + plain, "101 127.0.0.9:"},
		{"spoofed v2", "127.0.0.9", true, proxyV2(0x21, "192.0.2.1:1") + plain, "101 127.0.0.9:"},
		{"none, of a direct client", "127.0.0.9", true, plain, "101 127.0.0.9:"},
		{"PROXY header and then X-Forwarded-For of the client", "127.0.1.1", true, v1 + xff("203.0.113.9"), "101 192.0.2.1:56324"},
		{"PROXY header of a proxy behind a proxy", "127.0.1.1", true, "PROXY TCP4 127.0.1.2 127.0.0.1 1 2\r\n" + xff("192.0.2.1"), "101 192.0.2.1:0"},
	} {
		s := serve(t, Config{Loops: 1, Clients: Clients{TrustedProxies: []string{"127.0.1.0/24"}, ProxyProtocol: test.proxy}}, addressApp{})
		if got := status(from(t, s, test.from), test.text); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		// The same byte by byte.
		c := from(t, s, test.from)
		go func() {
			for _, b := range []byte(test.text) {
				c.Write([]byte{b})
			}
		}()
		if got := status(c, ""); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s, byte by byte: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestForwardedHeader(t *testing.T) {
	s := serve(t, Config{Clients: Clients{TrustedProxies: []string{"127.0.1.0/24"}, Forwarded: client.Forwarded}}, addressApp{})
	for header, want := range map[string]string{
		"Forwarded: for=\"[2001:db8::1]:4711\";proto=https\r\n":        "101 [2001:db8::1]:4711",
		"Forwarded: for=203.0.113.9\r\nforwarded: for=192.0.2.1\r\n":   "101 192.0.2.1:0",
		"X-Forwarded-For: 203.0.113.9\r\nForwarded: for=192.0.2.1\r\n": "101 192.0.2.1:0",
		"X-Forwarded-For: 203.0.113.9\r\n":                             "101 127.0.1.1:",
		"Forwarded: for=unknown\r\n":                                   "101 127.0.1.1:",
		"Forwarded: for=\"203.0.113.9, for=192.0.2.1\r\n":              "101 192.0.2.1:0",
	} {
		if got := status(from(t, s, "127.0.1.1"), gatewaytest.Upgrade(get, header)); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %q, want %q", header, got, want)
		}
	}
}

// TestWhatProxiesSayIsCounted: also what is ignored.
func TestWhatProxiesSayIsCounted(t *testing.T) {
	s := serve(t, Config{Clients: Clients{TrustedProxies: []string{"127.0.1.0/24"}, ProxyProtocol: true}}, addressApp{})
	plain := gatewaytest.Upgrade(get)
	v1 := "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
	for _, test := range []struct{ result, from, text string }{
		{"proxy", "127.0.1.1", v1 + plain},
		{"proxy_local", "127.0.1.1", "PROXY UNKNOWN\r\n" + plain},
		{"proxy_untrusted", "127.0.0.9", v1 + plain},
		{"proxy_malformed", "127.0.1.1", plain},
		{"forwarded", "127.0.1.1", "PROXY UNKNOWN\r\n" + gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.1\r\n")},
		{"forwarded_untrusted", "127.0.0.9", gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.1\r\n")},
		{"forwarded_malformed", "127.0.1.1", "PROXY UNKNOWN\r\n" + gatewaytest.Upgrade(get, "X-Forwarded-For: x\r\n")},
	} {
		grew := counting(s, fmt.Sprintf("sluice_proxied_total{result=%q}", test.result))
		status(from(t, s, test.from), test.text)
		if n := grew(); n != 1 {
			t.Errorf("%s: counted %d, want 1", test.result, n)
		}
	}
}

func TestAllowAndDeny(t *testing.T) {
	s := serve(t, Config{Clients: Clients{
		TrustedProxies: []string{"127.0.1.0/24"}, Allow: []string{"127.0.2.0/24", "192.0.2.0/24"}, Deny: []string{"127.0.2.7", "192.0.2.7"},
	}}, addressApp{})
	plain := gatewaytest.Upgrade(get)
	for _, test := range []struct{ name, from, text, want string }{
		{"allowed", "127.0.2.1", plain, "101 "},
		{"first allowed", "127.0.2.0", plain, "101 "},
		{"last allowed", "127.0.2.255", plain, "101 "},
		{"not allowed", "127.0.3.0", plain, "reset"},
		{"denied", "127.0.2.7", plain, "reset"},
		{"allowed behind a proxy", "127.0.1.1", gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.1\r\n"), "101 192.0.2.1:0"},
		{"denied behind a proxy", "127.0.1.1", gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.7\r\n"), "403"},
		{"not allowed behind a proxy", "127.0.1.1", gatewaytest.Upgrade(get, "X-Forwarded-For: 203.0.113.1\r\n"), "403"},
		{"the proxy's own check", "127.0.1.1", "GET /healthz HTTP/1.0\r\n\r\n", "200"},
		{"a denied one that spoofs", "127.0.2.7", gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.1\r\n"), "reset"},
	} {
		if got := status(from(t, s, test.from), test.text); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// TestConnsPerAddressAtTheirLimit: three are held, the fourth is reset, and the place of one that
// has left can be taken. Loops share the count.
func TestConnsPerAddressAtTheirLimit(t *testing.T) {
	s := serve(t, Config{Loops: 2, Clients: Clients{TrustedProxies: []string{"127.0.1.0/24"}, ProxyProtocol: true, MaxConnsPerAddress: 3}}, addressApp{})
	plain := gatewaytest.Upgrade(get)
	ways := map[string]func(t *testing.T) (c *gatewaytest.Client, got string){
		"direct": func(t *testing.T) (*gatewaytest.Client, string) {
			c := from(t, s, "127.0.4.1")
			return c, status(c, plain)
		},
		"PROXY protocol": func(t *testing.T) (*gatewaytest.Client, string) {
			c := from(t, s, "127.0.1.1")
			return c, status(c, "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"+plain)
		},
		"a header": func(t *testing.T) (*gatewaytest.Client, string) {
			c := from(t, s, "127.0.1.1")
			return c, status(c, "PROXY UNKNOWN\r\n"+gatewaytest.Upgrade(get, "X-Forwarded-For: 2001:db8::1\r\n"))
		},
	}
	for name, connect := range ways {
		t.Run(name, func(t *testing.T) {
			beyond := "reset"
			if name == "a header" {
				beyond = "429"
			}
			var held []*gatewaytest.Client
			for i := range 3 {
				c, got := connect(t)
				if !strings.HasPrefix(got, "101") {
					t.Fatalf("connection %d of 3: got %q", i+1, got)
				}
				held = append(held, c)
			}
			if _, got := connect(t); got != beyond {
				t.Errorf("the fourth: got %q, want %q", got, beyond)
			}
			held[1].Close()
			gatewaytest.Await(t, "the place of one that has left", func() bool {
				_, got := connect(t)
				return strings.HasPrefix(got, "101")
			})
			if _, got := connect(t); got != beyond {
				t.Errorf("beyond it again: got %q, want %q", got, beyond)
			}
		})
	}
	s.Close()
	for _, ip := range []string{"127.0.4.1", "192.0.2.1", "2001:db8::1", "127.0.1.1"} {
		if n := s.admission.counts.Held(netip.MustParseAddr(ip)); n != 0 {
			t.Errorf("%s: %d connections are still counted", ip, n)
		}
	}
}

// standing is a server of one loop whose clock for rates stands still, and to which an address may
// leave four handshakes unfinished.
func standing(t *testing.T, cfg Clients) *Server {
	s, err := New(Config{Listen: "127.0.0.1:0", Loops: 1, Heartbeat: -1, HandshakeTimeout: testPatience,
		Logger: slog.New(slog.DiscardHandler), Clients: cfg}, addressApp{})
	if err != nil {
		t.Fatal(err)
	}
	s.admission.now = func() time.Duration { return time.Hour }
	s.admission.unfinished = client.NewRates(client.PerSecond(1, 4))
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConnRatePerAddressAtItsLimit(t *testing.T) {
	s := standing(t, Clients{TrustedProxies: []string{"127.0.1.0/24"}, ConnRatePerAddress: 3})
	plain := gatewaytest.Upgrade(get)
	for i, want := range []string{"101", "101", "101", "reset", "reset"} {
		if got := status(from(t, s, "127.0.4.1"), plain); !strings.HasPrefix(got, want) {
			t.Errorf("connection %d: got %q, want %q", i+1, got, want)
		}
	}
	if got := status(from(t, s, "127.0.4.2"), plain); !strings.HasPrefix(got, "101") {
		t.Errorf("another address: got %q", got)
	}
	forwarded := gatewaytest.Upgrade(get, "X-Forwarded-For: 192.0.2.1\r\n")
	for i, want := range []string{"101", "101", "101", "429"} {
		if got := status(from(t, s, "127.0.1.1"), forwarded); !strings.HasPrefix(got, want) {
			t.Errorf("connection %d through a proxy: got %q, want %q", i+1, got, want)
		}
	}
}

// TestUnfinishedHandshakesAtTheirLimit: what counts is connections without a whole request;
// finished handshakes, also refused ones, cost nothing.
func TestUnfinishedHandshakesAtTheirLimit(t *testing.T) {
	s := standing(t, Clients{TrustedProxies: []string{"127.0.1.0/24"}, ProxyProtocol: true})
	plain := gatewaytest.Upgrade(get)
	for range 10 {
		if got := status(from(t, s, "127.0.4.1"), plain); !strings.HasPrefix(got, "101") {
			t.Fatalf("a good client: got %q", got)
		}
		if got := status(from(t, s, "127.0.4.1"), "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"); got != "404" {
			t.Fatalf("a whole request: got %q", got)
		}
	}
	var silent []*gatewaytest.Client
	for i, text := range []string{"", "GET /ws HTTP/1.1\r\n", "\x16\x03\x01", ""} {
		c := from(t, s, "127.0.4.1")
		io.WriteString(c, text)
		silent = append(silent, c)
		await(t, fmt.Sprintf("silent connection %d", i+1), func() bool {
			grew := 0
			onLoops(s, func(w *worker) { grew = len(w.conns) })
			return grew > 0
		})
	}
	acceptAll(s)
	if got := status(from(t, s, "127.0.4.1"), plain); got != "reset" {
		t.Errorf("beyond four: got %q, want a reset", got)
	}
	if got := status(from(t, s, "127.0.4.2"), plain); !strings.HasPrefix(got, "101") {
		t.Errorf("another address: got %q", got)
	}
	// One of the four finishes.
	if got := status(silent[0], plain); !strings.HasPrefix(got, "101") {
		t.Errorf("a slow client: got %q", got)
	}
	if got := status(from(t, s, "127.0.4.1"), plain); !strings.HasPrefix(got, "101") {
		t.Errorf("after one of the four has finished: got %q", got)
	}
	// Ending without a request gives nothing back.
	silent[3].Close()
	c := from(t, s, "127.0.4.1")
	acceptAll(s)
	if got := status(from(t, s, "127.0.4.1"), plain); got != "reset" {
		t.Errorf("with four unfinished: got %q, want a reset", got)
	}
	c.Close()
	// Behind a proxy the address in the header counts.
	v1 := "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
	for range 4 {
		c := from(t, s, "127.0.1.1")
		io.WriteString(c, v1)
	}
	var before uint64
	await(t, "four connections with nothing but a PROXY header", func() bool {
		acceptAll(s)
		n := uint64(0)
		onLoops(s, func(w *worker) {
			for _, c := range w.conns {
				if c.state == handshaking && c.RemoteAddr().Addr().String() == "192.0.2.1" {
					n++
				}
			}
		})
		before = n
		return n == 4
	})
	if got := status(from(t, s, "127.0.1.1"), v1+plain); got != "reset" {
		t.Errorf("beyond four through a proxy: got %q with %d held, want a reset", got, before)
	}
}

func TestMessageRateAtItsLimit(t *testing.T) {
	s := serve(t, Config{Loops: 1, Clients: Clients{MessageRate: 3}}, Echo{})
	onLoops(s, func(w *worker) { w.messageRate = client.PerSecond(1, 3) }) // slow to earn another token
	c := gatewaytest.Open(t, s, get)
	for i := range 3 {
		c.Write(gatewaytest.Text(fmt.Sprint(i)))
		c.Expect(fmt.Sprintf("text %d", i))
	}
	c.Write(gatewaytest.Frame(true, ws.OpPing, "pings are not messages"))
	c.Expect("pong pings are not messages")
	grew := counting(s, `sluice_errors_total{reason="message_rate"}`)
	c.Write(append(gatewaytest.Text("a"), append(gatewaytest.Text("b"), gatewaytest.Text("c")...)...))
	// A slow machine may let one through, never three.
	for got := c.Next(); got != "close 1008 message_rate"; got = c.Next() {
		if got != "text a" && got != "text b" {
			t.Fatalf("got %q, want a close with 1008", got)
		}
	}
	if grew() != 1 {
		t.Error("it is not counted")
	}
}

// TestSpoofedFloodTakesNoMemory: very many addresses behind a trusted proxy leave nothing behind.
func TestSpoofedFloodTakesNoMemory(t *testing.T) {
	a, err := newAdmission(&Clients{MaxConnsPerAddress: 2, ConnRatePerAddress: 5})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for g := range 2 {
		all.Go(func() {
			for i := range 20_000 {
				ip := netip.AddrFrom16([16]byte{0x20, 1, byte(g), byte(i >> 16), byte(i >> 8), byte(i)})
				if a.admit(ip, true) == nothing {
					a.finished(ip, true)
					a.counts.Remove(ip)
				}
			}
		})
	}
	all.Wait()
	if ip := netip.MustParseAddr("2001::1"); a.admit(ip, true) != nothing {
		t.Error("others have used up what an address may take")
	}
}

func TestBadClients(t *testing.T) {
	for _, cfg := range []Clients{
		{ProxyProtocol: true}, {TrustedProxies: []string{"10.0.0.0/33"}}, {Allow: []string{"x"}}, {Deny: []string{"10.0.0.1/8"}},
	} {
		if s, err := New(Config{Listen: "127.0.0.1:0", Clients: cfg}, Echo{}); err == nil {
			s.Close()
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// TestPeerOf agrees with the portable way.
func TestPeerOf(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := serve(t, Config{Listen: listen}, addressApp{})
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Logf("%s: %v", listen, err)
			continue // a machine without IPv6
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(gatewaytest.Patience))
		c := gatewaytest.Wrap(t, conn)
		if got, want := status(c, gatewaytest.Upgrade(get)), "101 "+conn.LocalAddr().String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
