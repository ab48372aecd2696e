package baseline

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
)

// client is one connection made by a library other than the server's.
type client interface {
	header() http.Header
	write(text string)
	read() (string, error)
	pings() int
	close(code int) (answer int)
	drop()
}

func dial(t *testing.T, server, addr, session string) client {
	t.Helper()
	url := "ws://" + addr + "/ws/chat/"
	if session != "" {
		url += "?session_id=" + session
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	if server == "coder" {
		ws, r, err := gorilla.DefaultDialer.DialContext(ctx, url, nil)
		if err != nil {
			t.Fatalf("dial %s: %v", url, err)
		}
		c := &gorillaClient{t: t, ws: ws, h: r.Header}
		ws.SetReadDeadline(time.Now().Add(deadline))
		answer := ws.PingHandler()
		ws.SetPingHandler(func(data string) error { c.n++; return answer(data) })
		t.Cleanup(func() { ws.Close() })
		return c
	}
	c := &coderClient{t: t, ctx: ctx}
	// A transport of its own: idle connections would look like leaks.
	transport := &http.Transport{DisableKeepAlives: true}
	ws, r, err := coder.Dial(ctx, url, &coder.DialOptions{
		HTTPClient:     &http.Client{Transport: transport},
		OnPingReceived: func(context.Context, []byte) bool { c.n.Add(1); return true },
	})
	if err != nil {
		t.Fatalf("dial %s: %v", url, err)
	}
	c.ws, c.h = ws, r.Header
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { ws.CloseNow() })
	return c
}

func closeCode(err error) int {
	var g *gorilla.CloseError
	if errors.As(err, &g) {
		return g.Code
	}
	return int(coder.CloseStatus(err))
}

type gorillaClient struct {
	t  *testing.T
	ws *gorilla.Conn
	h  http.Header
	n  int // pings; written and read by the reading goroutine
}

func (c *gorillaClient) header() http.Header { return c.h }
func (c *gorillaClient) pings() int          { return c.n }
func (c *gorillaClient) drop()               { c.ws.Close() }

func (c *gorillaClient) write(text string) {
	if err := c.ws.WriteMessage(gorilla.TextMessage, []byte(text)); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

func (c *gorillaClient) read() (string, error) {
	_, b, err := c.ws.ReadMessage()
	return string(b), err
}

func (c *gorillaClient) close(code int) int {
	c.ws.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, ""), time.Now().Add(deadline))
	for {
		if _, err := c.read(); err != nil {
			return closeCode(err)
		}
	}
}

type coderClient struct {
	t   *testing.T
	ctx context.Context
	ws  *coder.Conn
	h   http.Header
	n   atomic.Int64
}

func (c *coderClient) header() http.Header { return c.h }
func (c *coderClient) pings() int          { return int(c.n.Load()) }
func (c *coderClient) drop()               { c.ws.CloseNow() }

func (c *coderClient) write(text string) {
	if err := c.ws.Write(c.ctx, coder.MessageText, []byte(text)); err != nil {
		c.t.Errorf("write: %v", err)
	}
}

func (c *coderClient) read() (string, error) {
	_, b, err := c.ws.Read(c.ctx)
	return string(b), err
}

func (c *coderClient) close(code int) int {
	err := c.ws.Close(coder.StatusCode(code), "")
	if err == nil {
		return code
	}
	return closeCode(err)
}
