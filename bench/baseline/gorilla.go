package baseline

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// serveGorilla is the library's chat example: a pump that reads, a pump that
// writes, and a channel in between.
func serveGorilla(s *service, ln net.Listener) error {
	up := gorillaUpgrader()
	return httpServer(s.mux(func(w http.ResponseWriter, r *http.Request, t *slot) {
		ws, err := up.Upgrade(w, r, http.Header{"X-Session-Id": {t.id.String()}})
		if err != nil { // Upgrade has answered
			t.leave(nil)
			return
		}
		c := &gorillaConn{slot: t, ws: ws, send: make(chan gorillaFrame, 8), gone: make(chan struct{})}
		t.open(c)
		go c.writePump()
		go c.readPump()
	})).Serve(ln)
}

func gorillaUpgrader() *websocket.Upgrader {
	return &websocket.Upgrader{
		HandshakeTimeout: 5 * time.Second,
		ReadBufferSize:   1024,
		WriteBufferSize:  1024,
		WriteBufferPool:  new(sync.Pool),
		CheckOrigin:      func(*http.Request) bool { return true },
	}
}

type gorillaFrame struct {
	kind int
	data []byte
}

type gorillaConn struct {
	*slot
	ws   *websocket.Conn
	send chan gorillaFrame // from readPump and goAway to writePump
	gone chan struct{}     // closed when readPump ends
	away sync.Once
}

const writeWait = 10 * time.Second // as long as Sluice bears a peer that reads nothing

func (c *gorillaConn) readPump() {
	defer func() {
		close(c.gone)
		c.ws.Close()
		c.leave(c)
	}()
	c.ws.SetReadLimit(c.svc.MaxMessage)
	if c.svc.Heartbeat > 0 {
		c.ws.SetReadDeadline(time.Now().Add(c.svc.patience()))
		c.ws.SetPongHandler(func(string) error {
			return c.ws.SetReadDeadline(time.Now().Add(c.svc.patience()))
		})
	}
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return
		}
		f := gorillaFrame{kind: kind}
		if c.svc.App == Echo {
			f.data, err = io.ReadAll(r)
		} else if _, err = io.Copy(io.Discard, r); err == nil {
			// The other pump writes it while this one goes on: it needs bytes of its own.
			f = gorillaFrame{websocket.TextMessage, append([]byte(nil), c.count()...)}
		}
		if err != nil {
			return
		}
		select {
		case c.send <- f:
		case <-c.gone:
			return
		}
	}
}

func (c *gorillaConn) writePump() {
	defer c.ws.Close()
	if w := c.welcome(); w != nil && c.write(gorillaFrame{websocket.TextMessage, w}) != nil {
		return
	}
	beat := new(time.Timer) // its nil channel never fires: heartbeats are off
	if c.svc.Heartbeat > 0 {
		beat = time.NewTimer(c.svc.firstBeat())
		defer beat.Stop()
	}
	for {
		select {
		case f := <-c.send:
			if c.write(f) != nil || f.kind == websocket.CloseMessage {
				return
			}
		case <-beat.C:
			beat.Reset(c.svc.Heartbeat)
			if c.svc.App == Count && c.write(gorillaFrame{websocket.TextMessage, c.heartbeat()}) != nil {
				return
			}
			if c.write(gorillaFrame{kind: websocket.PingMessage}) != nil {
				return
			}
		case <-c.gone:
			return
		}
	}
}

func (c *gorillaConn) write(f gorillaFrame) error {
	c.ws.SetWriteDeadline(time.Now().Add(writeWait))
	return c.ws.WriteMessage(f.kind, f.data)
}

func (c *gorillaConn) goAway() {
	c.away.Do(func() {
		bye := gorillaFrame{websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, "")}
		select {
		case c.send <- bye:
		case <-c.gone:
		case <-time.After(time.Second): // a peer that reads nothing is cut without a goodbye
			c.ws.Close()
		}
	})
}
