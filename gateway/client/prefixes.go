package client

import (
	"fmt"
	"net/netip"
	"strings"
)

// Prefixes is a set of address ranges. It is never changed, so all goroutines may share it. A nil
// Prefixes is empty.
type Prefixes struct {
	four, six lengths
}

// lengths has the ranges of one family, by length: a look-up tries each length that occurs, so ten
// thousand ranges cost no more than ten.
type lengths struct {
	bits   []int
	ranges map[netip.Prefix]struct{}
}

// NewPrefixes reads ranges such as 10.0.0.0/8, 2001:db8::/32, or single addresses. It returns nil
// for none.
func NewPrefixes(texts []string) (*Prefixes, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	p := new(Prefixes)
	for _, text := range texts {
		prefix, err := ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		if prefix.Addr().Is4() {
			p.four.add(prefix)
		} else {
			p.six.add(prefix)
		}
	}
	return p, nil
}

// ParsePrefix reads one range, or one address as a range of its own.
func ParsePrefix(text string) (netip.Prefix, error) {
	text = strings.TrimSpace(text)
	wrong := func(why string) (netip.Prefix, error) {
		return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses: %s", text, why)
	}
	if !strings.Contains(text, "/") {
		ip, err := netip.ParseAddr(text)
		if err != nil || ip.Zone() != "" {
			return wrong("want for example 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")
		}
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return wrong("want for example 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1")
	}
	if ip := prefix.Addr(); ip.Is4In6() {
		if prefix.Bits() < 96 {
			return wrong("write ranges of IPv4 addresses as such")
		}
		prefix = netip.PrefixFrom(ip.Unmap(), prefix.Bits()-96)
	}
	if prefix != prefix.Masked() {
		return wrong(fmt.Sprintf("bits are set behind the first %d (%s?)", prefix.Bits(), prefix.Masked()))
	}
	return prefix, nil
}

func (l *lengths) add(p netip.Prefix) {
	if l.ranges == nil {
		l.ranges = make(map[netip.Prefix]struct{})
	}
	l.ranges[p] = struct{}{}
	for _, bits := range l.bits {
		if bits == p.Bits() {
			return
		}
	}
	l.bits = append(l.bits, p.Bits())
}

func (l *lengths) contains(ip netip.Addr) bool {
	for _, bits := range l.bits {
		p, err := ip.Prefix(bits)
		if err != nil {
			return false
		}
		if _, ok := l.ranges[p]; ok {
			return true
		}
	}
	return false
}

// Contains reports whether ip lies in one of the ranges. An IPv4 address that is written as an IPv6
// one is that IPv4 address.
func (p *Prefixes) Contains(ip netip.Addr) bool {
	if p == nil || !ip.IsValid() {
		return false
	}
	if ip = ip.Unmap(); ip.Is4() {
		return p.four.contains(ip)
	}
	return p.six.contains(ip.WithZone(""))
}

// Group is the address that limits count ip by: an IPv4 address itself, and the first 64 bits of an
// IPv6 one, since a single subscriber has at least that many addresses.
func Group(ip netip.Addr) netip.Addr {
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr()
}
