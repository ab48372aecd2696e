package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
)

// peer is a connection of one of the Go libraries. Each answers Ping and Close frames in its own
// way while it reads.
type peer interface {
	send(text bool, data []byte) error
	// read returns the next text message; after the gateway's Close a *closed.
	read() (string, error)
	// ping sends a Ping. Only the reader sees the Pong, so it reports whether one comes within a
	// read.
	ping(payload string) error
	// leave sends a Close frame and expects the bye and the same code back.
	leave(code int, bye string) error
	// hangUp ends the connection without a word.
	hangUp()
}

// closed is the gateway's Close.
type closed struct{ code int }

func (c *closed) Error() string { return fmt.Sprintf("closed with %d", c.code) }

// dialer opens a connection and returns the X-Session-Id header of the answer.
type dialer func(t *testing.T, url string) (p peer, session string, err error)

var libraries = map[string]dialer{"gorilla": dialGorilla, "coder": dialCoder, "gobwas": dialGobwas}

type gorillaPeer struct {
	*gorilla.Conn
	pong chan string
}

func dialGorilla(_ *testing.T, url string) (peer, string, error) {
	c, res, err := (&gorilla.Dialer{HandshakeTimeout: patience}).Dial(url, nil)
	if err != nil {
		return nil, "", err
	}
	p := &gorillaPeer{c, make(chan string, 8)}
	c.SetReadDeadline(time.Now().Add(patience))
	c.SetPongHandler(func(payload string) error { p.pong <- payload; return nil })
	return p, res.Header.Get("X-Session-Id"), nil
}

func (p *gorillaPeer) send(text bool, data []byte) error {
	kind := gorilla.BinaryMessage
	if text {
		kind = gorilla.TextMessage
	}
	return p.WriteMessage(kind, data)
}

func (p *gorillaPeer) read() (string, error) {
	kind, data, err := p.ReadMessage()
	var end *gorilla.CloseError
	switch {
	case errors.As(err, &end):
		p.Conn.Close()
		return "", &closed{end.Code}
	case err == nil && kind != gorilla.TextMessage:
		err = fmt.Errorf("message of kind %d", kind)
	}
	return string(data), err
}

func (p *gorillaPeer) ping(payload string) error {
	if err := p.WriteControl(gorilla.PingMessage, []byte(payload), time.Now().Add(patience)); err != nil {
		return err
	}
	// The Pong is seen on the way to the next message.
	if err := p.send(true, []byte("after the ping")); err != nil {
		return err
	}
	if _, err := p.read(); err != nil {
		return err
	}
	select {
	case got := <-p.pong:
		if got != payload {
			return fmt.Errorf("pong %q", got)
		}
		return nil
	default:
		return errors.New("no pong ahead of the reply to a later message")
	}
}

func (p *gorillaPeer) leave(code int, bye string) error {
	if err := p.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, ""), time.Now().Add(patience)); err != nil {
		return err
	}
	return expect(p, code, bye)
}
func (p *gorillaPeer) hangUp() { p.Conn.Close() }

// coderPeer reads in a goroutine of its own, for Ping and Close of that library wait for what a
// reader sees.
type coderPeer struct {
	*coder.Conn
	ctx      context.Context
	messages chan string
	end      error // once messages is closed
}

func dialCoder(t *testing.T, url string) (peer, string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	c, res, err := coder.Dial(ctx, url, nil)
	if err != nil {
		return nil, "", err
	}
	p := &coderPeer{Conn: c, ctx: ctx, messages: make(chan string, 1000)}
	go func() {
		defer close(p.messages)
		for {
			kind, data, err := c.Read(ctx)
			if err == nil && kind != coder.MessageText {
				err = fmt.Errorf("message of kind %v", kind)
			}
			if err != nil {
				p.end = err
				return
			}
			p.messages <- string(data)
		}
	}()
	return p, res.Header.Get("X-Session-Id"), nil
}

func (p *coderPeer) send(text bool, data []byte) error {
	kind := coder.MessageBinary
	if text {
		kind = coder.MessageText
	}
	return p.Write(p.ctx, kind, data)
}

func (p *coderPeer) read() (string, error) {
	m, ok := <-p.messages
	if ok {
		return m, nil
	}
	if code := coder.CloseStatus(p.end); code >= 0 {
		return "", &closed{int(code)}
	}
	return "", p.end
}

func (p *coderPeer) ping(string) error { return p.Ping(p.ctx) }

// leave leaves it to the library to wait for the code. Whether its Close or the reader gets the bye
// is chance.
func (p *coderPeer) leave(code int, bye string) error {
	if err := p.Close(coder.StatusCode(code), ""); err != nil {
		return err
	}
	for m := range p.messages {
		if m != bye {
			return fmt.Errorf("got %s, want %s", m, bye)
		}
	}
	return nil
}
func (p *coderPeer) hangUp() { p.CloseNow() }

type gobwasPeer struct {
	net.Conn
	reader io.ReadWriter // with the bytes that came behind the response
}

func dialGobwas(t *testing.T, url string) (peer, string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var session string
	d := ws.Dialer{OnHeader: func(key, value []byte) error {
		if http.CanonicalHeaderKey(string(key)) == "X-Session-Id" {
			session = string(value)
		}
		return nil
	}}
	c, rest, _, err := d.Dial(ctx, url)
	if err != nil {
		return nil, "", err
	}
	c.SetDeadline(time.Now().Add(patience))
	p := &gobwasPeer{Conn: c, reader: c}
	if rest != nil {
		p.reader = struct {
			io.Reader
			io.Writer
		}{rest, c}
	}
	return p, session, nil
}

func (p *gobwasPeer) send(text bool, data []byte) error {
	op := ws.OpBinary
	if text {
		op = ws.OpText
	}
	return wsutil.WriteClientMessage(p.Conn, op, data)
}

func (p *gobwasPeer) read() (string, error) {
	data, op, err := wsutil.ReadServerData(p.reader)
	var end wsutil.ClosedError
	switch {
	case errors.As(err, &end):
		p.Conn.Close()
		return "", &closed{int(end.Code)}
	case err == nil && op != ws.OpText:
		err = fmt.Errorf("message of kind %v", op)
	}
	return string(data), err
}

func (p *gobwasPeer) ping(payload string) error {
	if err := wsutil.WriteClientMessage(p.Conn, ws.OpPing, []byte(payload)); err != nil {
		return err
	}
	f, err := ws.ReadFrame(p.reader)
	if err != nil {
		return err
	}
	if f.Header.OpCode != ws.OpPong || string(f.Payload) != payload {
		return fmt.Errorf("got %v %q, want the Pong", f.Header.OpCode, f.Payload)
	}
	return nil
}

func (p *gobwasPeer) leave(code int, bye string) error {
	if err := wsutil.WriteClientMessage(p.Conn, ws.OpClose, ws.NewCloseFrameBody(ws.StatusCode(code), "")); err != nil {
		return err
	}
	return expect(p, code, bye)
}
func (p *gobwasPeer) hangUp() { p.Conn.Close() }

// expect reads these messages, and after them a Close with code, if it is not 0.
func expect(p peer, code int, want ...string) error {
	for _, w := range want {
		if got, err := p.read(); err != nil || got != w {
			return fmt.Errorf("got %q, %v, want %s", got, err, w)
		}
	}
	if code == 0 {
		return nil
	}
	got, err := p.read()
	var end *closed
	if !errors.As(err, &end) || end.code != code {
		return fmt.Errorf("got %q, %v, want a close with %d", got, err, code)
	}
	return nil
}

func reads(t *testing.T, p peer, code int, want ...string) {
	t.Helper()
	if err := expect(p, code, want...); err != nil {
		t.Fatal(err)
	}
}

func TestGoClients(t *testing.T) {
	_, quiet, _ := start(t, "--heartbeat=0")
	for library, dial := range libraries {
		open := func(t *testing.T, listen, id string) (p peer, session string) {
			t.Helper()
			url := "ws://" + listen + "/ws/chat/"
			if id != "" {
				url += "?session_id=" + id
			}
			p, session, err := dial(t, url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.hangUp)
			return p, session
		}
		t.Run(library, func(t *testing.T) {
			t.Run("count, ping, close", func(t *testing.T) {
				p, id := open(t, quiet, "")
				reads(t, p, 0, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id))
				if err := p.ping("are you there"); err != nil {
					t.Fatal(err)
				}
				n := 0
				if library == "gorilla" { // its ping takes a message
					n = 1
				}
				const messages = 300
				for i := range messages { // without waiting
					if err := p.send(i%2 == 0, fmt.Appendf(nil, "message %d", i)); err != nil {
						t.Fatal(err)
					}
				}
				for range messages {
					n++
					reads(t, p, 0, fmt.Sprintf(`{"count":%d}`, n))
				}
				if err := p.leave(1000, fmt.Sprintf(`{"bye":true,"total":%d}`, n)); err != nil {
					t.Error(err)
				}
			})
			t.Run("resume", func(t *testing.T) {
				p, id := open(t, quiet, "")
				p.send(true, []byte("x"))
				p.send(true, []byte("x"))
				reads(t, p, 0, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id), `{"count":1}`, `{"count":2}`)
				p.hangUp()
				q, same := open(t, quiet, id)
				reads(t, q, 0, fmt.Sprintf(`{"session_id":"%s","count":2,"resumed":true}`, id))
				if same != id {
					t.Errorf("X-Session-Id is %q, want %q", same, id)
				}
				q.send(true, []byte("x"))
				reads(t, q, 0, `{"count":3}`)
				if _, _, err := dial(t, "ws://"+quiet+"/ws/chat/?session_id="+id+"0"); err == nil {
					t.Error("a malformed session was accepted")
				}
			})
			t.Run("large", func(t *testing.T) {
				const limit = 64 << 10
				p, id := open(t, quiet, "")
				reads(t, p, 0, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id))
				for i, size := range []int{limit - 1, limit} {
					if err := p.send(false, bytes.Repeat([]byte{0xff}, size)); err != nil {
						t.Fatal(err)
					}
					reads(t, p, 0, fmt.Sprintf(`{"count":%d}`, i+1))
				}
				p.send(false, make([]byte, limit+1))
				reads(t, p, 1009)
				q, _ := open(t, quiet, id)
				reads(t, q, 0, fmt.Sprintf(`{"session_id":"%s","count":2,"resumed":true}`, id))
			})
			t.Run("bad text", func(t *testing.T) {
				p, id := open(t, quiet, "")
				p.send(true, []byte("not \xff UTF-8"))
				reads(t, p, 1007, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id))
			})
		})
	}
}

func TestGoClientsGetHeartbeats(t *testing.T) {
	_, listen, _ := start(t, "--heartbeat=2s")
	for library, dial := range libraries {
		t.Run(library, func(t *testing.T) {
			t.Parallel()
			p, id, err := dial(t, "ws://"+listen+"/ws")
			if err != nil {
				t.Fatal(err)
			}
			defer p.hangUp()
			reads(t, p, 0, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id))
			for range 4 { // longer than a client is borne with that answers no Ping
				got, err := p.read()
				if err != nil {
					t.Fatal(err)
				}
				stamp := strings.TrimSuffix(strings.TrimPrefix(got, `{"ts":"`), `"}`)
				if _, err := time.Parse("2006-01-02T15:04:05.000Z", stamp); err != nil {
					t.Fatalf("heartbeat %s: %v", got, err)
				}
			}
		})
	}
}

func TestGoClientsAreDrained(t *testing.T) {
	p, listen, _ := start(t, "--heartbeat=0", "--drain-spread=200ms")
	peers := map[string][]peer{}
	for library, dial := range libraries {
		for range 10 {
			c, id, err := dial(t, "ws://"+listen+"/ws")
			if err != nil {
				t.Fatalf("%s: %v", library, err)
			}
			t.Cleanup(c.hangUp)
			c.send(true, []byte("x"))
			reads(t, c, 0, fmt.Sprintf(`{"session_id":"%s","count":0,"resumed":false}`, id), `{"count":1}`)
			peers[library] = append(peers[library], c)
		}
	}
	p.signal(syscall.SIGTERM)
	for library, cs := range peers {
		t.Run(library, func(t *testing.T) {
			for _, c := range cs {
				reads(t, c, 1001, `{"bye":true,"total":1}`)
			}
		})
	}
	if status := p.exit(); status != exitClean {
		t.Errorf("the gateway's status is %d, want 0", status)
	}
}
