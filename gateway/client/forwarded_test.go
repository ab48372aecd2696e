package client

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

var forwardedCases = []struct {
	header ForwardedHeader
	lines  string // separated by |
	origin string
	whole  bool
}{
	{XForwardedFor, "", "10.0.0.1:1", true},
	{XForwardedFor, "192.0.2.1", "192.0.2.1:0", true},
	{XForwardedFor, "192.0.2.1:4711", "192.0.2.1:4711", true},
	{XForwardedFor, "2001:db8::1", "[2001:db8::1]:0", true},
	{XForwardedFor, "[2001:db8::1]", "[2001:db8::1]:0", true},
	{XForwardedFor, "[2001:db8::1]:4711", "[2001:db8::1]:4711", true},
	{XForwardedFor, "::ffff:192.0.2.1", "192.0.2.1:0", true},
	// What stands left of the first address that is not trusted, the client has written.
	{XForwardedFor, "203.0.113.9, 192.0.2.1", "192.0.2.1:0", true},
	{XForwardedFor, "10.0.0.3, 192.0.2.1", "192.0.2.1:0", true},
	{XForwardedFor, "garbage, 192.0.2.1", "192.0.2.1:0", true},
	{XForwardedFor, "192.0.2.1, 10.0.0.2", "192.0.2.1:0", true},
	{XForwardedFor, "203.0.113.9|192.0.2.1 ,\t10.0.0.2|10.0.0.3", "192.0.2.1:0", true},
	{XForwardedFor, "192.0.2.1|", "192.0.2.1:0", true},
	{XForwardedFor, "192.0.2.1,, ,", "192.0.2.1:0", true},
	{XForwardedFor, "10.0.0.2", "10.0.0.2:0", true}, // the proxies' own client
	// Something that is no address: the last proxy stands.
	{XForwardedFor, "192.0.2.1, garbage", "10.0.0.1:1", false},
	{XForwardedFor, "192.0.2.1, unknown, 10.0.0.2", "10.0.0.2:0", false},
	{XForwardedFor, "fe80::1%eth0", "10.0.0.1:1", false},
	{XForwardedFor, "[192.0.2.1]", "10.0.0.1:1", false},
	{XForwardedFor, "192.0.2.1:65536", "10.0.0.1:1", false},
	{XForwardedFor, "for=192.0.2.1", "10.0.0.1:1", false},
	{XForwardedFor, `"192.0.2.1"`, "10.0.0.1:1", false},
	{Forwarded, "for=192.0.2.1", "192.0.2.1:0", true},
	{Forwarded, `For="[2001:db8::1]:4711"; proto=https`, "[2001:db8::1]:4711", true},
	{Forwarded, "proto=https;for=192.0.2.1;by=10.0.0.1", "192.0.2.1:0", true},
	{Forwarded, "for=203.0.113.9, for=192.0.2.1, for=10.0.0.2", "192.0.2.1:0", true},
	{Forwarded, `for="203.0.113.9, for=192.0.2.1`, "192.0.2.1:0", true}, // a quote left open by the client
	{Forwarded, `for=203.0.113.9;x=", for=192.0.2.1|for=10.0.0.2`, "192.0.2.1:0", true},
	{Forwarded, "for=_hidden", "10.0.0.1:1", false},
	{Forwarded, "for=unknown, for=10.0.0.2", "10.0.0.2:0", false},
	{Forwarded, "proto=https", "10.0.0.1:1", false},
	{Forwarded, "for=192.0.2.1;for=192.0.2.2", "10.0.0.1:1", false},
	{Forwarded, `for="192.0.2.1`, "10.0.0.1:1", false},
	{NoForwarded, "192.0.2.1", "10.0.0.1:1", true},
}

func split(lines string) (b [][]byte) {
	if lines == "" {
		return nil
	}
	for _, line := range strings.Split(lines, "|") {
		b = append(b, []byte(line))
	}
	return b
}

func TestOrigin(t *testing.T) {
	trusted, err := NewPrefixes([]string{"10.0.0.0/8"})
	if err != nil {
		t.Fatal(err)
	}
	proxy := netip.MustParseAddrPort("10.0.0.1:1")
	for _, test := range forwardedCases {
		origin, whole := Origin(proxy, test.header, split(test.lines), trusted)
		if origin.String() != test.origin || whole != test.whole {
			t.Errorf("%s: %q: got %v, %v, want %s, %v", test.header.Name(), test.lines, origin, whole, test.origin, test.whole)
		}
	}
	stranger := netip.MustParseAddrPort("192.0.2.77:1")
	if origin, _ := Origin(stranger, XForwardedFor, split("198.51.100.1"), trusted); origin != stranger {
		t.Errorf("from a stranger: got %v, want its own address", origin)
	}
}

// FuzzOrigin: whatever a client writes, an address that a trusted proxy appends is what counts.
func FuzzOrigin(f *testing.F) {
	for _, test := range forwardedCases {
		f.Add(test.lines, uint8(test.header)) // each of the table above
	}
	trusted, err := NewPrefixes([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	proxy := netip.MustParseAddrPort("10.0.0.1:1")
	f.Fuzz(func(t *testing.T, lines string, header uint8) {
		h := ForwardedHeader(header % 3)
		Origin(proxy, h, split(lines), trusted) // must return
		appended := ",192.0.2.1"
		if h == Forwarded {
			appended = ",for=192.0.2.1"
		}
		b := append(split(lines), nil)
		b[len(b)-1] = []byte(appended[1:]) // a line of its own
		b2 := split(lines + appended)      // or behind what is there
		for _, l := range [][][]byte{b, b2} {
			origin, whole := Origin(proxy, h, l, trusted)
			if h != NoForwarded && (origin.String() != "192.0.2.1:0" || !whole) {
				t.Fatalf("%q: got %v, %v", bytes.Join(l, []byte("|")), origin, whole)
			}
		}
	})
}
