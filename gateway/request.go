package gateway

import (
	"bytes"
	"fmt"
	"strings"
)

// Request is one complete HTTP request head. Its slices point into the loop's read buffer and die
// when Handler.Open returns.
type Request struct {
	head []byte // behind the request line

	Method    []byte
	Path      []byte // as sent, without the query
	Query     []byte // behind the question mark, not decoded
	Host      []byte
	Origin    []byte // nil when there is none
	RequestID []byte // X-Request-ID, nil when there is none or it is not usable (see validRequestID)

	minor   byte // of HTTP/1.x
	upgrade []byte
	key     []byte
	hasBody bool
	seen    headerSet
}

// headerSet notes the headers that may come only once: two values for one of them are read
// differently by different programs along the way, which is how requests are smuggled (RFC 9112,
// section 11).
type headerSet uint16

const (
	seenHost headerSet = 1 << iota
	seenUpgrade
	seenKey
	seenVersion
	seenOrigin
	seenRequestID
	seenContentLength
)

// parseRequest reads a request head that ends with an empty line. It is strict where RFC 9112 lets
// a server choose: no obs-fold, no bare LF, no white space around names, no body, origin-form
// targets only. It returns what to refuse the request with, or nil. It may change names of headers
// in head.
func parseRequest(head []byte, maxHeaders int, r *Request) *Refusal {
	*r = Request{}
	line, rest, ok := cutLine(head)
	if !ok || !r.parseRequestLine(line) {
		return refuseRequestLine
	}
	r.head = rest
	for count := 0; ; count++ {
		if line, rest, ok = cutLine(rest); !ok {
			return refuseHeader
		}
		if len(line) == 0 {
			break
		}
		if count == maxHeaders {
			return refuseHeaders
		}
		if !r.parseHeader(line) {
			return refuseHeader
		}
	}
	// RFC 9112, section 3.2: "A server MUST respond with a 400 (Bad Request) status code to any
	// HTTP/1.1 request message that lacks a Host header field"
	if len(r.Host) == 0 && r.minor != 0 {
		return refuseHost
	}
	if r.hasBody {
		return refuseBody
	}
	return nil
}

// cutLine takes one line off b. A line ends with CRLF; a LF alone is no end, and neither byte may
// stand inside a line.
func cutLine(b []byte) (line, rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	if i < 1 || b[i-1] != '\r' {
		return nil, nil, false
	}
	line = b[:i-1]
	return line, b[i+1:], bytes.IndexByte(line, '\r') < 0
}

// parseRequestLine reads "GET /path?query HTTP/1.1", with single spaces.
func (r *Request) parseRequestLine(line []byte) bool {
	method, rest, ok := bytes.Cut(line, []byte{' '})
	target, version, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || !isToken(method) || len(target) == 0 || target[0] != '/' || !bytes.HasPrefix(version, []byte("HTTP/1.")) {
		return false
	}
	if len(version) != 8 || (version[7] != '0' && version[7] != '1') {
		return false
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	r.Method, r.minor = method, version[7]-'0'
	r.Path, r.Query, _ = bytes.Cut(target, []byte{'?'})
	return true
}

// parseHeader reads "Name: value" and keeps the few that matter here; the rest of the upgrade is
// gobwas/ws' to judge.
func (r *Request) parseHeader(line []byte) bool {
	colon := bytes.IndexByte(line, ':')
	// isToken refuses white space before the colon and at the start of the line (obs-fold).
	if colon < 1 || !isToken(line[:colon]) {
		return false
	}
	name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	switch len(name) { // few names reach a comparison
	case len("Host"):
		if isName(name, "Host") {
			r.Host = value
			return r.once(seenHost) && validHost(value)
		}
	case len("Origin"): // and len("Cookie")
		if isName(name, "Origin") {
			r.Origin = value
			return r.once(seenOrigin)
		}
	case len("Upgrade"):
		if isName(name, "Upgrade") {
			r.upgrade = value
			return r.once(seenUpgrade)
		}
	case len("Connection"):
		// RFC 9110, section 5.3: lines of one name are one list, and a proxy may add its own line.
		// gobwas/ws wants "upgrade" in each of them, so it must not know the others for what they
		// are.
		if isName(name, "Connection") && !hasUpgrade(value) {
			name[0] = 'X'
		}
	case len("X-Request-ID"):
		if isName(name, "X-Request-ID") && r.once(seenRequestID) && validRequestID(value) {
			r.RequestID = value
		}
	case len("Content-Length"):
		if isName(name, "Content-Length") {
			r.hasBody = r.hasBody || string(value) != "0"
			return r.once(seenContentLength)
		}
	case len("Transfer-Encoding"): // and of Sec-WebSocket-Key
		if isName(name, "Transfer-Encoding") {
			r.hasBody = true
		} else if isName(name, "Sec-WebSocket-Key") {
			r.key = value
			return r.once(seenKey)
		}
	case len("Sec-WebSocket-Version"):
		if isName(name, "Sec-WebSocket-Version") {
			return r.once(seenVersion)
		}
	}
	return true
}

// Header is the value of a header, in any case, without the white space around it; found is false
// when there is none. Of several lines with that name it is the first. Connection is the gateway's:
// its lines that do not say "upgrade" are not found.
func (r *Request) Header(name string) (value []byte, found bool) {
	for rest := r.head; ; {
		line, more, ok := cutLine(rest)
		if !ok || len(line) == 0 {
			return nil, false
		}
		if key, v, _ := bytes.Cut(line, []byte{':'}); isName(key, name) {
			return bytes.Trim(v, " \t"), true
		}
		rest = more
	}
}

// Headers goes through all headers in the order in which they came, as they were sent but for the
// white space around values. The slices die with the Request.
func (r *Request) Headers(yield func(name, value []byte) bool) {
	for rest := r.head; ; {
		line, more, ok := cutLine(rest)
		if !ok || len(line) == 0 {
			return
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		if isName(name, "Xonnection") { // see parseHeader
			name = []byte("Connection")
		}
		if !yield(name, bytes.Trim(value, " \t")) {
			return
		}
		rest = more
	}
}

// Cookies goes through the cookies of all Cookie headers in the order in which they came (RFC 6265,
// section 4.2.1). Values are as they were sent, quotes included; what is not "name=value" is left
// out. The slices die with the Request.
func (r *Request) Cookies(yield func(name, value []byte) bool) {
	for header, list := range r.Headers {
		if !isName(header, "Cookie") {
			continue
		}
		for more := true; more; {
			var pair []byte
			pair, list, more = bytes.Cut(list, []byte{';'})
			name, value, found := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
			if name = bytes.TrimRight(name, " \t"); found && isToken(name) && !yield(name, value) {
				return
			}
		}
	}
}

// Cookie is the value of the first cookie of a name, which is compared with its case; found is
// false when there is none.
func (r *Request) Cookie(name string) (value []byte, found bool) {
	for n, v := range r.Cookies {
		if string(n) == name {
			return v, true
		}
	}
	return nil, false
}

// Clone is a copy that outlives Handler.Open.
func (r *Request) Clone() *Request {
	c := *r
	move := func(to *[]byte) { *to = bytes.Clone(*to) }
	for _, field := range []*[]byte{&c.head, &c.Method, &c.Path, &c.Query, &c.Host, &c.Origin, &c.RequestID,
		&c.upgrade, &c.key} {
		move(field)
	}
	return &c
}

// SetHeader has all headers of a name, in any case, replaced by one with value, or by none when
// value is empty. Only on a Clone. It panics on a name or value that cannot stand in a header.
func (r *Request) SetHeader(name, value string) {
	if !isToken([]byte(name)) || strings.ContainsAny(value, "\r\n\x00") {
		panic(fmt.Sprintf("gateway: header %q: %q", name, value))
	}
	head := make([]byte, 0, len(r.head)+len(name)+len(value)+4)
	if value != "" {
		head = append(append(append(append(head, name...), ": "...), value...), "\r\n"...)
	}
	for rest := r.head; ; {
		line, more, ok := cutLine(rest)
		if !ok || len(line) == 0 {
			break
		}
		if key, _, _ := bytes.Cut(line, []byte{':'}); !isName(key, name) {
			head = append(append(head, line...), "\r\n"...)
		}
		rest = more
	}
	r.head = append(head, "\r\n"...)
}

// once reports whether this header had not been seen before.
func (r *Request) once(h headerSet) bool {
	first := r.seen&h == 0
	r.seen |= h
	return first
}

func isName(got []byte, want string) bool {
	return string(got) == want || bytes.EqualFold(got, []byte(want))
}

// hasUpgrade looks for "upgrade" in the value of a Connection header, a list of tokens.
func hasUpgrade(list []byte) bool {
	for more := true; more; {
		var token []byte
		token, list, more = bytes.Cut(list, []byte{','})
		if bytes.EqualFold(bytes.Trim(token, " \t"), []byte("upgrade")) {
			return true
		}
	}
	return false
}

// isToken is RFC 9110's token: the letters of methods and header names.
func isToken(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] {
			return false
		}
	}
	return len(b) > 0
}

var tokenBytes = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// validHost admits what can stand in a Host header: a name or address, maybe a port. White space,
// commas, slashes and the at sign are how one host is made to look like another.
func validHost(b []byte) bool {
	for _, c := range b {
		if !tokenBytes[c] && c != ':' && c != '[' && c != ']' && c != '(' && c != ')' && c != ';' && c != '=' {
			return false
		}
	}
	return len(b) > 0
}

// validRequestID admits what may go back to the client and into a log as it is.
func validRequestID(b []byte) bool {
	if len(b) == 0 || len(b) > 64 {
		return false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// headEnd looks for the end of a request head in b, of which the first seen bytes held none. bad
// says that the bytes cannot become a request, however many more come: a TLS hello or another
// protocol should hear so at once and not after a timeout.
func headEnd(b []byte, seen int) (end int, bad bool) {
	if len(b) > 0 && !tokenBytes[b[0]] {
		return 0, true
	}
	for i := max(seen-3, 0); ; {
		n := bytes.IndexByte(b[i:], '\n')
		if n < 0 {
			return 0, false
		}
		i += n
		if i == 0 || b[i-1] != '\r' {
			return 0, true
		}
		if i >= 3 && b[i-2] == '\n' && b[i-3] == '\r' {
			return i + 1, false
		}
		i++
	}
}

// QueryValue finds name in the query, as it was sent: escapes are left in it. once is false when it
// is there twice, for two programs would read two values. The value dies with the Request.
func (r *Request) QueryValue(name string) (value []byte, found, once bool) {
	return queryValue(r.Query, name)
}

func queryValue(query []byte, name string) (value []byte, found, once bool) {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		key, v, _ := bytes.Cut(pair, []byte{'='})
		if string(key) != name {
			continue
		}
		if found {
			return nil, true, false
		}
		value, found = v, true
	}
	return value, found, true
}
