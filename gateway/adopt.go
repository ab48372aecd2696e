package gateway

import (
	"errors"

	"golang.org/x/sys/unix"

	"sluice/poller"
)

// Adopted is a number of connections that another process has packed, before they are served here.
// Commit or Discard is called, once.
type Adopted struct {
	// Refused are the indexes of those that could not be taken over, and go on where they are.
	Refused []int

	parts []adoptedPart
}

type adoptedPart struct {
	w     *worker
	conns []*Conn
}

// Adopt takes connections over that another process has packed, and spreads them over the loops. It
// owns the descriptors, which are in the table of the process. The Server must run; it need not
// accept yet. Any goroutine but a loop's.
func (s *Server) Adopt(fds []int, states [][]byte) *Adopted {
	a := new(Adopted)
	// Small parts, so that the connections of a small process do not all go to one loop. But
	// each costs two rounds of a loop, and where there are many it is as even without.
	share := len(fds)
	if s.conns.Load() < int64(poller.MaxCopy*len(s.workers)) {
		const least = 32
		share = max((len(fds)+len(s.workers)-1)/len(s.workers), least)
	}
	for at := 0; at < len(fds); {
		w, n := s.reserve(min(share, len(fds)-at))
		if n == 0 { // no room: these stay where they are
			for ; at < len(fds); at++ {
				_ = unix.Close(fds[at])
				a.Refused = append(a.Refused, at)
			}
			break
		}
		conns, refused := w.adoptAll(fds[at:at+n], states[at:at+n])
		for _, i := range refused {
			a.Refused = append(a.Refused, at+i)
		}
		a.parts = append(a.parts, adoptedPart{w, conns})
		at += n
	}
	return a
}

// Commit says that the other process has let go of the connections: they are served from now on.
func (a *Adopted) Commit() { a.each((*Conn).arriveFromElsewhere) }

// Discard says that the other process goes on with them.
func (a *Adopted) Discard() {
	a.each(func(c *Conn) {
		if c.flags&handled != 0 {
			c.w.handler.(Mover).Unmoved(c)
		}
		c.forget(0)
	})
}

func (a *Adopted) each(do func(c *Conn)) {
	for _, p := range a.parts {
		p.w.loop.Do(func() {
			for _, c := range p.conns {
				if c.state != closed {
					do(c)
				}
			}
		})
	}
}

// adoptAll brings descriptors, which have a place here, into the loop's table, and makes
// connections of them.
func (w *worker) adoptAll(fds []int, states [][]byte) (conns []*Conn, refused []int) {
	err := poller.GiveFDs(w.loop, fds, func(copies []int) {
		for i, fd := range copies {
			if c, err := w.adopt(fd, states[i]); err == nil {
				conns = append(conns, c)
			} else {
				refused = append(refused, i)
				w.log.Warn("a connection of the old process is refused", "error", err)
			}
		}
	})
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	if err != nil {
		w.log.Error("connections of the old process are refused", "error", err)
		w.held.Add(-int64(len(states)))
		refused = refused[:0]
		for i := range states {
			refused = append(refused, i)
		}
	}
	return conns, refused
}

// adopt makes a connection of another process' descriptor and state. It is frozen until Commit. On
// an error the descriptor is closed.
func (w *worker) adopt(sysfd int, state []byte) (c *Conn, err error) {
	c = &Conn{w: w}
	w.server.coming.Add(-1)
	if w.server.conns.Add(1) > int64(w.cfg.MaxConns) {
		w.uncount()
		_ = unix.Close(sysfd)
		return nil, errFull
	}
	if err = w.loop.Register(&c.fd, sysfd, (*events)(c)); err != nil {
		w.uncount()
		_ = unix.Close(sysfd)
		return nil, err
	}
	c.timer.Init((*events)(c))
	c.index = int32(len(w.conns))
	w.conns = append(w.conns, c)
	c.flags = travels
	err = c.fd.Detach()
	var handler []byte
	if err == nil {
		handler, err = c.unpack(state)
	}
	if err == nil && c.flags&handled != 0 {
		if m, ok := w.handler.(Mover); ok {
			err = m.Unpack(c, handler)
		} else {
			err = errors.New("gateway: the application cannot take connections over")
		}
	}
	if err != nil {
		c.flags &^= handled | accepted
		c.forget(0)
		return nil, err
	}
	return c, nil
}

// arriveFromElsewhere begins to serve an adopted connection.
func (c *Conn) arriveFromElsewhere() {
	w := c.w
	if c.flags&accepted != 0 {
		w.metrics.connections.Add(1)
	}
	w.metrics.movedIn.Inc()
	c.recount()
	c.flags &^= travels
	if c.state == open {
		if c.beatAt == 0 {
			c.startHeartbeat()
		} else if w.cfg.Heartbeat <= 0 {
			c.beatAt = 0
		}
	}
	c.deadline = 0
	if c.state == handshaking {
		c.deadline = w.loop.Now() + w.cfg.HandshakeTimeout
	}
	c.fd.Attach()
	if c.out != nil {
		c.out.since, c.out.acked = w.loop.Now(), c.fd.Acked()
		c.writable()
	}
	c.rearm()
	c.interest()
	if c.in != nil {
		c.resumeLater()
	}
}
