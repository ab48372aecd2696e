package backend

import (
	"context"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
	"sluice/gateway/topics"
)

// App is the application: give it to gateway.New, best with Config.AnyPath, PingOnly and Yields,
// and after the gateway's Drain call Shutdown.
type App struct {
	cfg     Config
	routes  []route
	targets []*target
	loops   []*loop
	hub     *topics.Hub

	running atomic.Int64 // goroutines of requests
	adopted atomic.Bool  // there are connections of another process, whose ids number its loops
}

// New makes an App; no backend is contacted yet. hub has the topics that backends subscribe their
// clients to.
func New(cfg Config, hub *topics.Hub) (*App, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &App{cfg: cfg, hub: hub}
	byURL := make(map[string]*target)
	for _, r := range cfg.Routes {
		u, err := parseURL(r.URL)
		if err != nil {
			return nil, err
		}
		// Routes to one origin share its connections, its bounds and its breaker.
		t := byURL[u.Scheme+"://"+u.Host]
		if t == nil {
			t = newTarget(u, cfg)
			t.index = len(a.targets)
			a.targets = append(a.targets, t)
			byURL[t.name] = t
		}
		a.routes = append(a.routes, newRoute(r, u, t))
	}
	sortRoutes(a.routes)
	return a, nil
}

// ForLoop implements gateway.App.
func (a *App) ForLoop(post func(fn func()) bool) gateway.Handler {
	l := &loop{app: a, post: post, topics: a.hub.ForLoop(post), index: len(a.loops),
		sessions: make(map[connID]*session)}
	for _, t := range a.targets {
		l.lanes = append(l.lanes, &lane{loop: l, target: t})
	}
	a.loops = append(a.loops, l)
	return l
}

// Shutdown waits until the backends have been told of all connections that have ended, or until ctx
// is done, and lets go of their connections. Call it once, after the gateway has drained. It
// returns how many ends remained untold.
func (a *App) Shutdown(ctx context.Context) (untold int) {
	// What came back too late for a loop is in its sessions still.
	for _, l := range a.loops {
		for _, s := range l.sessions {
			s.orphaned()
		}
	}
	for ctx.Err() == nil && !a.idle() {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	untold = int(a.running.Load())
	for _, t := range a.targets {
		untold += t.goodbyes.close()
		t.transport.CloseIdleConnections()
	}
	return untold
}

func (a *App) idle() bool {
	if a.running.Load() != 0 {
		return false
	}
	for _, t := range a.targets {
		if !t.goodbyes.idle() {
			return false
		}
	}
	return true
}

// loop is the application on one loop.
type loop struct {
	app      *App
	post     func(fn func()) bool
	index    int
	topics   *topics.Loop
	lanes    []*lane
	sessions map[connID]*session // those that a request from elsewhere may name

	buffers [][]byte // for events; a request has its own until it is answered
}

// buffer is an empty buffer for events.
func (l *loop) buffer() []byte {
	if n := len(l.buffers); n > 0 {
		b := l.buffers[n-1]
		l.buffers = l.buffers[:n-1]
		return b
	}
	return make([]byte, 0, 256)
}

// recycle takes a buffer back, unless a large message has made it.
func (l *loop) recycle(b []byte) {
	if c := cap(b); c >= 256 && c <= 16<<10 && len(l.buffers) < 256 {
		l.buffers = append(l.buffers, b[:0])
	}
}

func (l *loop) forget(s *session) { delete(l.sessions, s.id) }

var (
	refusePath    = gateway.NewRefusal(http.StatusNotFound, "no such path", "")
	refuseBadPath = gateway.NewRefusal(http.StatusBadRequest,
		"a path with dot segments or escapes that are none", "")
	refuseUnreachable = gateway.NewRefusal(http.StatusBadGateway,
		"the service behind the gateway cannot be reached", "Retry-After: 1\r\n")
	refuseBroken = gateway.NewRefusal(http.StatusBadGateway,
		"the service behind the gateway has given no answer that can be used", "")
	refuseTimeout = gateway.NewRefusal(http.StatusGatewayTimeout,
		"the service behind the gateway has not answered in time", "Retry-After: 1\r\n")
	refuseBusy = gateway.NewRefusal(http.StatusServiceUnavailable,
		"too much waits for the service behind the gateway", "Retry-After: 5\r\n")
)

// Open implements gateway.Handler.
func (l *loop) Open(c *gateway.Conn, r *gateway.Request) {
	rt := matchRoute(l.app.routes, r.Path)
	switch {
	case rt == nil:
		c.Refuse(refusePath)
		return
	case badPath(string(r.Path)):
		c.Refuse(refuseBadPath)
		return
	case int(buffered.Load()) > l.app.cfg.MaxBuffered/4*3:
		c.Refuse(refuseBusy)
		return
	}
	s := &session{lane: l.lanes[rt.target.index], conn: c, id: newConnID(l.index),
		head: handshakeHead(c, r, rt)}
	c.Data = s
	l.sessions[s.id] = s
	s.ready()
}

// handshakeHead is what the requests of a connection repeat of its handshake.
func handshakeHead(c *gateway.Conn, r *gateway.Request, rt *route) head {
	lines := make([]string, 0, 32)
	var connection []string
	for name, value := range r.Headers {
		if strings.EqualFold(string(name), "Connection") {
			for _, token := range strings.Split(string(value), ",") {
				connection = append(connection, strings.TrimSpace(token))
			}
		}
	}
	for name, value := range r.Headers {
		if n := textproto.CanonicalMIMEHeaderKey(string(name)); passOn(n, connection) {
			lines = append(lines, n, string(value))
		}
	}
	scheme := "http"
	if c.TLS() {
		scheme = "https"
	}
	lines = append(lines, "Sec-Websocket-Extensions", "grip", "X-Forwarded-Proto", scheme)
	if address := c.RemoteAddr(); address.IsValid() {
		lines = append(lines, "X-Forwarded-For", address.Addr().String())
	}
	if user := c.User(); user != "" {
		lines = append(lines, "X-Forwarded-User", user)
	}
	if subject := c.Subject(); subject != "" {
		lines = append(lines, "X-Ssl-Client-Dn", subject)
	}
	if len(r.Host) > 0 {
		lines = append(lines, "X-Forwarded-Host", string(r.Host))
	}
	return newHead(rt.requestTarget(r.Path, r.Query), lines)
}

// Message implements gateway.Handler.
func (l *loop) Message(c *gateway.Conn, op ws.OpCode, payload []byte) {
	c.Data.(*session).message(op, payload)
}

// Leave implements gateway.Handler.
func (l *loop) Leave(c *gateway.Conn, code ws.StatusCode) {
	if code == ws.StatusAbnormalClosure {
		c.Close(code, "") // the client broke off: Closed tells the backend, with DISCONNECT
		return
	}
	_, reason := c.PeerClose()
	c.Data.(*session).leave(code, reason)
}

// Closed implements gateway.Handler.
func (l *loop) Closed(c *gateway.Conn) {
	if s, _ := c.Data.(*session); s != nil {
		l.topics.DropAll(c)
		code, _ := c.PeerClose()
		s.ended(code)
	}
}

// Wake implements gateway.Waker.
func (l *loop) Wake(c *gateway.Conn) { c.Data.(*session).wake(time.Now()) }
