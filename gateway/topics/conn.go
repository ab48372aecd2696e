package topics

import (
	"encoding/binary"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// What the package asks of a connection is in this file.

// sendTo sends m to c, which has room for it.
func (m *message) sendTo(c *gateway.Conn) error {
	if m.op != ws.OpClose {
		return c.SendFrame(m.frame)
	}
	code, reason := ws.StatusNoStatusRcvd, ""
	if len(m.close) >= 2 {
		code, reason = ws.StatusCode(binary.BigEndian.Uint16(m.close)), string(m.close[2:])
	}
	c.Close(code, reason)
	return nil
}

// congested reports whether something waits for c's socket already.
func congested(c *gateway.Conn) bool { return c.Queued() > 0 }

// closeSlow ends a slow subscriber's connection: 1013 says that it may come back, and recover.
func closeSlow(c *gateway.Conn) {
	const tryAgainLater = 1013
	c.Close(tryAgainLater, "slow consumer: reconnect and recover")
}
