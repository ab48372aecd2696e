package client

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

// v2 builds a PROXY header of version 2.
func v2(command, family byte, body ...byte) []byte {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	return append(b, body...)
}

// Bodies: from 192.0.2.1:56324 to 198.51.100.7:443, and from 2001:db8::1 port 56324.
var (
	inet  = []byte{192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb}
	inet6 = append(append(netipBytes("2001:db8::1"), netipBytes("2001:db8::2")...), 0xdc, 0x04, 0x01, 0xbb)
	unixB = make([]byte, 216)
)

func netipBytes(s string) []byte {
	b := netip.MustParseAddr(s).As16()
	return b[:]
}

// with appends vectors to a body.
func with(body []byte, vectors ...byte) []byte {
	return append(append([]byte(nil), body...), vectors...)
}

// checked is a header with a CRC32c vector, whose value is off by wrong.
func checked(wrong uint32) []byte {
	b := v2(0x21, 0x11, with(inet, 0x03, 0, 4, 0, 0, 0, 0)...)
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(b[len(b)-4:], sum+wrong)
	return b
}

var proxyCases = []struct {
	name   string
	header string
	source string // "" for none
	local  bool
	bad    bool
}{
	{"v1 IPv4", "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", "192.0.2.1:56324", false, false},
	{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", "[2001:db8::1]:56324", false, false},
	{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", false, false},
	{"v1 unknown", "PROXY UNKNOWN\r\n", "", false, false},
	{"v1 unknown, 107 bytes", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", "", false, false},
	{"v1 unknown, 108 bytes", "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", "", false, true},
	{"v1 port 65536", "PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n", "", false, true},
	{"v1 port 0", "PROXY TCP4 192.0.2.1 198.51.100.7 0 443\r\n", "192.0.2.1:0", false, false},
	{"v1 port with a zero", "PROXY TCP4 192.0.2.1 198.51.100.7 080 443\r\n", "", false, true},
	{"v1 port with a sign", "PROXY TCP4 192.0.2.1 198.51.100.7 +80 443\r\n", "", false, true},
	{"v1 wrong family", "PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n", "", false, true},
	{"v1 other wrong family", "PROXY TCP6 192.0.2.1 198.51.100.7 56324 443\r\n", "", false, true},
	{"v1 address with a zero", "PROXY TCP4 192.0.2.01 198.51.100.7 56324 443\r\n", "", false, true},
	{"v1 zone", "PROXY TCP6 fe80::1%lo fe80::2 56324 443\r\n", "", false, true},
	{"v1 two spaces", "PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n", "", false, true},
	{"v1 a field more", "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n", "", false, true},
	{"v1 a field less", "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n", "", false, true},
	{"v1 bare LF", "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n", "", false, true},
	{"v1 CR inside", "PROXY TCP4 192.0.2.1 198.51.100.7 56324\r443\r\n", "", false, true},
	{"v1 UDP4", "PROXY UDP4 192.0.2.1 198.51.100.7 56324 443\r\n", "", false, true},
	{"v2 IPv4", string(v2(0x21, 0x11, inet...)), "192.0.2.1:56324", false, false},
	{"v2 IPv6", string(v2(0x21, 0x21, inet6...)), "[2001:db8::1]:56324", false, false},
	{"v2 mapped IPv4", string(v2(0x21, 0x21, append(append(netipBytes("::ffff:192.0.2.1"), netipBytes("::1")...), 1, 2, 3, 4)...)), "192.0.2.1:258", false, false},
	{"v2 UDP", string(v2(0x21, 0x12, inet...)), "", false, false},
	{"v2 Unix", string(v2(0x21, 0x31, unixB...)), "", false, false},
	{"v2 unspecified", string(v2(0x21, 0x00)), "", false, false},
	{"v2 unspecified, with bytes", string(v2(0x21, 0x00, 1, 2, 3)), "", false, false},
	{"v2 local", string(v2(0x20, 0x00)), "", true, false},
	{"v2 local with an address", string(v2(0x20, 0x11, inet...)), "", true, false},
	{"v2 local of strange family", string(v2(0x20, 0xff, 1)), "", true, false},
	{"v2 version 1", string(v2(0x11, 0x11, inet...)), "", false, true},
	{"v2 command 2", string(v2(0x22, 0x11, inet...)), "", false, true},
	{"v2 family 4", string(v2(0x21, 0x41, inet...)), "", false, true},
	{"v2 transport 3", string(v2(0x21, 0x13, inet...)), "", false, true},
	{"v2 11 bytes of address", string(v2(0x21, 0x11, inet[:11]...)), "", false, true},
	{"v2 35 bytes of address", string(v2(0x21, 0x21, inet6[:35]...)), "", false, true},
	{"v2 215 bytes of path", string(v2(0x21, 0x31, unixB[:215]...)), "", false, true},
	{"v2 vectors", string(v2(0x21, 0x11, with(inet, 0x04, 0, 2, 'x', 'x', 0xea, 0, 0)...)), "192.0.2.1:56324", false, false},
	{"v2 vector beyond the end", string(v2(0x21, 0x11, with(inet, 0x04, 0, 3, 'x', 'x')...)), "", false, true},
	{"v2 half a vector", string(v2(0x21, 0x11, with(inet, 0x04, 0)...)), "", false, true},
	{"v2 checksum", string(checked(0)), "192.0.2.1:56324", false, false},
	{"v2 wrong checksum", string(checked(1)), "", false, true},
	{"v2 checksum of 3 bytes", string(v2(0x21, 0x11, with(inet, 0x03, 0, 3, 0, 0, 0)...)), "", false, true},
	{"v2 4096 bytes", string(v2(0x20, 0, make([]byte, MaxProxyHeader-16)...)), "", true, false},
	{"v2 4097 bytes", string(v2(0x20, 0, make([]byte, MaxProxyHeader-15)...)), "", false, true},
	{"a request", "GET / HTTP/1.1\r\n", "", false, true},
	{"nearly a signature", "\r\n\r\n\x00\r\nQUIT\r", "", false, true},
}

func TestParseProxy(t *testing.T) {
	for _, test := range proxyCases {
		h, n, err := ParseProxy([]byte(test.header + "GET "))
		source := ""
		if h.Source.IsValid() {
			source = h.Source.String()
		}
		switch {
		case test.bad && (err == nil || n != 0):
			t.Errorf("%s: got %v, %d bytes and no error", test.name, h, n)
		case !test.bad && (err != nil || n != len(test.header) || source != test.source || h.Local != test.local):
			t.Errorf("%s: got %q, local %v, %d bytes, error %v; want %q, %v, %d bytes", test.name, source, h.Local, n, err,
				test.source, test.local, len(test.header))
		}
		if test.bad {
			continue
		}
		for cut := range test.header { // incomplete is a normal answer
			if _, n, err := ParseProxy([]byte(test.header[:cut])); n != 0 || err != nil {
				t.Errorf("%s: the first %d bytes: got %d, error %v; want more asked for", test.name, cut, n, err)
			}
			if !BeginsProxy([]byte(test.header[:cut])) {
				t.Errorf("%s: the first %d bytes do not begin a header", test.name, cut)
			}
		}
	}
}

// FuzzParseProxy: what is accepted does not depend on what follows, no prefix of it is, and an
// address is never one that the bytes do not hold.
func FuzzParseProxy(f *testing.F) {
	for _, test := range proxyCases {
		f.Add([]byte(test.header)) // each of the table above
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseProxy(b)
		if n < 0 || n > len(b) || n > MaxProxyHeader || (err != nil && n != 0) {
			t.Fatalf("%d bytes of %d, error %v", n, len(b), err)
		}
		if n == 0 {
			if h != (ProxyHeader{}) {
				t.Fatalf("no header, but %+v", h)
			}
			if err == nil && len(b) > MaxProxyHeader {
				t.Fatal("more is asked for than a header can have")
			}
			return
		}
		if again, m, err := ParseProxy(append(b[:n:n], 0xff)); m != n || err != nil || again != h {
			t.Fatalf("with another byte behind it: %+v, %d, %v; alone %+v, %d", again, m, err, h, n)
		}
		if _, m, err := ParseProxy(b[:n-1]); m != 0 || err != nil {
			t.Fatalf("without its last byte: %d, %v", m, err)
		}
		if a := h.Source.Addr(); a.Is4In6() || a.Zone() != "" || (h.Local && a.IsValid()) {
			t.Fatalf("source %v, local %v", h.Source, h.Local)
		}
	})
}
