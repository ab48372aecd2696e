package topics

import (
	"encoding/binary"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// What the package asks of a connection is in this file.

// frame is one message, encoded once for all that it is sent to.
type frame struct {
	op      ws.OpCode
	payload []byte
}

func encode(m Message) *message {
	return &message{frame: frame{m.Op, append([]byte(nil), m.Payload...)}}
}

func (f *frame) size() int { return len(f.payload) }

// sendTo sends f to c, which has room for it.
func (f *frame) sendTo(c *gateway.Conn) error {
	if f.op == ws.OpClose {
		code, reason := ws.StatusNoStatusRcvd, ""
		if len(f.payload) >= 2 {
			code, reason = ws.StatusCode(binary.BigEndian.Uint16(f.payload)), string(f.payload[2:])
		}
		c.Close(code, reason)
		return nil
	}
	return c.Send(f.op, f.payload)
}

func gone(*gateway.Conn) bool { return false }

// congested reports whether something waits for c's socket already.
func congested(*gateway.Conn) bool { return false }

// cork has what fn sends to c leave in one write.
func cork(_ *gateway.Conn, fn func()) { fn() }

// whenDrained has l.catchUp(c) called once nothing waits for c's socket any more.
func whenDrained(*gateway.Conn, *Loop) {}

func sendText(c *gateway.Conn, text []byte) error { return c.Send(ws.OpText, text) }

// closeSlow ends a slow subscriber's connection: 1013 says that it may come back, and recover.
func closeSlow(c *gateway.Conn) {
	const tryAgainLater = 1013
	c.Close(tryAgainLater, "slow consumer: reconnect and recover")
}
