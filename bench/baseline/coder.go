package baseline

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/coder/websocket"
)

// serveCoder is coder/websocket with one goroutine for each connection; the
// library serialises writers itself, so a heartbeat needs no lock.
func serveCoder(s *service, ln net.Listener) error {
	return httpServer(s.mux(func(w http.ResponseWriter, r *http.Request, t *slot) {
		w.Header().Set("X-Session-Id", t.id.String())
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil { // Accept has answered
			t.leave(nil)
			return
		}
		c := &coderConn{slot: t, ws: ws}
		t.open(c)
		go c.serve()
	})).Serve(ln)
}

type coderConn struct {
	*slot
	ws *websocket.Conn
}

func (c *coderConn) serve() {
	defer func() {
		c.ws.CloseNow()
		c.leave(c)
	}()
	ctx := context.Background()
	c.ws.SetReadLimit(c.svc.MaxMessage)
	if w := c.welcome(); w != nil && c.ws.Write(ctx, websocket.MessageText, w) != nil {
		return
	}
	defer c.svc.beatEvery(c.beat)()
	var buf []byte
	for {
		kind, r, err := c.ws.Reader(ctx)
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
			err = c.ws.Write(ctx, kind, buf)
		} else {
			err = c.ws.Write(ctx, websocket.MessageText, c.count())
		}
		if err != nil {
			return
		}
	}
}

// beat waits for the pong, which is how this library says that a peer is gone.
func (c *coderConn) beat() error {
	ctx, cancel := context.WithTimeout(context.Background(), c.svc.Heartbeat*3/2)
	defer cancel()
	var err error
	if c.svc.App == Count {
		err = c.ws.Write(ctx, websocket.MessageText, c.heartbeat())
	}
	if err == nil {
		err = c.ws.Ping(ctx)
	}
	if err != nil {
		c.ws.CloseNow()
	}
	return err
}

func (c *coderConn) goAway() { c.ws.Close(websocket.StatusGoingAway, "") }

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
