package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"sluice/gateway/client"
)

// Clients says who may connect, how much one address may take, and which proxies may say for whom
// they forward. An address is an IPv4 address or the first 64 bits of an IPv6 one. The zero Clients
// allows everybody everything but very many unfinished handshakes, and trusts nobody.
type Clients struct {
	// TrustedProxies are the ranges of addresses whose word is taken: see ProxyProtocol and
	// Forwarded. Too wide lets clients in those ranges choose their address, and with it evade
	// every limit here.
	TrustedProxies []string

	// ProxyProtocol expects a PROXY header, version 1 or 2, in front of each connection of a
	// trusted proxy; one without it is refused. One of somebody else is read, counted and ignored.
	ProxyProtocol bool

	// Forwarded is the header in which trusted proxies name the client. The right-most address in
	// it that is not a trusted proxy's counts. Choose the one that the proxies write: the other
	// passes through them as the client sent it. Default X-Forwarded-For.
	Forwarded client.ForwardedHeader

	// Allow, unless empty, has the ranges that may connect; Deny those that may not, also where
	// Allow has them. Others are reset before a byte of theirs is read. Those that come through a
	// trusted proxy get 403, for the proxy's connection may carry other clients.
	Allow, Deny []string

	// MaxConnsPerAddress bounds the connections that an address holds. Beyond it they are reset
	// before a byte is read, or refused with 429 where a trusted proxy has named the address in a
	// header. Too few locks out people who share one, as in an office or behind a mobile carrier.
	// Default: no limit.
	MaxConnsPerAddress int

	// ConnRatePerAddress bounds the connections that an address opens in a second, as many again at
	// once. What is beyond it goes as with MaxConnsPerAddress. Default: no limit.
	ConnRatePerAddress int

	// UnfinishedPerAddress bounds the connections of an address that end in a second without a
	// whole request, and 20 times as many may be in their handshake at once. Beyond it connections
	// are reset before a byte is read. Too few locks out who shares an address with an attacker; a
	// load balancer that only forwards bytes must be among TrustedProxies, or it counts as one
	// client. Default 200; negative: no limit.
	UnfinishedPerAddress int

	// MessageRate bounds the data messages that one client sends in a second, as many again at
	// once; beyond it the connection ends with 1008. It is ended and not slowed down: what is not
	// read would wait in the kernel's memory, where it costs more than the close, would hold back
	// heartbeats, and would hide the fault from whoever could mend it. Default: no limit.
	MessageRate int
}

// unfinishedBurst is how many seconds' worth of UnfinishedPerAddress may be under way at once.
const unfinishedBurst = 20

// admission is Clients in force. Any goroutine.
type admission struct {
	trusted, allow, deny *client.Prefixes
	counts               *client.Counts       // connections held
	opened               *client.Rates        // connections opened
	unfinished           *client.Rates        // handshakes begun and not finished
	now                  func() time.Duration // a clock that all loops share

	direct bool // accept has to look at addresses at all
}

func newAdmission(cfg *Clients) (*admission, error) {
	began := time.Now()
	a := &admission{now: func() time.Duration { return time.Since(began) }}
	for _, set := range []struct {
		name   string
		ranges []string
		to     **client.Prefixes
	}{
		{"TrustedProxies", cfg.TrustedProxies, &a.trusted},
		{"Allow", cfg.Allow, &a.allow}, {"Deny", cfg.Deny, &a.deny},
	} {
		var err error
		if *set.to, err = client.NewPrefixes(set.ranges); err != nil {
			return nil, fmt.Errorf("gateway: %s: %w", set.name, err)
		}
	}
	if cfg.ProxyProtocol && a.trusted == nil {
		return nil, errors.New("gateway: ProxyProtocol without TrustedProxies: no header would count")
	}
	def(&cfg.UnfinishedPerAddress, 200)
	a.counts = client.NewCounts(cfg.MaxConnsPerAddress)
	a.opened = client.NewRates(client.PerSecond(cfg.ConnRatePerAddress, cfg.ConnRatePerAddress))
	rate := cfg.UnfinishedPerAddress
	a.unfinished = client.NewRates(client.PerSecond(rate, rate*unfinishedBurst))
	a.direct = a.looks()
	return a, nil
}

// looks reports whether any setting is about addresses.
func (a *admission) looks() bool {
	return a.trusted != nil || a.allow != nil || a.deny != nil || a.counts != nil ||
		a.opened.Limited() || a.unfinished.Limited()
}

// allowed judges an address by Allow and Deny.
func (a *admission) allowed(ip netip.Addr) bool {
	return (a.allow == nil || a.allow.Contains(ip)) && !a.deny.Contains(ip)
}

// barrier is what an address ran into: the label of its metric.
type barrier uint8

const (
	nothing          barrier = iota
	barredDenied             // by Allow or Deny
	barredConns              // MaxConnsPerAddress
	barredRate               // ConnRatePerAddress
	barredHandshakes         // UnfinishedPerAddress
	barriers
)

var barrierNames = [barriers]string{
	barredDenied: "denied", barredConns: "conns", barredRate: "conn_rate",
	barredHandshakes: "unfinished",
}

func (b barrier) String() string { return barrierNames[b] }

// admit judges a client's address, and counts a connection of it. handshake says that its handshake
// is still to come, which counts as unfinished until finished is called.
func (a *admission) admit(ip netip.Addr, handshake bool) barrier {
	now := a.now()
	switch {
	case !a.allowed(ip):
		return barredDenied
	case handshake && !a.unfinished.Take(ip, now):
		return barredHandshakes
	case !a.opened.Take(ip, now):
		a.finished(ip, handshake)
		return barredRate
	case !a.counts.Add(ip):
		a.finished(ip, handshake)
		return barredConns
	}
	return nothing
}

// finished gives back what an unfinished handshake has taken.
func (a *admission) finished(ip netip.Addr, handshake bool) {
	if handshake {
		a.unfinished.Return(ip)
	}
}

// arrive looks at a new connection, before anything of it is read: by its peer's address, unless
// that is a proxy, which will say for whom it comes.
func (c *Conn) arrive(sysfd int) barrier {
	a := c.w.admission
	if !a.direct {
		return nothing
	}
	peer := peerOf(sysfd)
	if !peer.IsValid() {
		return nothing // it is gone already, which reading will show
	}
	if c.w.cfg.Clients.ProxyProtocol {
		c.flags |= awaitsProxy
	}
	if a.trusted.Contains(peer.Addr()) {
		return nothing
	}
	return c.count(peer.Addr(), true)
}

// count has admission judge the client's address, and notes what end has to give back.
func (c *Conn) count(ip netip.Addr, handshake bool) barrier {
	a := c.w.admission
	if why := a.admit(ip, handshake); why != nothing {
		return why
	}
	if a.counts != nil {
		c.makeRare().at().counted = ip
	}
	if handshake && a.unfinished.Limited() {
		c.flags |= unfinished
	}
	return nothing
}

// requestComplete is called when a whole request has been read.
func (c *Conn) requestComplete() {
	if c.flags&unfinished != 0 {
		c.flags &^= unfinished
		if ip := c.RemoteAddr().Addr(); ip.IsValid() {
			c.w.admission.finished(ip, true)
		}
	}
}

// recount counts a connection that another process has admitted, and that goes on in this one.
func (c *Conn) recount() {
	a := c.w.admission
	if a.counts == nil {
		return
	}
	ip := c.RemoteAddr().Addr()
	if ip.IsValid() && !a.trusted.Contains(ip) && a.counts.Add(ip) {
		c.makeRare().at().counted = ip
	}
}

// uncount gives back what count has taken.
func (c *Conn) uncount() {
	if ip := c.rare.where().counted; ip.IsValid() {
		c.w.admission.counts.Remove(ip)
		c.rare.addresses.counted = netip.Addr{}
	}
}

// bar turns away a connection that was not admitted: a reset, which leaves nothing behind here, not
// even a socket in TIME_WAIT.
func (w *worker) bar(sysfd int, why barrier) {
	w.metrics.barred[why].Inc()
	w.logBarred(why, peerOf(sysfd))
	_ = unix.SetsockoptLinger(sysfd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(sysfd)
}

// logBarred writes the first of each kind, and then one in refusalLogEvery: an operator whose load
// balancer is taken for one client must see it.
func (w *worker) logBarred(why barrier, peer netip.AddrPort) {
	last := &w.barred[why]
	if last.logged && w.loop.Now()-last.at < refusalLogEvery {
		last.skipped++
		return
	}
	w.log.Warn("connections turned away", "reason", why.String(), "client", peer.String(),
		"since_last", last.skipped+1, "hint", "if this is a load balancer, it belongs among the trusted proxies")
	*last = refusalLogged{logged: true, at: w.loop.Now()}
}

// peerOf is the address at the other end of a socket, not valid when it is gone. It is asked for
// with each connection, so it goes around unix.Getpeername, which allocates.
func peerOf(sysfd int) netip.AddrPort {
	var sa unix.RawSockaddrInet6
	size := uint32(unix.SizeofSockaddrInet6)
	_, _, errno := unix.RawSyscall(unix.SYS_GETPEERNAME, uintptr(sysfd),
		uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	switch sa.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), hostOrder(four.Port))
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), hostOrder(sa.Port))
	}
	return netip.AddrPort{}
}

// hostOrder turns a port around that the kernel gives in the network's order.
func hostOrder(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}
