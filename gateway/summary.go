package gateway

import (
	"net/netip"
	"strings"
	"time"
)

// Summary is what one WebSocket was, for an access log. It is made for a connection when
// Config.Ended is set, and costs it some 200 bytes; without it a connection holds nothing of this.
type Summary struct {
	Client    netip.AddrPort // see Conn.RemoteAddr
	User      string         // see Conn.SetUser
	Subject   string         // see Conn.Subject
	Session   string         // see Conn.SetSession
	Path      string         // as sent, without the query
	RequestID string

	Code                           uint16 // of the Close frame that was sent or received; 1006 when there was none
	MessagesReceived, MessagesSent uint64 // data messages; those sent include heartbeats
	BytesReceived, BytesSent       uint64 // on the socket, from its first byte on
	Ended                          time.Time
	Duration                       time.Duration // since 101
}

// begun is a Summary under way.
type begun struct {
	Summary
	at time.Duration // of 101, on the loop's clock
}

// summarize decides at a connection's beginning whether it will have a Summary.
func (c *Conn) summarize() {
	if c.w.cfg.Ended == nil {
		return
	}
	if n := c.w.cfg.EndedSample; n > 1 && c.w.random.IntN(n) != 0 {
		return
	}
	c.makeRare().summary = new(begun)
}

// summary is nil for a connection that has none.
func (c *Conn) summary() *begun {
	if c.rare == nil {
		return nil
	}
	return c.rare.summary
}

// describe notes what the request says.
func (c *Conn) describe(r *Request, requestID string) {
	if s := c.summary(); s != nil {
		s.Path, s.RequestID = string(r.Path), strings.Clone(requestID)
		s.Client = c.RemoteAddr() // the socket may not tell it any more at the end
	}
}

// SetSession names the session that the connection belongs to, for the access log. It keeps nothing
// when there is none.
func (c *Conn) SetSession(id []byte) {
	if s := c.summary(); s != nil {
		s.Session = string(id)
	}
}

// received and sent count what the Summary says; a nil rare counts nothing.

func (r *rare) received(bytes int) {
	if r != nil && r.summary != nil {
		r.summary.BytesReceived += uint64(bytes)
	}
}

func (r *rare) sent(bytes int) {
	if r != nil && r.summary != nil {
		r.summary.BytesSent += uint64(bytes)
	}
}

func (r *rare) receivedMessage() {
	if r != nil && r.summary != nil {
		r.summary.MessagesReceived++
	}
}

func (r *rare) sentMessage() {
	if r != nil && r.summary != nil {
		r.summary.MessagesSent++
	}
}

// tellEnded gives the Summary of a WebSocket that has ended to Config.Ended.
func (c *Conn) tellEnded() {
	s := c.summary()
	if s == nil {
		return
	}
	if s.Code = c.closeCode; s.Code == 0 {
		s.Code = 1006 // RFC 6455, section 7.1.5
	}
	if remote := c.rare.where().remote; remote.IsValid() {
		s.Client = remote
	}
	who := c.rare.who()
	s.User, s.Subject = who.user, who.subject
	s.Ended, s.Duration = time.Now(), c.w.loop.Now()-s.at
	c.w.cfg.Ended(&s.Summary)
	c.rare.summary = nil
}
