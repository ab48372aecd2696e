package gateway

// Mover is implemented by a Handler whose connections can go on in another process when this one is
// replaced. Connections of a Handler that is no Mover are drained, as at any other end. All calls
// are on the connection's loop.
type Mover interface {
	// CanMove reports whether c can leave now. One that cannot is asked again soon, for some
	// seconds. last says that no connection of this process is served any more, so that what
	// connections share stands still and can be packed with each of them.
	CanMove(c *Conn, last bool) bool

	// Pack appends what the Handler knows of c to b. It changes nothing, for c may have to stay.
	// Between Pack and Moved, or the next call of another method, c is not served.
	Pack(c *Conn, b []byte) []byte

	// Moved says that c goes on in the other process. It takes the place of Closed: what is
	// undone is this process' part only.
	Moved(c *Conn)

	// Unpack takes the place of Open for a connection that comes from another process. What it
	// sends leaves when that process has let go of c. state dies when Unpack returns. On an error
	// the connection stays where it is; neither Closed nor Moved is called for it here.
	Unpack(c *Conn, state []byte) error

	// Unmoved says that a connection that Unpack has taken does not come after all: the other
	// process goes on with it. It takes the place of Closed.
	Unmoved(c *Conn)
}
