package count

import "sluice/gateway"

var _ gateway.Mover = (*loop)(nil)

// CanMove implements gateway.Mover: what was not acknowledged must be first.
func (l *loop) CanMove(c *gateway.Conn, last bool) bool {
	n, _ := c.Data.(*client)
	return n != nil && n.attachment != nil && n.attachment.CanMove(last)
}

// Pack implements gateway.Mover.
func (l *loop) Pack(c *gateway.Conn, b []byte) []byte {
	return c.Data.(*client).attachment.Pack(b)
}

// Moved implements gateway.Mover.
func (l *loop) Moved(c *gateway.Conn) {
	n := c.Data.(*client)
	n.attachment.Moved()
	n.attachment = nil
}

// Unmoved implements gateway.Mover.
func (l *loop) Unmoved(c *gateway.Conn) { l.Moved(c) }

// Unpack implements gateway.Mover.
func (l *loop) Unpack(c *gateway.Conn, state []byte) error {
	n := &client{c: c}
	a, err := l.store.Unpack(state, n)
	if err != nil {
		return err
	}
	n.attachment = a
	c.Data = n
	c.WakeAfter(l.touch)
	return nil
}
