package backend

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"
)

// What of a client's handshake goes to the backend, and what of the backend's answers goes to the
// client.

// withheld are the client's headers that the backend does not get: those of this hop only (RFC
// 9110, section 7.6.1), those that describe a body or an answer that the client has nothing to do
// with, and those that the gateway says itself, which a client must not be able to say in its
// place.
var withheld = headerNames("Connection", "Keep-Alive", "Proxy-Connection",
	"Proxy-Authenticate", "Proxy-Authorization",
	"TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Host",
	"Accept", "Accept-Encoding", "Content-Length", "Content-Type", "Content-Encoding",
	"Content-Bytes-Replayed", "Content-Bytes-Accepted",
	"Connection-Id", "Keep-Alive-Interval", "Sec-Websocket-Key", "Sec-Websocket-Extensions",
	"Idempotency-Key", "X-Idempotency-Key", // net/http would repeat a request that has one
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Host",
	"X-Forwarded-Port",
	"X-Forwarded-User", "X-Real-Ip",
	"X-Ssl-Client-Dn", "X-Forwarded-Client-Cert", "Client-Cert", "Client-Cert-Chain") // RFC 9440

// private are the backend's headers that are for the gateway or for the hop between them.
var private = headerNames("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate",
	"TE", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Length", "Date", "Content-Bytes-Accepted", "Keep-Alive-Interval", "Sec-Websocket-Accept",
	"Sec-Websocket-Extensions")

// privatePrefixes begin the names of headers that neither side may send to the other through the
// gateway.
var privatePrefixes = []string{"Meta-", "Set-Meta-", "Grip-", "Webhook-"}

func headerNames(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[textproto.CanonicalMIMEHeaderKey(name)] = true
	}
	return m
}

func isPrivate(name string, names map[string]bool) bool {
	if names[name] {
		return true
	}
	for _, prefix := range privatePrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// passOn reports whether a client's header goes to the backend. name is in canonical form.
// connection has what the client's Connection headers name.
func passOn(name string, connection []string) bool {
	// CGI, and with it WSGI and Rack, reads Meta_User and Meta-User as the same variable.
	if strings.IndexByte(name, '_') >= 0 || isPrivate(name, withheld) {
		return false
	}
	for _, c := range connection {
		if strings.EqualFold(c, name) {
			return false
		}
	}
	return true
}

// head is what each request of a connection repeats of the handshake: lines of "Name: value" behind
// the request line's target. It is one string because it is held for as long as the connection
// lives.
type head string

// newHead collects a head from the request line's target and headers (canonical names, alternating
// with values).
func newHead(target string, lines []string) head {
	var b strings.Builder
	size := len(target)
	for _, s := range lines {
		size += len(s) + 1
	}
	b.Grow(size)
	b.WriteString(target)
	for _, s := range lines {
		b.WriteByte('\n')
		b.WriteString(s)
	}
	return head(b.String())
}

// target is what stands in the request line.
func (h head) target() string {
	target, _, _ := strings.Cut(string(h), "\n")
	return target
}

// header makes the headers of a request. extra is for how many more there is to be room.
func (h head) header(extra int) http.Header {
	_, rest, more := strings.Cut(string(h), "\n")
	header := make(http.Header, strings.Count(rest, "\n")/2+1+extra)
	for more {
		var name, value string
		name, rest, _ = strings.Cut(rest, "\n")
		value, rest, more = strings.Cut(rest, "\n")
		header[name] = append(header[name], value)
	}
	return header
}

// meta is one Meta- header, which the backend has set and gets back with each request.
type meta struct{ name, value string }

// Bounds on what a backend can have the gateway carry for one connection.
const (
	maxMeta     = 32
	maxMetaSize = 4 << 10 // names and values together
)

// applyMeta carries out the Set-Meta- headers of an answer. It returns a new slice when there are
// any: the old one may be in use by a request. What is beyond the bounds is left out, and ok is
// false.
func applyMeta(old []meta, answer http.Header) (metas []meta, ok bool) {
	metas, ok = old, true
	copied := false
	for key, values := range answer {
		name, is := strings.CutPrefix(key, "Set-Meta-")
		if !is || name == "" {
			continue
		}
		if !copied {
			metas, copied = append([]meta(nil), old...), true
		}
		kept := metas[:0]
		for _, m := range metas {
			if m.name != name {
				kept = append(kept, m)
			}
		}
		metas = kept
		if value := values[len(values)-1]; value != "" {
			metas = append(metas, meta{name, value})
		}
	}
	size := 0
	for i, m := range metas {
		if size += len(m.name) + len(m.value); size > maxMetaSize || i == maxMeta {
			return metas[:i], false
		}
	}
	return metas, ok
}

// leastPoll is the shortest Keep-Alive-Interval, as Pushpin has it.
const leastPoll = 20 * time.Second

// pollInterval reads Keep-Alive-Interval: 0 is none, and ok says whether the answer says anything
// of it.
func pollInterval(answer http.Header) (d time.Duration, ok bool) {
	text := answer.Get("Keep-Alive-Interval")
	if text == "" {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		return 0, true
	}
	return min(max(time.Duration(min(n, 1<<30))*time.Second, leastPoll), longestTimeout), true
}

// Bounds on what of an answer goes to a client as the answer to its handshake.
const (
	maxHandshakeHeader = 16 << 10
	maxRefusalBody     = 64 << 10
)

// responseLines writes the headers of a backend's answer to OPEN that are the client's, as lines.
// accepted is for a 101, which has no content. A header that would not fit, or has a line end in
// it, is left out.
func responseLines(answer http.Header, accepted bool) string {
	var b strings.Builder
	for name, values := range answer {
		if isPrivate(name, private) || accepted && strings.HasPrefix(name, "Content-") {
			continue
		}
		for _, value := range values {
			if !cleanValue(value) || b.Len()+len(name)+len(value)+4 > maxHandshakeHeader {
				continue
			}
			b.WriteString(name + ": " + value + "\r\n")
		}
	}
	return b.String()
}

func cleanValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
