package baseline

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// serveGorillaLean is gorilla tuned for memory: the goroutine that reads writes
// the reply itself, and heartbeats come from a timer instead of a goroutine.
func serveGorillaLean(s *service, ln net.Listener) error {
	up := gorillaUpgrader()
	return httpServer(s.mux(func(w http.ResponseWriter, r *http.Request, t *seat) {
		ws, err := up.Upgrade(w, r, http.Header{"X-Session-Id": {t.id.String()}})
		if err != nil { // Upgrade has answered
			t.leave(nil)
			return
		}
		c := &gorillaLean{seat: t, ws: ws}
		t.open(c)
		go c.serve()
	})).Serve(ln)
}

type gorillaLean struct {
	*seat
	ws *websocket.Conn
	mu sync.Mutex // one writer at a time, as the library asks
}

func (c *gorillaLean) serve() {
	defer func() {
		c.ws.Close()
		c.leave(c)
	}()
	c.ws.SetReadLimit(c.svc.MaxMessage)
	c.ws.SetPongHandler(func(string) error { return c.alive() })
	if c.alive() != nil {
		return
	}
	if w := c.welcome(); w != nil && c.write(websocket.TextMessage, w) != nil {
		return
	}
	defer c.svc.beatEvery(c.beat)()
	var buf []byte
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return
		}
		if c.svc.App == Echo {
			buf, err = readInto(r, buf)
		} else {
			_, err = io.Copy(io.Discard, r)
		}
		if err != nil {
			return
		}
		if c.svc.App == Echo {
			err = c.write(kind, buf)
		} else {
			err = c.write(websocket.TextMessage, c.count())
		}
		if err != nil {
			return
		}
	}
}

// alive gives the peer, reading and writing, another two and a half heartbeats.
func (c *gorillaLean) alive() error {
	if c.svc.Heartbeat < 0 {
		return nil
	}
	return c.ws.NetConn().SetDeadline(time.Now().Add(c.svc.patience()))
}

func (c *gorillaLean) beat() error {
	if c.svc.App == Count {
		if err := c.write(websocket.TextMessage, c.heartbeat()); err != nil {
			return err
		}
	}
	return c.write(websocket.PingMessage, nil)
}

func (c *gorillaLean) write(kind int, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ws.WriteMessage(kind, data)
}

func (c *gorillaLean) goAway() {
	c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""),
		time.Now().Add(time.Second))
	c.ws.Close()
}

// readInto reads r to its end into buf, which grows as bytes arrive and is used
// again for the next message.
func readInto(r io.Reader, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, make([]byte, 256)...)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}
