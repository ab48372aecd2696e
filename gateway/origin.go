package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"golang.org/x/net/idna"
)

// origins is the policy on the Origin header: the gateway's own host and those allowed by name.
type origins struct {
	any      bool
	exact    map[string]bool
	suffixes []wildcard
}

// wildcard is "https://*.example.com".
type wildcard struct{ scheme, suffix string }

func newOrigins(allowed []string) (o origins, err error) {
	o.exact = make(map[string]bool)
	for _, a := range allowed {
		a, err := CheckOrigin(a)
		if err != nil {
			return o, err
		}
		scheme, host, wild := strings.Cut(a, "://*.")
		switch {
		case a == "*":
			o.any = true
		case wild:
			o.suffixes = append(o.suffixes, wildcard{scheme + "://", "." + host})
		default:
			o.exact[a] = true
		}
	}
	return o, nil
}

// CheckOrigin returns an allowed origin the way browsers write theirs (RFC 6454, section 6.2): in
// lower case, with the host in its ASCII form and without the scheme's default port. It returns an
// error for one that no browser can send, which would allow nothing. Any goroutine.
func CheckOrigin(origin string) (string, error) {
	o := strings.TrimSpace(origin)
	if o == "*" || o == "null" {
		return o, nil
	}
	wrong := func(why string) (string, error) { return "", fmt.Errorf("%q is not an origin: %s", origin, why) }
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || u.User != nil {
		return wrong("want scheme://host[:port] without a path, or *")
	}
	host, port := u.Hostname(), u.Port()
	prefix := ""
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		prefix, host = "*.", rest
	}
	switch {
	case strings.Contains(host, "*"):
		return wrong("* stands for the first names of a host, as in https://*.example.com, or alone for any origin")
	case host == "":
		return wrong("no name is left behind *.")
	case strings.HasSuffix(host, "."):
		return wrong("a name with a dot at its end is another host to browsers")
	}
	if strings.Contains(host, ":") { // IPv6
		host = "[" + strings.ToLower(host) + "]"
	} else if host, err = idna.Lookup.ToASCII(strings.ToLower(host)); err != nil {
		return wrong("the host is not a name that DNS can hold")
	}
	scheme := strings.ToLower(u.Scheme)
	if port != "" && port != defaultPort(scheme) {
		host += ":" + port
	}
	return scheme + "://" + prefix + host, nil
}

// allow reports whether a page of this origin may connect. No Origin at all means no browser, which
// can only lie for itself.
func (o *origins) allow(origin, host []byte) bool {
	if origin == nil || o.any {
		return true
	}
	given := strings.ToLower(string(origin))
	if o.exact[given] {
		return true
	}
	for _, w := range o.suffixes {
		if rest, ok := strings.CutPrefix(given, w.scheme); ok && len(rest) > len(w.suffix) && strings.HasSuffix(rest, w.suffix) {
			return true
		}
	}
	scheme, of, ok := strings.Cut(given, "://")
	return ok && withPort(of, scheme) == withPort(strings.ToLower(string(host)), scheme)
}

// withPort adds the scheme's default port to a host without one.
func withPort(host, scheme string) string {
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		return host
	}
	return host + ":" + defaultPort(scheme)
}

func defaultPort(scheme string) string {
	if scheme == "https" || scheme == "wss" {
		return "443"
	}
	return "80"
}

// hosts are the names that a request may be for, nil for any: without them a page of a hostile name
// that resolves to this machine is of the same host as the gateway (DNS rebinding).
type hosts map[string]bool

func newHosts(allowed []string) (hosts, error) {
	if len(allowed) == 0 {
		return nil, nil
	}
	h := make(hosts, len(allowed))
	for _, a := range allowed {
		name, err := CheckHost(a)
		if err != nil {
			return nil, err
		}
		h[name] = true
	}
	return h, nil
}

// CheckHost returns an allowed host in the form that requests are compared in: "name", which stands
// for any port, or "name:port". Any goroutine.
func CheckHost(host string) (string, error) {
	name, port := strings.ToLower(strings.TrimSpace(host)), ""
	if n, p, err := net.SplitHostPort(name); err == nil {
		name, port = n, p
	}
	name = strings.Trim(name, "[]")
	var err error
	switch {
	case name == "" || strings.ContainsAny(name, "*/ ") || strings.Trim(port, "0123456789") != "":
		err = errors.New("want a name or an address, with or without a port")
	case !strings.Contains(name, ":"):
		name, err = idna.Lookup.ToASCII(name)
	}
	if err != nil {
		return "", fmt.Errorf("%q is not a host: %w", host, err)
	}
	if port != "" {
		return net.JoinHostPort(name, port), nil
	}
	return name, nil
}

func (h hosts) allow(host []byte) bool {
	if h == nil {
		return true
	}
	given := strings.ToLower(string(host))
	name, port, err := net.SplitHostPort(given)
	if err != nil {
		return h[strings.Trim(given, "[]")]
	}
	return h[name] || h[net.JoinHostPort(name, port)]
}
