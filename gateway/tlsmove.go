package gateway

import (
	"errors"
	"time"

	"github.com/tinylib/msgp/msgp"

	"sluice/gateway/tls13"
	"sluice/gateway/tlsserver"
)

// How TLS travels to another process. A connection of the compact record layer takes its secrets
// and sequence numbers along, and a part of a record. One whose handshake has not begun is made
// anew where it goes, of what has come of the ClientHello. A handshake under way is waited for, for
// as long as handshakeGrace. What goes on with crypto/tls cannot travel: its client connects anew.

// mover is a transport that can travel.
type mover interface {
	// canMove reports whether pack can be called now. One that cannot is asked again soon, for
	// handshakeGrace.
	canMove() bool
	// pack appends what another process needs to go on: at most packSize bytes. They may be secret.
	pack(c *Conn, b []byte) []byte
	packSize() int
}

// Kinds of transports, as their first byte.
const (
	packedHello   = 1 // no record is whole yet
	packedCompact = 2
)

// handshakeGrace is how long a Handover waits for TLS handshakes under way: a few round trips. More
// would have a flood of half handshakes hold up the clients that wait to be accepted.
const handshakeGrace = 500 * time.Millisecond

func (t *tlsHandshake) canMove() bool { return !t.begun() }

func (t *tlsHandshake) packSize() int { return 16 + len(t.in) }

func (t *tlsHandshake) pack(_ *Conn, b []byte) []byte {
	return msgp.AppendBytes(msgp.AppendInt(b, packedHello), t.in)
}

func (t *tlsCompactLayer) canMove() bool { return true }

func (t *tlsCompactLayer) packSize() int { return 32 + tls13.StateSize + len(t.in) }

func (t *tlsCompactLayer) pack(c *Conn, b []byte) []byte {
	b = msgp.AppendBytes(msgp.AppendInt(b, packedCompact), t.in)
	age := time.Duration(-1) // no record has come in part
	if since := c.rare.recordSince; since != 0 {
		age = c.w.loop.Now() - since
	}
	return t.layer.AppendState(msgp.AppendInt64(b, int64(age)))
}

// unpackTransport goes on with a transport of another process.
func (c *Conn) unpackTransport(state []byte) error {
	cfg := c.w.cfg.TLS
	if cfg == nil {
		return errors.New("gateway: the connection speaks TLS, which is off here")
	}
	u := unpacker{b: state}
	kind, in := u.int(), u.bytes()
	if u.err != nil || c.flags&layered != 0 || len(in) >= tlsserver.MaxRecord {
		return errPacked
	}
	switch kind {
	case packedHello:
		c.startTLS()
		if len(in) > 0 {
			c.tlsHandshake().in = c.w.loop.Buffers.Append(nil, in...)
		}
		if len(u.b) > 0 {
			return errPacked
		}
		return nil
	case packedCompact:
		if !cfg.Compact() {
			return errors.New("gateway: the connection has the compact record layer, which is off here")
		}
		return c.unpackCompact(&u, in)
	}
	return errPacked
}

func (c *Conn) unpackCompact(u *unpacker, in []byte) error {
	age := time.Duration(unpack(u, msgp.ReadInt64Bytes))
	layer, n, err := tls13.Restore(u.b)
	if u.err != nil || age > longest || err != nil || n != len(u.b) {
		return errPacked
	}
	t := &tlsCompactLayer{layer: layer}
	if len(in) > 0 {
		t.in = c.w.loop.Buffers.Append(nil, in...)
	}
	r := c.makeRare()
	r.transport = t
	if age >= 0 && len(in) > 0 {
		r.recordSince = c.w.loop.Now() - age
	}
	c.flags |= layered
	return nil
}
