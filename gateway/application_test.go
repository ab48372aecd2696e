package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// probe is an application whose Open and Leave are the test's.
type probe struct {
	Echo
	open  func(c *Conn, r *Request)
	leave func(c *Conn, code ws.StatusCode)
	done  chan string // what PeerClose says in Closed
}

func (p *probe) ForLoop(func(fn func()) bool) Handler { return p }

func (p *probe) Open(c *Conn, r *Request) {
	if p.open != nil {
		p.open(c, r)
		return
	}
	c.Accept("")
}

func (p *probe) Leave(c *Conn, code ws.StatusCode) {
	if p.leave != nil {
		p.leave(c, code)
	}
	c.Close(code, "")
}

func (p *probe) Closed(c *Conn) {
	code, reason := c.PeerClose()
	p.done <- fmt.Sprintf("%d %s", code, reason)
}

func TestRequestForApplications(t *testing.T) {
	result := make(chan []string, 1)
	app := &probe{done: make(chan string, 1), open: func(c *Conn, r *Request) {
		var got []string
		for name, value := range r.Headers {
			got = append(got, string(name)+"="+string(value))
		}
		got = append(got, string(r.Path), string(r.Query), c.RemoteAddr().String())
		result <- got
		c.Accept("")
	}}
	s := serve(t, Config{AnyPath: true}, app)
	c := dial(t, s)
	c.Write([]byte(handshake("GET /any/%2e/path?a=b&c HTTP/1.1", "Cookie: a=1", "cookie:  b=2 ", "connection: x-hop")))
	if res := c.response(); res.StatusCode != 101 {
		t.Fatalf("got %s", res.Status)
	}
	all := strings.Join(<-result, " ")
	for _, want := range []string{"Cookie=a=1 cookie=b=2 ", "Connection=x-hop", "Connection=Upgrade", "/any/%2e/path a=b&c " + c.LocalAddr().String()} {
		if !strings.Contains(all, want) {
			t.Errorf("got %q, want %q in it", all, want)
		}
	}
}

func TestNewResponse(t *testing.T) {
	for status, want := range map[int]string{200: "<p>a page", 302: "", 401: "who?"} {
		app := &probe{done: make(chan string, 1), open: func(c *Conn, _ *Request) {
			c.Refuse(NewResponse(status, "Content-Type: text/html\r\nLocation: /there\r\nSet-Cookie: a=1\r\n", want))
		}}
		c := dial(t, serve(t, Config{}, app))
		io.WriteString(c, handshake(getChat))
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != status || string(body) != want || res.Header.Get("Content-Type") != "text/html" || res.Header.Get("Set-Cookie") != "a=1" {
			t.Errorf("%d: got %d %q %v, %v", status, res.StatusCode, body, res.Header, err)
		}
	}
	for _, status := range []int{199, 600} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("NewResponse(%d) did not panic", status)
				}
			}()
			NewResponse(status, "", "")
		}()
	}
}

func TestPingOnly(t *testing.T) {
	c := open101(t, serve(t, Config{PingOnly: true, Heartbeat: 20 * time.Millisecond}, immortal{}), "/ws")
	c.expect("ping", "ping")
}

// PeerClose tells the code and the reason in Leave, and the code in Closed, whoever has closed first.
func TestPeerClose(t *testing.T) {
	for _, tt := range []struct {
		name, leave, closed string
		run                 func(c *wire, conn *Conn)
	}{
		{"the client", "4001 bye", "4001 ", func(c *wire, _ *Conn) { c.Write(wireOf(closeFrame(4001, "bye"))) }},
		{"the client, without a code", "1005 ", "1005 ", func(c *wire, _ *Conn) { c.Write(frame(true, ws.OpClose, "")) }},
		{"the application", "", "4003 ", func(c *wire, conn *Conn) {
			conn.Post(func(c *Conn) { c.Close(4002, "") })
			c.expect("close 4002")
			c.Write(wireOf(closeFrame(4003, "ok")))
		}},
		{"nobody", "0 ", "0 ", func(*wire, *Conn) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := ""
			opened := make(chan *Conn, 1)
			app := &probe{done: make(chan string, 1)}
			app.open = func(c *Conn, _ *Request) { c.Accept(""); opened <- c }
			app.leave = func(c *Conn, _ ws.StatusCode) {
				code, reason := c.PeerClose()
				left = fmt.Sprintf("%d %s", code, reason)
			}
			c := open101(t, serve(t, Config{}, app), "/ws")
			tt.run(c, <-opened)
			c.Conn.(*net.TCPConn).CloseWrite()
			if closed := <-app.done; closed != tt.closed || left != tt.leave {
				t.Errorf("got %q in Leave and %q in Closed, want %q and %q", left, closed, tt.leave, tt.closed)
			}
		})
	}
}

func TestCork(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	c := open101(t, s, "/ws")
	onLoops(s, func(w *worker) {
		for _, conn := range w.conns {
			conn.Cork(func() {
				conn.Send(ws.OpText, []byte("a"))
				conn.Send(ws.OpText, []byte("b"))
				if len(w.scratch) == 0 {
					t.Error("a corked message was written by itself")
				}
			})
		}
	})
	c.expect("text a", "text b")
}
