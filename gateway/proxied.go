package gateway

import (
	"net/netip"

	"sluice/gateway/client"
)

// What proxies in front say of a client: a PROXY header before the request, or a header in it.

// proxied is what became of a proxy's word: the label of its metric.
type proxied uint8

const (
	proxyTaken     proxied = iota // a PROXY header of a trusted proxy
	proxyLocal                    // one that names no client: the proxy's own check, or not TCP
	proxyUntrusted                // of somebody else: read and ignored
	proxyBad                      // of a trusted proxy, missing or malformed
	forwardedTaken
	forwardedUntrusted // from somebody who is not a trusted proxy
	forwardedBad       // what stands in it is no address
	proxieds
)

var proxiedNames = [proxieds]string{
	proxyTaken: "proxy", proxyLocal: "proxy_local",
	proxyUntrusted: "proxy_untrusted", proxyBad: "proxy_malformed",
	forwardedTaken: "forwarded", forwardedUntrusted: "forwarded_untrusted",
	forwardedBad: "forwarded_malformed",
}

func (p proxied) String() string { return proxiedNames[p] }

// proxyHeader takes the PROXY header off the start of b, where one is expected. done is false when
// more bytes are needed, or when the connection is refused.
func (c *Conn) proxyHeader(b []byte) (rest []byte, done bool) {
	a := c.w.admission
	h, n, err := client.ParseProxy(b)
	if n == 0 && err == nil {
		return b, false
	}
	c.flags &^= awaitsProxy
	trusted := a.trusted.Contains(c.RemoteAddr().Addr())
	switch {
	case trusted && err != nil:
		c.w.metrics.proxied[proxyBad].Inc()
		c.refuse(refuseProxy, "", false)
		return nil, false
	case err != nil:
		return b, true // a client of its own, without a header
	case !trusted:
		c.w.metrics.proxied[proxyUntrusted].Inc()
	case !h.Source.IsValid():
		c.w.metrics.proxied[proxyLocal].Inc()
	default:
		c.w.metrics.proxied[proxyTaken].Inc()
		c.SetRemoteAddr(h.Source)
		if a.trusted.Contains(h.Source.Addr()) {
			break // another proxy, which names the client in its request
		}
		if why := c.count(h.Source.Addr(), true); why != nothing {
			c.w.metrics.barred[why].Inc()
			c.w.logBarred(why, h.Source)
			c.end(goneReset)
			return nil, false
		}
	}
	return b[n:], true
}

// forwarded takes the client's address from the request of a trusted proxy, and reports what to
// refuse that client with, or nil.
func (c *Conn) forwarded(r *Request) *Refusal {
	a := c.w.admission
	name := c.w.cfg.Clients.Forwarded.Name()
	if a.trusted == nil || name == "" {
		return nil
	}
	peer := c.RemoteAddr()
	trusted := a.trusted.Contains(peer.Addr())
	var lines [][]byte
	for header, value := range r.Headers {
		if isName(header, name) {
			lines = append(lines, value)
		}
	}
	switch {
	case len(lines) == 0:
		return nil
	case !trusted:
		c.w.metrics.proxied[forwardedUntrusted].Inc()
		return nil
	}
	origin, whole := client.Origin(peer, c.w.cfg.Clients.Forwarded, lines, a.trusted)
	if whole {
		c.w.metrics.proxied[forwardedTaken].Inc()
	} else {
		c.w.metrics.proxied[forwardedBad].Inc()
	}
	if origin == peer {
		return nil
	}
	c.SetRemoteAddr(origin)
	if a.trusted.Contains(origin.Addr()) {
		return nil // the proxies' own requests
	}
	return c.admitForwarded(origin.Addr())
}

func (c *Conn) admitForwarded(ip netip.Addr) *Refusal {
	why := c.count(ip, false)
	if why == nothing {
		return nil
	}
	c.w.metrics.barred[why].Inc()
	if why == barredDenied {
		return refuseAddress
	}
	return refuseTooMany
}
