package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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

// Without Pings nothing is expected of a client, however long it is silent.
func TestHeartbeatsWithoutPing(t *testing.T) {
	c := open101(t, serve(t, Config{NoPing: true, Heartbeat: 20 * time.Millisecond}, Echo{}), "/ws")
	for range 10 { // four times as long as a client may owe a Pong
		if got := c.next(); !beatPattern.MatchString(got) {
			t.Fatalf("got %q, want the time and nothing else", got)
		}
	}
	if s, err := New(Config{Listen: "127.0.0.1:0", NoPing: true, PingOnly: true}, Echo{}); err == nil {
		s.Close()
		t.Error("NoPing and PingOnly: got no error")
	}
}

func TestPingOnly(t *testing.T) {
	c := open101(t, serve(t, Config{PingOnly: true, Heartbeat: 20 * time.Millisecond}, immortal{}), "/ws")
	c.expect("ping", "ping")
}

// PeerClose tells the code and the reason in Leave, and the code in Closed, whoever has closed
// first.
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

func TestFrame(t *testing.T) {
	s := serve(t, Config{}, Echo{})
	c := open101(t, s, "/ws")
	payload := []byte("shared")
	f := NewFrame(ws.OpText, payload)
	payload[0] = 'X'
	if f.Size() != 2+len(payload) {
		t.Errorf("got %d bytes, want %d", f.Size(), 2+len(payload))
	}
	onLoops(s, func(w *worker) {
		for _, conn := range w.conns {
			conn.SendFrame(f)
			conn.Cork(func() {
				conn.Send(ws.OpText, []byte("before"))
				conn.SendFrame(f)
				conn.Close(1000, "")
			})
			if err := conn.SendFrame(f); err == nil {
				t.Error("a frame behind the Close was taken")
			}
		}
	})
	c.expect("text shared", "text before", "text shared")
}

// Who sends much waits for OnDrained, and nothing is cut off.
func TestOnDrained(t *testing.T) {
	s := serve(t, Config{Loops: 1, Heartbeat: -1, MaxQueue: 20_000}, flood{})
	c := dialNarrow(t, s)
	f := NewFrame(ws.OpBinary, make([]byte, 5000))
	const total = 200
	sent, waits := 0, 0
	var more func(conn *Conn)
	more = func(conn *Conn) {
		for ; sent < total && conn.Queued() == 0; sent++ {
			conn.SendFrame(f)
		}
		if conn.OnDrained(more) {
			waits++
		} else if sent < total {
			t.Error("nothing waits, and yet not all was sent")
		}
	}
	onLoops(s, func(w *worker) {
		conn := w.conns[0]
		if conn.OnDrained(func(*Conn) { t.Error("called, though nothing waited") }) || conn.Queued() != 0 || conn.Closed() {
			t.Error("a new connection has something queued, or is closed")
		}
		more(conn)
	})
	if _, err := io.CopyN(io.Discard, c.r, total*int64(f.Size())); err != nil {
		t.Fatal(err)
	}
	onLoops(s, func(w *worker) {
		if sent != total || waits < 2 || w.conns[0].Queued() != 0 {
			t.Errorf("sent %d of %d with %d waits, %d bytes queued", sent, total, waits, w.conns[0].Queued())
		}
	})
}

// What another layer says of the client's address is what RemoteAddr says, before 101 and after,
// until it is taken back.
func TestSetRemoteAddr(t *testing.T) {
	said := netip.MustParseAddrPort("[2001:db8::7]:4711")
	got := make(chan netip.AddrPort, 3)
	app := &probe{done: make(chan string, 1), open: func(c *Conn, r *Request) {
		c.SetRemoteAddr(netip.AddrPort{}) // of a connection that has none
		socket := c.RemoteAddr()
		c.SetRemoteAddr(said)
		got <- c.RemoteAddr()
		c.Accept("")
		c.Post(func(c *Conn) {
			got <- c.RemoteAddr()
			c.SetRemoteAddr(netip.AddrPort{})
			if again := c.RemoteAddr(); again != socket {
				t.Errorf("taken back: got %v, want the socket's %v", again, socket)
			}
			got <- socket
		})
	}}
	s := serve(t, Config{}, app)
	c := open101(t, s, "/ws")
	for i, want := range []netip.AddrPort{said, said, netip.MustParseAddrPort(c.LocalAddr().String())} {
		if addr := <-got; addr != want {
			t.Errorf("%d: got %v, want %v", i, addr, want)
		}
	}
}
