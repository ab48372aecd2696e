package gateway

// transport is what lies between a connection's socket and its frames when the two do not carry the
// same bytes: TLS. A connection without one (the flag layered) reads and writes its socket as it
// is. All calls are on the connection's loop.
//
// The states know nothing of it. A handshake of the transport's own is part of the state
// handshaking, whose deadline is for both.
type transport interface {
	// open takes bytes that came from the socket, which die when it returns, and calls c.process
	// (or c.processWith for bytes outside of the loop's read buffer) with what they carry, any
	// number of times. It keeps what is incomplete, bounded by one record. It may end c.
	open(c *Conn, b []byte)

	// seal appends to dst what stands for b on the wire.
	seal(c *Conn, dst, b []byte) []byte

	// finish appends what the transport says before FIN.
	finish(c *Conn, dst []byte) []byte

	// held is how many bytes of the loop's Buffers it holds.
	held() int

	// release lets go of everything; it is called once, when c ends.
	release(c *Conn)
}
