package baseline

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/lxzan/gws"
)

// serveGWS is gws on a bare listener, as its own Server does it, with a read
// buffer of 1 KiB. The library has no headers for one answer alone, so
// X-Session-Id is left out; the welcome frame says the same.
func serveGWS(s *service, ln net.Listener) error {
	up := gws.NewUpgrader(gwsEvents{}, &gws.ServerOption{
		ReadBufferSize:     1024,
		ReadMaxPayloadSize: int(s.MaxMessage),
		CheckUtf8Enabled:   true,
		HandshakeTimeout:   5 * time.Second,
		NewSession:         func() gws.SessionStorage { return new(gwsSeat) },
	})
	return acceptEach(ln, func(nc net.Conn) {
		t, ok := gwsUpgrade(s, up, nc)
		if !ok {
			nc.Close()
			return
		}
		go t.ws.ReadLoop() // on a fresh stack: the handshake has grown this one
	})
}

func gwsUpgrade(s *service, up *gws.Upgrader, nc net.Conn) (*gwsSeat, bool) {
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	br := bufio.NewReaderSize(nc, 1024)
	r, err := http.ReadRequest(br)
	if err != nil {
		return nil, false
	}
	if !isChat(r.URL.Path) {
		s.answerPlain(nc, r.URL.Path)
		return nil, false
	}
	t, ok := s.enter(r.URL.Query().Get("session_id"))
	if !ok {
		fmt.Fprintf(nc, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			len(errBadSession), errBadSession)
		return nil, false
	}
	ws, err := up.UpgradeFromConn(nc, br, r)
	nc.SetDeadline(time.Time{})
	if err != nil { // it has answered
		t.leave(nil)
		return nil, false
	}
	c := ws.Session().(*gwsSeat)
	c.slot, c.ws = t, ws
	t.open(c)
	return c, true
}

// answerPlain is the HTTP side on a bare connection.
func (s *service) answerPlain(nc net.Conn, path string) {
	status, body := "200 OK", []byte("ok\n")
	switch path {
	case "/healthz":
	case "/stats":
		body = s.stats()
	default:
		status, body = "404 Not Found", []byte("not found\n")
	}
	fmt.Fprintf(nc, "HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

// gwsSeat is the connection's session storage and nothing but the slot: the
// default one is a map with a lock for each connection.
type gwsSeat struct {
	*slot
	ws   *gws.Conn
	stop func()
}

func (*gwsSeat) Len() int                     { return 0 }
func (*gwsSeat) Load(string) (any, bool)      { return nil, false }
func (*gwsSeat) Delete(string)                {}
func (*gwsSeat) Store(string, any)            {}
func (*gwsSeat) Range(func(string, any) bool) {}

// alive gives the peer, reading and writing, another two and a half heartbeats.
func (c *gwsSeat) alive() {
	if c.svc.Heartbeat > 0 {
		c.ws.SetDeadline(time.Now().Add(c.svc.patience()))
	}
}

func (c *gwsSeat) beat() error {
	if c.svc.App == Count {
		if err := c.ws.WriteMessage(gws.OpcodeText, c.heartbeat()); err != nil {
			return err
		}
	}
	return c.ws.WritePing(nil)
}

func (c *gwsSeat) goAway() { c.ws.WriteClose(1001, nil) }

type gwsEvents struct{ gws.BuiltinEventHandler }

func (gwsEvents) OnOpen(ws *gws.Conn) {
	c := ws.Session().(*gwsSeat)
	c.alive()
	if w := c.welcome(); w != nil {
		ws.WriteMessage(gws.OpcodeText, w)
	}
	c.stop = c.svc.beatEvery(c.beat)
}

func (gwsEvents) OnClose(ws *gws.Conn, _ error) {
	c := ws.Session().(*gwsSeat)
	c.stop()
	c.leave(c)
}

func (gwsEvents) OnPing(ws *gws.Conn, payload []byte) { ws.WritePong(payload) }

func (gwsEvents) OnPong(ws *gws.Conn, _ []byte) { ws.Session().(*gwsSeat).alive() }

func (gwsEvents) OnMessage(ws *gws.Conn, m *gws.Message) {
	defer m.Close()
	c := ws.Session().(*gwsSeat)
	if c.svc.App == Echo {
		ws.WriteMessage(m.Opcode, m.Bytes())
		return
	}
	ws.WriteMessage(gws.OpcodeText, c.count())
}
