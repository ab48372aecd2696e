package backend

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Route sends the connections of some paths to one backend.
type Route struct {
	// Pattern is a path. One that ends in a slash stands for all paths below it, as in net/http; of
	// several that fit a request, the longest is taken.
	Pattern string

	// URL is the backend's address: http, https or h2c (HTTP/2 without TLS), host and maybe a path.
	// Its path stands in for what the pattern matched; without a path, the client's whole path is
	// passed on.
	URL string
}

// ParseRoute reads "PATTERN=URL", as in "/chat/=http://127.0.0.1:9000/ws/". A URL alone is served
// under its own path: http://127.0.0.1:9000/ws/ stands for /ws/=http://127.0.0.1:9000/ws/.
func ParseRoute(text string) (Route, error) {
	r := Route{URL: text}
	if strings.HasPrefix(text, "/") {
		scheme := strings.Index(text, "://")
		if scheme < 0 {
			return r, fmt.Errorf("%q is not a route (want PATTERN=URL, like /chat/=http://127.0.0.1:9000)",
				text)
		}
		equals := strings.LastIndexByte(text[:scheme], '=')
		if equals < 0 {
			return r, fmt.Errorf("%q is not a route (want PATTERN=URL, like /chat/=http://127.0.0.1:9000)",
				text)
		}
		r.Pattern, r.URL = text[:equals], text[equals+1:]
	}
	u, err := parseURL(r.URL)
	if err != nil {
		return r, err
	}
	if r.Pattern == "" {
		if r.Pattern = u.EscapedPath(); r.Pattern == "" {
			r.Pattern = "/"
		}
	}
	if badPath(r.Pattern) || strings.ContainsAny(r.Pattern, "?#* ") {
		return r, fmt.Errorf("%q is not a path pattern (want a path without dot segments, *, ? and #)",
			r.Pattern)
	}
	return r, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("%q is not a backend's URL (want http://host:port/path)", text)
	}
	switch u.Scheme {
	case "http", "https", "h2c":
	default:
		return nil, fmt.Errorf("%q: scheme %q (want http, https or h2c)", text, u.Scheme)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q: a backend's URL has no user, query or fragment", text)
	}
	if u.Path != "" {
		if badPath(u.EscapedPath()) {
			return nil, fmt.Errorf("%q: the path has dot segments", text)
		}
	}
	return u, nil
}

// route is a Route in use.
type route struct {
	pattern string
	prefix  bool // the pattern ends in a slash
	base    string
	strip   int // how much of the client's path base stands in for
	target  *target
}

func newRoute(r Route, u *url.URL, t *target) route {
	o := route{pattern: r.Pattern, prefix: strings.HasSuffix(r.Pattern, "/"), target: t}
	if u.Path != "" {
		o.base, o.strip = u.EscapedPath(), len(r.Pattern)
	}
	return o
}

// sortRoutes puts the longest pattern first.
func sortRoutes(routes []route) {
	slices.SortStableFunc(routes, func(a, b route) int { return len(b.pattern) - len(a.pattern) })
}

// matchRoute finds the route of a path; nil when there is none.
func matchRoute(routes []route, path []byte) *route {
	for i := range routes {
		r := &routes[i]
		if string(path) == r.pattern || r.prefix && bytes.HasPrefix(path, []byte(r.pattern)) {
			return r
		}
	}
	return nil
}

// requestTarget is the request line's target for a client's path and query.
func (r *route) requestTarget(path, query []byte) string {
	var b strings.Builder
	b.Grow(len(r.base) + len(path) + 1 + len(query))
	b.WriteString(r.base)
	b.Write(path[r.strip:])
	if len(query) > 0 {
		b.WriteByte('?')
		b.Write(query)
	}
	return b.String()
}

// badPath says that a path cannot be passed on: it has an escape that is none, or a segment "." or
// "..", written plainly or escaped, with which one path would be matched here and another one
// served there.
func badPath(raw string) bool {
	path, err := url.PathUnescape(raw)
	if err != nil || !strings.HasPrefix(path, "/") {
		return true
	}
	for segment := range strings.FieldsFuncSeq(path, func(r rune) bool {
		return r == '/' || r == '\\'
	}) {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}
