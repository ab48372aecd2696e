package baseline

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// serveGobwas is gobwas/ws as its README shows it: a bare listener, the
// zero-copy upgrade, a goroutine for each connection and wsutil's Reader.
func serveGobwas(s *service, ln net.Listener) error {
	return acceptEach(ln, func(nc net.Conn) {
		if t := gobwasUpgrade(s, nc); t != nil {
			c := &gobwasConn{slot: t, nc: nc}
			t.open(c)
			go c.serve() // on a fresh stack: the handshake has grown this one
			return
		}
		nc.Close()
	})
}

// acceptEach runs handle in a goroutine for each connection until ln is closed.
func acceptEach(ln net.Listener, handle func(net.Conn)) error {
	for {
		nc, err := ln.Accept()
		if err == nil {
			go handle(nc)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		// Out of descriptors, most likely: wait for some to come back, as net/http does.
		time.Sleep(5 * time.Millisecond)
	}
}

// gobwasUpgrade returns nil when the request was answered otherwise.
func gobwasUpgrade(s *service, nc net.Conn) *slot {
	var t *slot
	up := ws.Upgrader{
		OnRequest: func(uri []byte) (err error) {
			t, err = s.route(string(uri))
			return err
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			return ws.HandshakeHeaderHTTP(http.Header{"X-Session-Id": {t.id.String()}}), nil
		},
	}
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	_, err := up.Upgrade(nc)
	nc.SetDeadline(time.Time{})
	if err != nil && t != nil {
		t.leave(nil)
		return nil
	}
	return t
}

// route finds the slot that uri asks for. Plain requests are answered by
// rejecting the upgrade with the answer, which is this library's way to say
// anything but 101.
func (s *service) route(uri string) (*slot, error) {
	answer := func(status int, body string) error {
		return ws.RejectConnectionError(ws.RejectionStatus(status), ws.RejectionReason(body))
	}
	path, raw, _ := strings.Cut(uri, "?")
	switch {
	case isChat(path):
	case path == "/healthz":
		return nil, answer(http.StatusOK, "ok\n")
	case path == "/stats":
		return nil, answer(http.StatusOK, string(s.stats()))
	default:
		return nil, answer(http.StatusNotFound, "not found\n")
	}
	query := ""
	if raw != "" {
		values, err := url.ParseQuery(raw)
		if err != nil {
			return nil, answer(http.StatusBadRequest, "bad query\n")
		}
		query = values.Get("session_id")
	}
	t, ok := s.enter(query)
	if !ok {
		return nil, answer(http.StatusBadRequest, errBadSession)
	}
	return t, nil
}

type gobwasConn struct {
	*slot
	nc net.Conn
	mu sync.Mutex // frames must not be mixed
}

// Write makes wsutil's control replies (pong, close) take the lock too.
func (c *gobwasConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nc.Write(p)
}

func (c *gobwasConn) serve() {
	defer func() {
		c.nc.Close()
		c.leave(c)
	}()
	if c.alive() != nil {
		return
	}
	if w := c.welcome(); w != nil && c.send(ws.OpText, w) != nil {
		return
	}
	defer c.svc.beatEvery(c.beat)()
	control := wsutil.ControlFrameHandler(c, ws.StateServerSide)
	onControl := func(h ws.Header, r io.Reader) error {
		if h.OpCode == ws.OpPong && c.alive() != nil {
			return net.ErrClosed
		}
		return control(h, r)
	}
	rd := &wsutil.Reader{
		Source:         bufio.NewReaderSize(c.nc, 512),
		State:          ws.StateServerSide,
		CheckUTF8:      true,
		MaxMessageSize: c.svc.MaxMessage,
		OnIntermediate: onControl,
	}
	c.messages(rd, onControl)
}

func (c *gobwasConn) messages(rd *wsutil.Reader, onControl wsutil.FrameHandlerFunc) {
	var buf []byte
	for {
		h, err := rd.NextFrame()
		if err != nil {
			return
		}
		if h.OpCode.IsControl() {
			if onControl(h, rd) != nil {
				return
			}
			continue
		}
		if c.svc.App == Echo {
			if buf, err = readInto(rd, buf); err == nil {
				err = c.send(h.OpCode, buf)
			}
		} else if _, err = io.Copy(io.Discard, rd); err == nil {
			err = c.send(ws.OpText, c.count())
		}
		if err != nil {
			return
		}
	}
}

// alive gives the peer, reading and writing, another two and a half heartbeats.
func (c *gobwasConn) alive() error {
	if c.svc.Heartbeat < 0 {
		return nil
	}
	return c.nc.SetDeadline(time.Now().Add(c.svc.patience()))
}

func (c *gobwasConn) beat() error {
	if c.svc.App == Count {
		if err := c.send(ws.OpText, c.heartbeat()); err != nil {
			return err
		}
	}
	return c.send(ws.OpPing, nil)
}

var frameBuffers = sync.Pool{New: func() any { return new([]byte) }}

// send writes one frame with one system call; ws.WriteFrame would take two.
func (c *gobwasConn) send(op ws.OpCode, payload []byte) error {
	p := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(p)
	b := append((*p)[:0], 0x80|byte(op))
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = append(b, 126, byte(n>>8), byte(n))
	default:
		b = append(b, 127, 0, 0, 0, 0, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	b = append(b, payload...)
	*p = b
	_, err := c.Write(b)
	return err
}

func (c *gobwasConn) goAway() {
	c.nc.SetWriteDeadline(time.Now().Add(time.Second))
	c.send(ws.OpClose, ws.NewCloseFrameBody(ws.StatusGoingAway, ""))
	c.nc.Close()
}
