package gateway

import "github.com/gobwas/ws"

// App is an application to put behind a gateway.
type App interface {
	// ForLoop returns the Handler for one loop. post is that loop's way in: it runs fn on the loop,
	// and reports false when the loop has ended. Called once for each loop, before it runs.
	ForLoop(post func(fn func()) bool) Handler
}

// Handler is an application on one loop. All its methods are called on the loop of the connection
// and must not block: one that waits keeps thousands of other connections waiting. To do something
// slow, hand it to another goroutine and come back with Conn.Post.
//
// It is made by an App, one for each loop, so that what it keeps needs no lock.
type Handler interface {
	// Open is called with a complete and valid upgrade request. The Handler answers it with
	// c.Accept or c.Refuse, at once or within Config.HandshakeTimeout; until then nothing is read
	// from the client. r dies when Open returns.
	Open(c *Conn, r *Request)

	// Message is called with each data message, whole, unmasked and, if it is text, valid UTF-8.
	// payload dies when Message returns, and may be changed until then.
	Message(c *Conn, op ws.OpCode, payload []byte)

	// Leave is called once when an accepted connection is about to end in order: the client has
	// sent Close with this code (1005 when it gave none), it has ended its side of the stream
	// without one (1006; it may still read), or the gateway is draining (1001). The Handler says
	// its last words with c.Send and then calls c.Close, at once or within Config.CloseTimeout.
	Leave(c *Conn, code ws.StatusCode)

	// Closed is called exactly once for each connection that Open was called for, when the
	// transport is gone, however it ended. No other call comes after it.
	Closed(c *Conn)
}

// Waker is implemented by a Handler that uses Conn.WakeAfter.
type Waker interface {
	// Wake is called when the time given to c.WakeAfter has passed.
	Wake(c *Conn)
}

// Echo is an App that sends every message back as it came.
type Echo struct{}

// ForLoop implements App.
func (e Echo) ForLoop(func(fn func()) bool) Handler { return e }

// Open implements Handler.
func (Echo) Open(c *Conn, _ *Request) { c.Accept("") }

// Message implements Handler.
func (Echo) Message(c *Conn, op ws.OpCode, payload []byte) { c.Send(op, payload) }

// Leave implements Handler.
func (Echo) Leave(c *Conn, code ws.StatusCode) { c.Close(code, "") }

// Closed implements Handler.
func (Echo) Closed(*Conn) {}

// CanMove implements Mover: an Echo knows nothing of a connection.
func (Echo) CanMove(*Conn, bool) bool { return true }

// Pack implements Mover.
func (Echo) Pack(_ *Conn, b []byte) []byte { return b }

// Moved implements Mover.
func (Echo) Moved(*Conn) {}

// Unpack implements Mover.
func (Echo) Unpack(*Conn, []byte) error { return nil }

// Unmoved implements Mover.
func (Echo) Unmoved(*Conn) {}
