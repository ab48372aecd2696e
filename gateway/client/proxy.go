package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
)

// The PROXY protocol, versions 1 and 2: what a load balancer that only forwards bytes puts in front
// of them (haproxy.org, doc/proxy-protocol.txt; the quotations below are from there).

// MaxProxyHeader is the longest PROXY header that ParseProxy takes, in bytes. Version 2 could
// announce 64 KiB; the addresses take at most 216 bytes, and what load balancers add (a host name,
// a certificate's name) some hundred.
const MaxProxyHeader = 4096

// maxProxyLine: "If the CRLF sequence is not found in the first 107 characters, the receiver should
// declare the line invalid."
const maxProxyLine = 107

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

var (
	errNoProxyHeader      = errors.New("no PROXY header")
	errProxyLine          = errors.New("malformed PROXY line")
	errProxyVersion       = errors.New("PROXY header of unknown version or command")
	errProxyFamily        = errors.New("PROXY header of unknown address family or transport")
	errProxyLength        = errors.New("PROXY header of impossible length")
	errProxyVectors       = errors.New("malformed vectors in PROXY header")
	errProxyCheck         = errors.New("PROXY header with a wrong checksum")
	castagnoli            = crc32.MakeTable(crc32.Castagnoli)
	vectorCRC        byte = 0x03
)

// ProxyHeader is what a PROXY header says.
type ProxyHeader struct {
	// Source is the client. It is not valid when the header names none: a health check of the proxy
	// itself (LOCAL), or a client that did not come over TCP. Then the connection's own address
	// stands.
	Source netip.AddrPort

	// Local says that the proxy itself has opened the connection.
	Local bool
}

// BeginsProxy reports whether b, which may be shorter than that, can be the beginning of a PROXY
// header.
func BeginsProxy(b []byte) bool {
	return hasCommonPrefix(b, proxySignature) || hasCommonPrefix(b, []byte("PROXY "))
}

// hasCommonPrefix reports whether the shorter of the two begins the other.
func hasCommonPrefix(a, b []byte) bool {
	n := min(len(a), len(b))
	return bytes.Equal(a[:n], b[:n])
}

// ParseProxy reads the PROXY header at the start of b. n is its length; 0 without an error means
// that b ends before the header does.
func ParseProxy(b []byte) (h ProxyHeader, n int, err error) {
	switch {
	case len(b) == 0:
		return h, 0, nil
	case hasCommonPrefix(b, proxySignature):
		return parseBinaryProxy(b)
	case hasCommonPrefix(b, []byte("PROXY ")):
		return parseProxyLine(b)
	}
	return h, 0, errNoProxyHeader
}

// parseProxyLine reads version 1: "PROXY TCP4 192.0.2.1 192.0.2.11 56324 443\r\n".
func parseProxyLine(b []byte) (h ProxyHeader, n int, err error) {
	// "The receiver must wait for the CRLF sequence before starting to decode the addresses"
	end := bytes.IndexByte(b[:min(len(b), maxProxyLine)], '\n')
	if end < 0 {
		if len(b) >= maxProxyLine {
			return h, 0, errProxyLine
		}
		return h, 0, nil
	}
	// "The receiver must not tolerate a single CR or LF character to end the line"
	line, crlf := bytes.CutSuffix(b[:end], []byte{'\r'})
	if !crlf || bytes.IndexByte(line, '\r') >= 0 {
		return h, 0, errProxyLine
	}
	fields := bytes.Split(line[len("PROXY "):], []byte{' '})
	switch family := string(fields[0]); family {
	case "UNKNOWN":
		// "the receiver […] SHOULD accept the connection and use the real connection's parameters";
		// it "must ignore anything presented before the CRLF is found".
		return h, end + 1, nil
	case "TCP4", "TCP6":
		if len(fields) != 5 {
			return h, 0, errProxyLine
		}
		source, ok := lineAddress(fields[1], fields[3], family == "TCP4")
		if _, ok2 := lineAddress(fields[2], fields[4], family == "TCP4"); !ok || !ok2 {
			return h, 0, errProxyLine
		}
		h.Source = source
		return h, end + 1, nil
	}
	return h, 0, errProxyLine
}

// lineAddress reads one end of the connection in version 1.
func lineAddress(host, port []byte, four bool) (netip.AddrPort, bool) {
	ip, err := netip.ParseAddr(string(host))
	if err != nil || ip.Is4() != four || ip.Zone() != "" {
		return netip.AddrPort{}, false
	}
	// Decimal digits only, without "heading zeroes".
	number, err := strconv.ParseUint(string(port), 10, 16)
	if err != nil || port[0] == '+' || (port[0] == '0' && len(port) > 1) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), true
}

// Sizes and values of version 2.
const (
	proxyFixed    = 16 // signature, version and command, family, length
	commandLocal  = 0x20
	commandProxy  = 0x21
	familyINET    = 0x1
	familyINET6   = 0x2
	familyUNIX    = 0x3
	transportTCP  = 0x1
	transportLast = 0x2
)

// parseBinaryProxy reads version 2.
func parseBinaryProxy(b []byte) (h ProxyHeader, n int, err error) {
	if len(b) > 12 && b[12] != commandLocal && b[12] != commandProxy {
		return h, 0, errProxyVersion // "Receivers must drop connections presenting unexpected values here."
	}
	if len(b) < proxyFixed {
		return h, 0, nil
	}
	n = proxyFixed + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxProxyHeader {
		return h, 0, errProxyLength
	}
	if len(b) < n {
		return h, 0, nil
	}
	b = b[:n]
	if b[12] == commandLocal {
		// "The receiver must accept this connection as valid and must use the real connection
		// endpoints and discard the protocol block including the family which is ignored."
		return ProxyHeader{Local: true}, n, nil
	}
	family, transport, body := b[13]>>4, b[13]&0xf, b[proxyFixed:]
	if family > familyUNIX || transport > transportLast {
		return h, 0, errProxyFamily // "must be rejected as invalid by receivers"
	}
	size := [4]int{0, 12, 36, 216}[family]
	if transport == 0 || family == 0 {
		return h, n, nil // "The receiver should ignore address information."
	}
	if len(body) < size {
		return h, 0, errProxyLength
	}
	if transport == transportTCP {
		h.Source = binarySource(family, body)
	}
	if err := checkVectors(b, proxyFixed+size); err != nil {
		return ProxyHeader{}, 0, err
	}
	return h, n, nil
}

// binarySource reads the client's end of a TCP connection in version 2; that of other families is
// not valid.
func binarySource(family byte, body []byte) netip.AddrPort {
	switch family {
	case familyINET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
	case familyINET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
	}
	return netip.AddrPort{}
}

// checkVectors goes through the type-length-value vectors of a whole header from at on. Their
// values are not used, but "the receiver MUST […] verify that the calculated CRC32c checksum is the
// same as the received".
func checkVectors(header []byte, at int) error {
	for at < len(header) {
		if len(header)-at < 3 {
			return errProxyVectors
		}
		kind, size := header[at], int(binary.BigEndian.Uint16(header[at+1:]))
		at += 3
		if len(header)-at < size {
			return errProxyVectors
		}
		if kind == vectorCRC {
			if size != 4 {
				return errProxyVectors
			}
			sum := crc32.Update(0, castagnoli, header[:at])
			sum = crc32.Update(sum, castagnoli, []byte{0, 0, 0, 0})
			sum = crc32.Update(sum, castagnoli, header[at+4:])
			if sum != binary.BigEndian.Uint32(header[at:]) {
				return errProxyCheck
			}
		}
		at += size
	}
	return nil
}
