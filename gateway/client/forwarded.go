package client

import (
	"bytes"
	"net/netip"
	"strings"
)

// ForwardedHeader is the header in which proxies say for whom they forward. A gateway looks at one
// of the two only: a proxy appends to the one that it is set up for, and passes on the other as the
// client sent it.
type ForwardedHeader uint8

// The headers that proxies use.
const (
	XForwardedFor ForwardedHeader = iota // X-Forwarded-For: 192.0.2.1, 198.51.100.7
	Forwarded                            // Forwarded: for=192.0.2.1;proto=https, for="[2001:db8::1]:4711" (RFC 7239)
	NoForwarded                          // none: the proxies do not add one
)

// Name is the header's name; "" for none.
func (h ForwardedHeader) Name() string {
	switch h {
	case XForwardedFor:
		return "X-Forwarded-For"
	case Forwarded:
		return "Forwarded"
	}
	return ""
}

// Origin walks back from the peer of a connection to the first address that is not a trusted proxy.
// Each proxy appends the address that it was connected from, so the walk begins at the right; what
// stands left of the first address that is not trusted, anybody may have written.
//
// lines are the values of all headers of that name, in order. whole is false when the walk ended at
// something that is no address ("unknown", a hidden name, garbage): the address is then that of the
// proxy that passed it on.
func Origin(peer netip.AddrPort, h ForwardedHeader, lines [][]byte, trusted *Prefixes) (origin netip.AddrPort, whole bool) {
	origin = peer
	if h == NoForwarded {
		return origin, true
	}
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			if !trusted.Contains(origin.Addr()) {
				return origin, true
			}
			var element []byte
			if rest, element, more = cutLast(rest); len(element) == 0 {
				continue // RFC 9110, section 5.6.1: "A recipient MUST parse and ignore a reasonable number of empty list elements"
			}
			hop, ok := forwardedNode(h, element)
			if !ok {
				return origin, false
			}
			origin = hop
		}
	}
	return origin, true
}

// cutLast takes the last element off a list.
func cutLast(list []byte) (rest, element []byte, more bool) {
	comma := lastComma(list)
	if comma < 0 {
		return nil, bytes.Trim(list, " \t"), false
	}
	return list[:comma], bytes.Trim(list[comma+1:], " \t"), true
}

// lastComma is the last comma outside of quotes, or -1. Quotes are counted from the right, where
// the trusted proxies have written: a quote that a client left open on the left must not swallow
// what they appended. A quoted address has neither commas nor quotes in it, so escapes do not
// matter.
func lastComma(list []byte) int {
	quoted := false
	for i := len(list) - 1; i >= 0; i-- {
		switch {
		case list[i] == '"':
			quoted = !quoted
		case list[i] == ',' && !quoted:
			return i
		}
	}
	return -1
}

// forwardedNode is the address in one element of the header.
func forwardedNode(h ForwardedHeader, element []byte) (netip.AddrPort, bool) {
	if h == XForwardedFor {
		return parseNode(string(element))
	}
	// RFC 7239, section 4: "forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] )",
	// and "Each parameter MUST NOT occur more than once per field-value".
	var node string
	found := false
	for more := true; more; {
		var pair []byte
		pair, element, more = bytes.Cut(element, []byte{';'})
		name, value, _ := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
		if !bytes.EqualFold(name, []byte("for")) {
			continue
		}
		if found {
			return netip.AddrPort{}, false
		}
		found = true
		node = string(value)
		if unquoted, ok := strings.CutPrefix(node, `"`); ok {
			if node, ok = strings.CutSuffix(unquoted, `"`); !ok {
				return netip.AddrPort{}, false
			}
		}
	}
	return parseNode(node)
}

// parseNode reads an address with or without a port: 192.0.2.1, 192.0.2.1:4711, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:4711.
func parseNode(s string) (netip.AddrPort, bool) {
	if at, err := netip.ParseAddrPort(s); err == nil && at.Addr().Zone() == "" {
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok || !strings.Contains(s, ":") {
			return netip.AddrPort{}, false
		}
	}
	ip, err := netip.ParseAddr(s)
	if err != nil || ip.Zone() != "" {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), 0), true
}
