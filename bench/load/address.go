package load

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"

	"sluice/bench/procfs"
)

// resolve looks up a target's host, once for the whole run. IPv4 comes first: its loopback has more
// than one address.
func resolve(ctx context.Context, raw string) (netip.AddrPort, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("target %q: %w", raw, err)
	}
	port := map[string]int{"ws": 80, "wss": 443}[u.Scheme]
	if p := u.Port(); p != "" {
		if port, err = strconv.Atoi(p); err != nil || port < 1 || port > 65535 {
			return netip.AddrPort{}, fmt.Errorf("target %q: port %q", raw, p)
		}
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("target %q: look up the host: %w", raw, err)
	}
	best := ips[0].Unmap()
	for _, ip := range ips {
		if ip = ip.Unmap(); ip.Is4() && !best.Is4() {
			best = ip
		}
	}
	return netip.AddrPortFrom(best, uint16(port)), nil
}

// checkSource refuses an address that is not this machine's, or not of the targets' kind: every
// connect would fail.
func checkSource(a netip.Addr, targets []netip.AddrPort) error {
	for _, t := range targets {
		if t.Addr().Unmap().Is4() != a.Unmap().Is4() {
			return fmt.Errorf("source %v cannot reach the target %v: "+
				"one is IPv4 and the other IPv6", a, t)
		}
	}
	ln, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return fmt.Errorf("source %v: %w (is it an address of this machine?)", a, err)
	}
	return ln.Close()
}

// connsPerSource is how many connections one local address makes to one target. It has some 28,000
// ports for that, but the kernel tries all ports of one parity before the other: from 14,116 on
// every connect costs it half a millisecond, and long before that it looks at many ports in use.
const connsPerSource = 4000

// sourcesFor is the local addresses to connect from. Of 127.0.0.0/8 there are 16 million. Scenarios
// that close connections need several times the ports, because a closed one keeps its port for a
// minute (TIME_WAIT).
func sourcesFor(s *Spec, addrs []netip.AddrPort) ([]netip.Addr, error) {
	var all []netip.Addr
	for _, raw := range s.Sources {
		a, err := netip.ParseAddr(raw)
		if err != nil {
			return nil, fmt.Errorf("source %q: %w", raw, err)
		}
		if err := checkSource(a, addrs); err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	if len(all) > 0 {
		return all, nil
	}
	for _, a := range addrs {
		if !a.Addr().Is4() || !a.Addr().IsLoopback() {
			return nil, nil
		}
	}
	each := (s.Conns + len(addrs) - 1) / len(addrs)
	n := 1 + (each-1)/max(min(connsPerSource, procfs.EphemeralPorts()*2/5), 1)
	switch s.Scenario {
	case Churn, Resume, Storm:
		n += 15
	}
	if n == 1 {
		return nil, nil
	}
	for i := range n {
		k := i + 1
		a := [4]byte{127, byte(k / 62500), byte(k / 250 % 250), byte(k%250 + 1)}
		all = append(all, netip.AddrFrom4(a))
	}
	return all, nil
}
