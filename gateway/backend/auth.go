package backend

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/netip"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// guard decides who may use the control address.
type guard struct {
	key []byte // nil: whoever reaches the address
}

var (
	errNoKey = errors.New("want Authorization: Bearer, with the control key or a JWT " +
		"signed with it")
	errFromPage  = errors.New("a page of a browser cannot use this address without a key")
	errRebinding = errors.New("without a key, this address answers to localhost and " +
		"IP addresses only")
	errBadMessage = errors.New("the key is wrong, or the token is not valid")
)

// check returns nil or why the request is refused, and the status for it. What it takes is what
// GRIP libraries send: the key itself, or a JWT (HMAC-SHA256) that expires; in Authorization:
// Bearer, or the key as a password (Basic).
func (g *guard) check(r *http.Request) (int, error) {
	if g.key == nil {
		// A web page may send requests to the reader's own machine. Browsers say so with Origin; a
		// name that was made to lead here (DNS rebinding) shows in Host.
		if r.Header.Get("Origin") != "" {
			return http.StatusForbidden, errFromPage
		}
		if !isLocalHost(r.Host) {
			return http.StatusForbidden, errRebinding
		}
		return 0, nil
	}
	if _, password, ok := r.BasicAuth(); ok {
		if g.isKey(password) {
			return 0, nil
		}
		return http.StatusUnauthorized, errBadMessage
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return http.StatusUnauthorized, errNoKey
	}
	if g.isKey(token) || g.isToken(token) {
		return 0, nil
	}
	return http.StatusUnauthorized, errBadMessage
}

// isKey compares in a time that depends neither on the text nor on its length.
func (g *guard) isKey(text string) bool {
	given, want := sha256.Sum256([]byte(text)), sha256.Sum256(g.key)
	return subtle.ConstantTimeCompare(given[:], want[:]) == 1
}

func (g *guard) isToken(text string) bool {
	_, err := jwt.Parse(text, func(*jwt.Token) (any, error) { return g.key, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	return err == nil
}

// isLocalHost reports whether a Host header is an IP address or localhost.
func isLocalHost(host string) bool {
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		host = host[:colon]
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}
