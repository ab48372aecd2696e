// Package count is the counting service: it counts each session's messages and answers each with
// the session's total. The answer is an acknowledgement: a total that was sent is stored.
//
// It is an application as anybody could write one: it uses what package gateway exports, and
// nothing else of it.
package count

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
	"sluice/sessions"
)

// App is the counting service, a gateway.App.
type App struct {
	// Store keeps the totals. Required.
	Store sessions.Store

	// SessionTTL is the Store's: sessions that are connected and silent are refreshed at half of
	// it. Default 1 hour.
	SessionTTL time.Duration

	// Keys makes session ids, and refuses those that it has not made as malformed. Nil: ids are
	// random, and any UUID is taken.
	Keys *sessions.IDKeys

	// NoWelcome leaves out the first frame, for clients that do not expect it.
	NoWelcome bool

	// NewSessionRate bounds the sessions that begin in a second on each loop; beyond it handshakes
	// get 503. Asking for a session that the store does not hold begins one too. 0: no limit.
	NewSessionRate int
}

// refuseSubject is what a client is told that asks for somebody else's session.
var refuseSubject = gateway.NewRefusal(http.StatusForbidden, "this session belongs to somebody else", "")

// ForLoop implements gateway.App. The Handler is a gateway.Waker too: an application that wraps it
// must pass Wake on, or sessions that are silent for the TTL are forgotten while they are
// connected.
func (a App) ForLoop(post func(fn func()) bool) gateway.Handler {
	if a.SessionTTL == 0 {
		a.SessionTTL = time.Hour
	}
	return &loop{
		store: a.Store.Join(post), keys: a.Keys, touch: a.SessionTTL / 2,
		welcome: !a.NoWelcome, rate: a.NewSessionRate,
	}
}

// loop is App on one loop.
type loop struct {
	store   sessions.Loop
	keys    *sessions.IDKeys
	touch   time.Duration
	welcome bool

	rate   int   // sessions that may begin in a second; 0 for no limit
	second int64 // the second that began counts in
	began  int
}

// mayBegin counts a session that begins, and reports whether it may.
func (l *loop) mayBegin() bool {
	if l.rate == 0 {
		return true
	}
	if second := time.Now().Unix(); second != l.second {
		l.second, l.began = second, 0
	}
	l.began++
	return l.began <= l.rate
}

// client is one connection's part in a session: Conn.Data, and the Owner of its attachment. Every
// connection holds one, of 32 bytes.
type client struct {
	c          *gateway.Conn
	attachment sessions.Attachment // nil until Attached, and again when given back
	step       *step               // nil while messages flow
}

// step is what a client needs while it opens or leaves.
type step struct {
	loop *loop         // opening
	id   sessions.ID   // opening
	code ws.StatusCode // leaving: the code to close with
}

// Open implements gateway.Handler: it finds or makes the session.
func (l *loop) Open(c *gateway.Conn, r *gateway.Request) {
	step := &step{loop: l}
	n := &client{c: c, step: step}
	value, found, ok := r.QueryValue("session_id")
	if found {
		var err error
		if step.id, err = l.keys.Parse(string(value)); err != nil || !ok {
			c.Refuse(gateway.RefuseSession)
			return
		}
	} else {
		step.id = l.keys.New()
	}
	c.Data = n
	c.WakeAfter(l.touch)
	l.store.Attach(step.id, c.User(), found, n)
}

// Attached implements sessions.Owner: the handshake can be answered.
func (n *client) Attached(a sessions.Attachment, total uint64, resumed bool, err error) {
	c, step := n.c, n.step
	n.step = nil
	switch {
	case err != nil:
		switch {
		case errors.Is(err, sessions.ErrFull):
			c.Refuse(gateway.RefuseFull)
		case errors.Is(err, sessions.ErrForbidden):
			c.Refuse(refuseSubject)
		default:
			c.Refuse(gateway.RefuseUnavailable)
		}
		return
	case !c.Opening(): // the client did not wait
		a.Detach(nil)
		return
	}
	if !resumed && !step.loop.mayBegin() {
		a.Detach(nil)
		c.Refuse(gateway.RefuseRate)
		return
	}
	n.attachment = a
	c.Cork(func() { n.accept(step, total, resumed) })
}

// accept answers the handshake and greets the client.
func (n *client) accept(step *step, total uint64, resumed bool) {
	var header [64]byte
	h := append(header[:0], "X-Session-Id: "...)
	h = step.id.Append(h)
	n.c.SetSession(h[len(h)-36:])
	n.c.Accept(string(append(h, "\r\n"...)))
	if !step.loop.welcome {
		return
	}
	var payload [128]byte
	p := append(payload[:0], `{"session_id":"`...)
	p = append(step.id.Append(p), `","count":`...)
	p = append(strconv.AppendUint(p, total, 10), `,"resumed":`...)
	p = append(strconv.AppendBool(p, resumed), '}')
	n.c.Send(ws.OpText, p)
}

// Message implements gateway.Handler.
func (l *loop) Message(c *gateway.Conn, _ ws.OpCode, _ []byte) {
	n := c.Data.(*client)
	if total, ok := n.attachment.Add(); ok {
		n.reply(total)
	} else if n.attachment.Full() {
		c.PauseReading() // until Acknowledged
	}
}

func (n *client) reply(total uint64) {
	var payload [32]byte
	p := append(payload[:0], `{"count":`...)
	p = append(strconv.AppendUint(p, total, 10), '}')
	n.c.Send(ws.OpText, p)
}

// Acknowledged implements sessions.Owner: the store has confirmed, so the client can be told.
func (n *client) Acknowledged(first, last uint64) {
	c := n.c
	if c.Closed() {
		return
	}
	c.Cork(func() {
		for total := first; total <= last; total++ {
			n.reply(total)
		}
		if a := n.attachment; a != nil && (a.Pending() == 0 || !a.Full()) {
			c.ResumeReading()
		}
	})
}

// Leave implements gateway.Handler: the final commit comes before the bye, which is an
// acknowledgement too.
func (l *loop) Leave(c *gateway.Conn, code ws.StatusCode) {
	n := c.Data.(*client)
	n.step = &step{code: code}
	a := n.attachment
	n.attachment = nil
	a.Detach(n)
}

// Detached implements sessions.Owner.
func (n *client) Detached(total uint64, err error) {
	c := n.c
	if c.Closed() {
		return
	}
	var code ws.StatusCode
	if n.step != nil {
		code = n.step.code
	}
	if n.attachment != nil { // the store refuses this session; a later connection may find it mended
		n.attachment = nil
		switch {
		case errors.Is(err, sessions.ErrFull):
			code = 1013 // try again later
		case errors.Is(err, sessions.ErrForbidden):
			code = ws.StatusPolicyViolation
		default:
			code = ws.StatusInternalServerError
		}
	}
	c.Cork(func() {
		if err == nil {
			var payload [64]byte
			p := append(payload[:0], `{"bye":true,"total":`...)
			p = append(strconv.AppendUint(p, total, 10), '}')
			c.Send(ws.OpText, p)
		}
		c.Close(code, "")
	})
}

// Closed implements gateway.Handler.
func (l *loop) Closed(c *gateway.Conn) {
	if n, _ := c.Data.(*client); n != nil && n.attachment != nil {
		n.attachment.Detach(nil)
		n.attachment = nil
	}
}

// Wake implements gateway.Waker: a session that is connected does not expire.
func (l *loop) Wake(c *gateway.Conn) {
	if n := c.Data.(*client); n.attachment != nil {
		n.attachment.Touch()
		c.WakeAfter(l.touch)
	}
}
