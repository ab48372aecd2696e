package auth

import (
	"bytes"
	"strings"

	"sluice/gateway"
)

// source is where in a request a token was.
type source uint8

const (
	nowhere source = iota
	authorization
	protocol
	query
	cookie
)

// protocolPrefix marks the token among the offered subprotocols. A token has only characters that
// may stand in the name of a protocol.
const protocolPrefix = "bearer."

const (
	protocolHeader = "Sec-WebSocket-Protocol"
	queryName      = "token"
)

// findToken looks for the token in the places where it may be, the most explicit first. ok is false
// when one of them has two: two programs would read two tokens.
func findToken(r *gateway.Request, cookieName string) (token string, from source, ok bool) {
	var found [cookie + 1]string
	var times [cookie + 1]int
	note := func(at source, value string) {
		found[at] = value
		times[at]++
	}
	for name, value := range r.Headers {
		switch {
		case strings.EqualFold(string(name), "Authorization"):
			scheme, credentials, _ := strings.Cut(string(value), " ")
			if strings.EqualFold(scheme, "Bearer") {
				note(authorization, strings.TrimLeft(credentials, " "))
			}
		case strings.EqualFold(string(name), protocolHeader):
			for _, p := range splitList(string(value)) {
				if t, is := strings.CutPrefix(p, protocolPrefix); is {
					note(protocol, t)
				}
			}
		}
	}
	if cookieName != "" {
		for name, value := range r.Cookies {
			if string(name) == cookieName {
				note(cookie, strings.Trim(string(value), `"`))
			}
		}
	}
	for pair := range bytes.SplitSeq(r.Query, []byte{'&'}) {
		if key, v, _ := bytes.Cut(pair, []byte{'='}); string(key) == queryName {
			note(query, string(v))
		}
	}
	for at := authorization; at <= cookie; at++ {
		if times[at] > 1 {
			return "", at, false
		}
		if times[at] == 1 && from == nowhere {
			token, from = found[at], at
		}
	}
	return token, from, true
}

func splitList(list string) (elements []string) {
	for e := range strings.SplitSeq(list, ",") {
		if e = strings.Trim(e, " \t"); e != "" {
			elements = append(elements, e)
		}
	}
	return elements
}

// withoutToken is the request for the inner application, and the subprotocol to answer with when it
// does not choose one: browsers fail a connection that they offered protocols for and whose answer
// names none. The request is r itself when there is nothing to take out.
func withoutToken(r *gateway.Request) (clean *gateway.Request, answer string) {
	clean = r
	if stripped, found := withoutPair(r.Query, queryName); found {
		clean = r.Clone()
		clean.Query = stripped
	}
	offered, bearer := []string(nil), ""
	for name, value := range r.Headers {
		if strings.EqualFold(string(name), protocolHeader) {
			for _, p := range splitList(string(value)) {
				if strings.HasPrefix(p, protocolPrefix) {
					bearer = p
				} else {
					offered = append(offered, p)
				}
			}
		}
	}
	if bearer == "" {
		return clean, ""
	}
	if clean == r {
		clean = r.Clone()
	}
	clean.SetHeader(protocolHeader, strings.Join(offered, ", "))
	if len(offered) > 0 {
		return clean, offered[0]
	}
	return clean, bearer
}

// withoutPair takes all pairs of that name out of a query.
func withoutPair(query []byte, name string) (rest []byte, found bool) {
	for pair := range bytes.SplitSeq(query, []byte{'&'}) {
		if key, _, _ := bytes.Cut(pair, []byte{'='}); string(key) == name {
			found = true
			continue
		}
		if len(rest) > 0 {
			rest = append(rest, '&')
		}
		rest = append(rest, pair...)
	}
	return rest, found
}
