package gateway

import (
	"bytes"
	"time"

	"github.com/gobwas/ws"
)

// What an application may say of a connection: whose it is, and until when.

// SetUser says who the client is, where something has proved that: see package auth. It is in the
// access log and is what User returns.
func (c *Conn) SetUser(user string) {
	if user != "" || c.User() != "" {
		c.makeRare().by().user = user
	}
}

// User is who the client is, "" when that is not known.
func (c *Conn) User() string {
	return c.rare.who().user
}

// SetProtocol names the subprotocol for Accept to answer with, unless Accept's own headers have
// one. It must be one that the client has offered.
func (c *Conn) SetProtocol(name string) {
	if name != "" || c.rare.who().protocol != "" {
		c.makeRare().by().protocol = name
	}
}

const protocolHeader = "Sec-WebSocket-Protocol: "

// appendProtocol appends the header for SetProtocol's name to the 101 response.
func (c *Conn) appendProtocol(b []byte, headers string) []byte {
	protocol := c.rare.who().protocol
	if protocol == "" {
		return b
	}
	for rest, more := []byte(headers), true; more; {
		var line []byte
		line, rest, more = bytes.Cut(rest, []byte("\r\n"))
		if name, _, _ := bytes.Cut(line, []byte{':'}); isName(name, "Sec-WebSocket-Protocol") {
			return b
		}
	}
	b = append(append(append(b, protocolHeader...), protocol...), "\r\n"...)
	c.rare.names.protocol = "" // it is said once
	return b
}

// ending is what EndAfter was given.
type ending struct {
	at     time.Duration // on the loop's clock
	code   ws.StatusCode
	reason string
	ended  func()
}

// EndAfter has the connection end after d, as if the gateway went away: the Handler is asked to
// leave with code, and the Close frame has reason unless the Handler gives another. ended, unless
// nil, is called then, on the loop. A second call replaces the first; d <= 0 cancels.
func (c *Conn) EndAfter(d time.Duration, code ws.StatusCode, reason string, ended func()) {
	if d <= 0 {
		if c.rare != nil {
			c.rare.ending = nil
		}
	} else {
		c.makeRare().ending = &ending{c.w.loop.Now() + d, code, reason, ended}
	}
	if c.state == open {
		c.rearm()
	}
}

// EndsAfter is the time left until EndAfter's end, and its code; ok is false when there is none.
func (c *Conn) EndsAfter() (d time.Duration, code ws.StatusCode, ok bool) {
	if c.rare == nil || c.rare.ending == nil {
		return 0, 0, false
	}
	e := c.rare.ending
	return e.at - c.w.loop.Now(), e.code, true
}

// endDue ends the connection if EndAfter's time has come, and reports whether it has.
func (c *Conn) endDue(now time.Duration) bool {
	if c.rare == nil || c.rare.ending == nil || now < c.rare.ending.at {
		return false
	}
	e := c.rare.ending
	e.at = longest // once; the reason stays for Close
	if e.ended != nil {
		e.ended()
	}
	c.leave(e.code)
	return true
}

// endReason is the reason of a Close frame: the one given, or else EndAfter's for its code.
func (c *Conn) endReason(code ws.StatusCode, reason string) string {
	if reason == "" && c.rare != nil && c.rare.ending != nil && c.rare.ending.code == code {
		return c.rare.ending.reason
	}
	return reason
}
