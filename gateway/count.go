package gateway

import (
	"errors"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"sluice/sessions"
)

// Count is the counting service: it counts each session's messages and answers each with the session's total, which is an
// acknowledgement: a total that has been sent is stored.
type Count struct {
	// Store keeps the totals. Required.
	Store sessions.Store

	// SessionTTL is the Store's: sessions that are connected and silent are refreshed at half of it. Default 1 hour.
	SessionTTL time.Duration

	// NoWelcome leaves out the first frame, for clients that do not expect it.
	NoWelcome bool

	// NewSessionRate bounds the sessions that begin in a second on each loop; beyond it handshakes
	// get 503. Asking for a session that the store does not hold begins one too. 0: no limit.
	NewSessionRate int
}

// ForLoop implements App. The Handler is a Waker too: an application that wraps it passes Wake on, or sessions that are silent
// for the TTL are forgotten while they are connected.
func (n Count) ForLoop(post func(fn func()) bool) Handler {
	def(&n.SessionTTL, time.Hour)
	return &countLoop{store: n.Store.Join(post), touch: n.SessionTTL / 2, welcome: !n.NoWelcome, rate: n.NewSessionRate}
}

// countLoop is Count on one loop.
type countLoop struct {
	store   sessions.Loop
	touch   time.Duration
	welcome bool

	rate   int   // sessions that may begin in a second; 0 for no limit
	second int64 // the second that began counts in
	began  int
}

// mayBegin counts a session that begins, and reports whether it may.
func (l *countLoop) mayBegin() bool {
	if l.rate == 0 {
		return true
	}
	if second := time.Now().Unix(); second != l.second {
		l.second, l.began = second, 0
	}
	l.began++
	return l.began <= l.rate
}

// counter is one connection's part in a session: Conn.Data, and the Owner of its attachment. 32 bytes,
// held by every connection.
type counter struct {
	c          *Conn
	attachment sessions.Attachment // nil until Attached, and again when given back
	step       *countStep          // nil while messages flow
}

// countStep is what a counter needs at its beginning and at its end only.
type countStep struct {
	loop *countLoop    // until Attached
	id   sessions.ID   //
	code ws.StatusCode // leaving: the code to close with
}

// Open implements Handler: it finds or makes the session.
func (l *countLoop) Open(c *Conn, r *Request) {
	step := &countStep{loop: l}
	n := &counter{c: c, step: step}
	value, found, ok := queryValue(r.Query, "session_id")
	if found {
		var err error
		if step.id, err = sessions.ParseID(string(value)); err != nil || !ok {
			c.Refuse(RefuseSession)
			return
		}
	} else {
		step.id = sessions.NewID()
	}
	c.Data = n
	c.WakeAfter(l.touch)
	l.store.Attach(step.id, found, n)
}

// Attached implements sessions.Owner: the handshake can be answered.
func (n *counter) Attached(a sessions.Attachment, total uint64, resumed bool, err error) {
	c, step := n.c, n.step
	n.step = nil
	switch {
	case err != nil:
		if errors.Is(err, sessions.ErrFull) {
			c.Refuse(RefuseFull)
		} else {
			c.Refuse(RefuseUnavailable)
		}
		return
	case c.state != opening: // the client did not wait
		a.Detach(nil)
		return
	}
	if !resumed && !step.loop.mayBegin() {
		a.Detach(nil)
		c.Refuse(RefuseRate)
		return
	}
	n.attachment = a
	nested := c.w.begin(c)
	var header [64]byte
	h := append(header[:0], "X-Session-Id: "...)
	h = append(step.id.Append(h), "\r\n"...)
	c.Accept(string(h))
	if step.loop.welcome {
		var payload [128]byte
		p := append(payload[:0], `{"session_id":"`...)
		p = append(step.id.Append(p), `","count":`...)
		p = append(strconv.AppendUint(p, total, 10), `,"resumed":`...)
		p = append(strconv.AppendBool(p, resumed), '}')
		c.Send(ws.OpText, p)
	}
	c.w.end(c, nested)
}

// Message implements Handler.
func (l *countLoop) Message(c *Conn, _ ws.OpCode, _ []byte) {
	n := c.Data.(*counter)
	if total, ok := n.attachment.Add(); ok {
		n.reply(total)
	} else if n.attachment.Full() {
		c.PauseReading() // until Acknowledged
	}
}

func (n *counter) reply(total uint64) {
	var payload [32]byte
	p := append(payload[:0], `{"count":`...)
	p = append(strconv.AppendUint(p, total, 10), '}')
	n.c.Send(ws.OpText, p)
}

// Acknowledged implements sessions.Owner: the store has confirmed, and only now the client is told.
func (n *counter) Acknowledged(first, last uint64) {
	c := n.c
	if c.state == closed {
		return
	}
	nested := c.w.begin(c)
	for total := first; total <= last; total++ {
		n.reply(total)
	}
	if a := n.attachment; a != nil && (a.Pending() == 0 || !a.Full()) {
		c.ResumeReading()
	}
	c.w.end(c, nested)
}

// Leave implements Handler: the final commit comes before the bye, which is an acknowledgement too.
func (l *countLoop) Leave(c *Conn, code ws.StatusCode) {
	n := c.Data.(*counter)
	n.step = &countStep{code: code}
	a := n.attachment
	n.attachment = nil
	a.Detach(n)
}

// Detached implements sessions.Owner.
func (n *counter) Detached(total uint64, err error) {
	c := n.c
	if c.state == closed {
		return
	}
	var code ws.StatusCode
	if n.step != nil {
		code = n.step.code
	}
	if n.attachment != nil { // the store refuses this session; a later connection may find it mended
		n.attachment = nil
		code = 1013 // try again later
		if !errors.Is(err, sessions.ErrFull) {
			code = ws.StatusInternalServerError
		}
	}
	nested := c.w.begin(c)
	if err == nil {
		var payload [64]byte
		p := append(payload[:0], `{"bye":true,"total":`...)
		p = append(strconv.AppendUint(p, total, 10), '}')
		c.Send(ws.OpText, p)
	}
	c.Close(code, "")
	c.w.end(c, nested)
}

// Closed implements Handler.
func (l *countLoop) Closed(c *Conn) {
	if n, _ := c.Data.(*counter); n != nil && n.attachment != nil {
		n.attachment.Detach(nil)
		n.attachment = nil
	}
}

// Wake implements Waker: a session that is connected does not expire.
func (l *countLoop) Wake(c *Conn) {
	if n := c.Data.(*counter); n.attachment != nil {
		n.attachment.Touch()
		c.WakeAfter(l.touch)
	}
}
