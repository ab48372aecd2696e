package backend

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gobwas/ws"
)

// One connection, by its Connection-Id, from outside of its loop.

var (
	errConnectionID = errors.New("not a Connection-Id (want the 36 characters of a UUID)")
	errNoConnection = errors.New("no such connection on this node")
	errMovesOn      = errors.New("this process is being replaced: ask again")
)

// onTimeout is how long loops may take to carry out what is for one connection.
const onTimeout = 5 * time.Second

// on runs fn on the loop of a session, and waits for it. It reports false when there is no such
// session, or when ctx ends before: then fn may still run.
func (a *App) on(ctx context.Context, id connID, fn func(s *session)) bool {
	if a == nil {
		return false
	}
	for {
		found := a.try(ctx, id, fn)
		if found != moving {
			return found == present
		}
		select { // one that is on its way to another process has arrived soon, or comes back
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// presence is whether a session is on a loop.
type presence uint8

const (
	absent presence = iota
	present
	moving
)

func (a *App) try(ctx context.Context, id connID, fn func(s *session)) presence {
	if n := id.loop(); n < len(a.loops) {
		if found := a.loops[n].on(ctx, id, fn); found != absent {
			return found
		}
	}
	if a.adopted.Load() {
		for _, l := range a.loops {
			if l.index == id.loop() {
				continue
			}
			if found := l.on(ctx, id, fn); found != absent {
				return found
			}
		}
	}
	return absent
}

func (l *loop) on(ctx context.Context, id connID, fn func(s *session)) presence {
	found := make(chan presence, 1)
	if !l.post(func() {
		s := l.sessions[id]
		switch {
		case s == nil || s.state == gone || s.state == opening:
			found <- absent
		case s.conn.Moving():
			found <- moving
		default:
			fn(s)
			found <- present
		}
	}) {
		return absent
	}
	select {
	case is := <-found:
		return is
	case <-ctx.Done():
		return absent
	}
}

// refreshNow has a request go out even if there is nothing to say.
func (s *session) refreshNow() {
	if s.state == open {
		s.refresh = true
		s.ready()
	}
}

// toConnection carries an item out on one connection, here or in the process that takes over.
func (c *Control) toConnection(ctx context.Context, it item) error {
	err := c.cfg.App.toConnection(ctx, it)
	if errors.Is(err, errNoConnection) && c.handoff.pass(it) {
		return nil // if it exists it is there
	}
	return err
}

func (a *App) toConnection(ctx context.Context, it item) error {
	id, ok := parseConnID(it.connection)
	if !ok {
		return errConnectionID
	}
	ctx, cancel := context.WithTimeout(ctx, onTimeout)
	defer cancel()
	if !a.on(ctx, id, func(s *session) { s.conn.Cork(func() { carryOutOn(s.conn, it) }) }) {
		return errNoConnection
	}
	return nil
}

// sendTo answers POST /connections/{id}/send.
func (c *Control) sendTo(w http.ResponseWriter, r *http.Request) {
	it, err := rawItem(r.URL.Query().Get("type"), bodyOf(r))
	if err != nil {
		c.fail(w, http.StatusBadRequest, err)
		return
	}
	it.connection = r.PathValue("id")
	c.oneConnection(w, r, it)
}

// closeOne answers POST /connections/{id}/close.
func (c *Control) closeOne(w http.ResponseWriter, r *http.Request) {
	it := item{connection: r.PathValue("id"), action: publishClose, code: ws.StatusNormalClosure,
		reason: r.URL.Query().Get("reason")}
	if text := r.URL.Query().Get("code"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if it.code = ws.StatusCode(n); err != nil || !sendable(it.code) {
			c.fail(w, http.StatusBadRequest, errors.New("not a code that a Close frame can have"))
			return
		}
	}
	c.oneConnection(w, r, it)
}

func (c *Control) oneConnection(w http.ResponseWriter, r *http.Request, it item) {
	if !c.limit(w, 1) {
		return
	}
	if err := c.toConnection(r.Context(), it); err != nil {
		c.fail(w, statusOf(err), err)
		return
	}
	one := 1
	c.answer(w, http.StatusOK, controlAnswer{Message: "Sent", Subscribers: &one})
}

// connectionInfo is what GET /connections/{id} tells.
type connectionInfo struct {
	Connection string   `json:"connection"`
	State      string   `json:"state"`
	Address    string   `json:"address"`
	Target     string   `json:"target"` // path and query of the handshake
	Requests   uint32   `json:"requests"`
	InFlight   bool     `json:"in_flight"`
	Pending    int      `json:"pending_bytes"`
	Topics     []string `json:"topics"`
}

var stateNames = [...]string{opening: "opening", open: "open", leaving: "leaving",
	detached: "detached", closing: "closing", gone: "gone"}

// connection answers GET /connections/{id}.
func (c *Control) connection(w http.ResponseWriter, r *http.Request) {
	id, ok := parseConnID(r.PathValue("id"))
	if !ok {
		c.fail(w, http.StatusBadRequest, errConnectionID)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), onTimeout)
	defer cancel()
	found := make(chan connectionInfo, 1)
	if !c.cfg.App.on(ctx, id, func(s *session) {
		found <- connectionInfo{Connection: id.String(), State: stateNames[s.state],
			Address: s.conn.RemoteAddr().String(), Target: s.head.target(),
			Requests: s.requests, InFlight: s.inFlight, Pending: len(s.pending), Topics: s.topics()}
	}) {
		if c.handoff.giving.Load() != nil { // it may have gone to the other process
			c.fail(w, http.StatusServiceUnavailable, errMovesOn)
			return
		}
		c.fail(w, http.StatusNotFound, errNoConnection)
		return
	}
	controlRequests["ok"].Inc()
	c.write(w, http.StatusOK, <-found)
}
