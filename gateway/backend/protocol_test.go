package backend

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/gobwas/ws"

	"sluice/gateway"
)

// scripted answers the requests of one connection one after the other: "Header: value" lines, an
// empty line, and events in which | stands for CRLF.
func scripted(t testing.TB, answers ...string) *service {
	next := make(chan string, len(answers))
	for _, a := range answers {
		next <- a
	}
	return newService(t, func(w http.ResponseWriter, _ *http.Request, _ string) {
		var a string
		select {
		case a = <-next:
		default:
		}
		head, body, found := strings.Cut(a, "\n\n")
		if !found {
			head, body = "", a
		}
		for line := range strings.Lines(head) {
			name, value, _ := strings.Cut(line, ":")
			w.Header().Set(name, strings.TrimSpace(value))
		}
		w.Header().Set("Content-Type", contentType+"; charset=utf-8")
		fmt.Fprint(w, strings.ReplaceAll(body, "|", "\r\n"))
	})
}

// text is a TEXT event for scripted.
func text(s string) string { return fmt.Sprintf("TEXT %x|%s|", len(s), s) }

func TestGrip(t *testing.T) {
	t.Run("without it everything is the client's", func(t *testing.T) {
		b := scripted(t, "OPEN|"+text("c:{}")+text("m:x"))
		newEdge(t, Config{}, b.URL).dial(t, "/").want("c:{}", "m:x")
	})
	t.Run("prefixes", func(t *testing.T) {
		b := scripted(t, "Sec-WebSocket-Extensions: grip\n\nOPEN|"+text("dropped")+text("m:kept")+
			text("c:{}")+"BINARY 3|m:b|"+"BINARY 1|b|"+text("m:"))
		newEdge(t, Config{}, b.URL).dial(t, "/").want("kept", "binary b", "")
	})
	t.Run("another prefix", func(t *testing.T) {
		b := scripted(t, `Sec-WebSocket-Extensions: grip; message-prefix=""`+"\n\nOPEN|"+text("m:all")+
			text(`c:{"type":"detach"}`))
		newEdge(t, Config{}, b.URL).dial(t, "/").want("m:all")
	})
	t.Run("headers of the 101", func(t *testing.T) {
		b := scripted(t, "Sec-WebSocket-Extensions: grip\nSet-Cookie: a=1\nSec-WebSocket-Protocol: "+
			"chat\nSet-Meta-User: 7\n\nOPEN|")
		e := newEdge(t, Config{}, b.URL)
		c, res, err := websocket.Dial(t.Context(), e.url,
			&websocket.DialOptions{Subprotocols: []string{"chat"}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		if res.Header.Get("Set-Cookie") != "a=1" || res.Header.Get("Sec-WebSocket-Protocol") != "chat" ||
			res.Header.Get("Set-Meta-User") != "" || res.Header.Get("Content-Type") != "" ||
			res.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("got %v", res.Header)
		}
	})
	t.Run("detach", func(t *testing.T) {
		b := scripted(t, "Sec-WebSocket-Extensions: grip\n\nOPEN|"+
			text(`c:{"type":"subscribe","channel":"a"}`)+text(`c:{"type":"detach"}`)+
			text("m:nothing more"), "CLOSE|")
		e := newEdge(t, Config{}, b.URL)
		c := e.dial(t, "/")
		await(t, "the backend is told", func() bool { return b.bodies() == "OPEN|CLOSE" })
		c.send("for nobody")
		control := newControl(t, e, ControlConfig{})
		ask(t, "POST", control.URL+"/publish?topic=a", "still here")
		c.want("still here")
		c.Close(1000, "")
		await(t, "it is gone", func() bool { return e.Connections() == 0 })
		if got := b.bodies(); got != "OPEN|CLOSE" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("keep-alive and delayed messages", func(t *testing.T) {
		b := scripted(t, "Sec-WebSocket-Extensions: grip\n\nOPEN|"+
			text(`c:{"type":"keep-alive","content":"tick","timeout":0.02,"mode":"interval"}`)+
			text(`c:{"type":"send-delayed","content":"later","timeout":3600}`)+
			text(`c:{"type":"send-delayed","content":"much later","timeout":3600}`)+text("m:now")+
			text(`c:{"type":"flush-delayed"}`))
		c := newEdge(t, Config{}, b.URL).dial(t, "/")
		c.want("later", "now", "much later", "tick", "tick", "tick")
	})
	t.Run("subscriptions end", func(t *testing.T) {
		b := scripted(t, "Sec-WebSocket-Extensions: grip\n\nOPEN|"+
			text(`c:{"type":"subscribe","channel":"a"}`), text(`c:{"type":"unsubscribe","channel":"a"}`)+
			text("m:ok"))
		e := newEdge(t, Config{}, b.URL)
		c := e.dial(t, "/")
		await(t, "subscribed", func() bool { return e.hub.Subscribers("a") == 1 })
		c.send("x")
		c.want("ok")
		if n := e.hub.Subscribers("a"); n != 0 {
			t.Errorf("%d subscribers, want none", n)
		}
	})
}

// Set-Meta- headers come back as Meta- headers until they are unset.
func TestMetaHeaders(t *testing.T) {
	b := scripted(t, "Set-Meta-User: 7\nSet-Meta-Room: a\n\nOPEN|"+text("0"), "Set-Meta-Room:\n\n"+
		text("1"), text("2"))
	c := newEdge(t, Config{}, b.URL).dial(t, "/", "Meta-User", "forged")
	for i := range 3 {
		c.want(fmt.Sprint(i))
		c.send("x")
	}
	await(t, "four requests", func() bool { return len(b.seen()) == 4 })
	for i, want := range []string{"user= room=", "user=7 room=a", "user=7 room=", "user=7 room="} {
		h := b.seen()[i].header
		if got := "user=" + strings.Join(h["Meta-User"], ",") + " room=" +
			strings.Join(h["Meta-Room"], ","); got != want {
			t.Errorf("request %d: got %q, want %q", i, got, want)
		}
	}
}

// What an answer does not accept comes again, before what came since.
func TestPartialAcceptance(t *testing.T) {
	b := scripted(t, "OPEN|", "Content-Bytes-Accepted: 2\n\n", "Content-Bytes-Accepted: 4\n\n"+
		text("all"))
	c := newEdge(t, Config{}, b.URL).dial(t, "/")
	c.send("hello")
	await(t, "the first request", func() bool { return len(b.seen()) == 2 })
	c.send("x")
	c.want("all")
	if got, want := b.bodies(), "OPEN|TEXT 5 hello|TEXT 3 llo TEXT 1 x"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := b.seen()[2].header.Get("Content-Bytes-Replayed"); got != "3" {
		t.Errorf("Content-Bytes-Replayed: got %q, want 3", got)
	}
	t.Run("more than there was", func(t *testing.T) {
		b := scripted(t, "OPEN|", "Content-Bytes-Accepted: 6\n\n")
		c := newEdge(t, Config{}, b.URL).dial(t, "/")
		c.send("hello")
		c.want("closed 1011")
	})
}

// Who closes first, with what code, and what the other is told.
func TestClose(t *testing.T) {
	t.Run("the client, and the backend has last words", func(t *testing.T) {
		b := scripted(t, "OPEN|", text("last words")+"CLOSE 2|\x0f\xa2|")
		// This client reads on after its Close.
		conn, _, _, err := ws.Dial(t.Context(), newEdge(t, Config{}, b.URL).url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ws.WriteFrame(conn, ws.MaskFrameInPlace(ws.NewCloseFrame(ws.NewCloseFrameBody(4001, "bye"))))
		for _, want := range []string{"last words", "\x0f\xa2"} {
			if f, err := ws.ReadFrame(conn); err != nil || string(f.Payload) != want {
				t.Errorf("got %q, %v; want %q", f.Payload, err, want)
			}
		}
		await(t, "the end", func() bool { return b.bodies() == "OPEN|CLOSE 5 \x0f\xa1bye" })
	})
	t.Run("the backend", func(t *testing.T) {
		b := scripted(t, "OPEN|"+text("welcome")+"CLOSE 5|\x0f\xa2bye|"+text("too late"))
		e := newEdge(t, Config{}, b.URL)
		c := e.dial(t, "/")
		c.want("welcome", "closed 4002 bye")
		await(t, "the end", func() bool { return strings.HasPrefix(b.bodies(), "OPEN|CLOSE ") })
	})
	t.Run("the backend, without a code", func(t *testing.T) {
		b := scripted(t, "OPEN|CLOSE|")
		newEdge(t, Config{}, b.URL).dial(t, "/").want("closed 1000")
	})
	t.Run("the backend does not know it", func(t *testing.T) {
		b := scripted(t, "OPEN|", "DISCONNECT|")
		e := newEdge(t, Config{}, b.URL)
		c := e.dial(t, "/")
		c.send("x")
		c.want("closed 1011")
		await(t, "it is gone", func() bool { return e.Connections() == 0 })
		if got := b.bodies(); got != "OPEN|TEXT 1 x" {
			t.Errorf("got %q, want no DISCONNECT for a connection that the backend does not know", got)
		}
	})
	t.Run("the gateway drains", func(t *testing.T) {
		b := newService(t, nil)
		e := newEdgeWith(t, gateway.Config{Loops: 1, DrainSpread: -1}, Config{}, b.URL)
		c := e.dial(t, "/")
		drained := make(chan error, 1)
		go func() { drained <- e.Drain(t.Context()) }()
		c.want("closed 1001")
		c.CloseNow()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		await(t, "the backend has heard", func() bool { return b.bodies() == "OPEN|CLOSE 2 \x03\xe9" })
	})
}

// Keep-Alive-Interval asks for empty requests. Its shortest is 20 s, so the timer is looked at and
// not waited for.
func TestPoll(t *testing.T) {
	b := scripted(t, "Keep-Alive-Interval: 30\n\nOPEN|"+text("0"), text("1"))
	e := newEdge(t, Config{}, b.URL)
	c := e.dial(t, "/")
	c.want("0")
	poll := func(now time.Time) {
		e.onLoops(func(l *loop) {
			for _, s := range l.sessions {
				s.wake(now)
			}
		})
	}
	poll(time.Now().Add(29 * time.Second))
	poll(time.Now().Add(31 * time.Second))
	c.want("1")
	if got := b.bodies(); got != "OPEN|" {
		t.Errorf("got %q, want OPEN and one empty request", got)
	}
}

func TestPaths(t *testing.T) {
	a, b := newService(t, nil), newService(t, nil)
	e := newEdge(t, Config{}, "/a/="+a.URL+"/ws/", "/b/="+b.URL)
	e.dial(t, "/a/x?y")
	e.dial(t, "/b/x?y")
	for path, want := range map[string]int{"/": 404, "/c/": 404, "/a/../b/": 400, "/a/%2e%2e/b": 400,
		"/a/%zz": 400} {
		_, res, _ := rawGet(t, e, path)
		if res != want {
			t.Errorf("%s: got %d, want %d", path, res, want)
		}
	}
	if got := a.seen()[0].path + " " + b.seen()[0].path; got != "/ws/x?y /b/x?y" {
		t.Errorf("got %q", got)
	}
}

func TestOversizedFramesAreTheGateways(t *testing.T) {
	b := newService(t, nil)
	c := newEdge(t, Config{}, b.URL).dial(t, "/")
	c.Write(t.Context(), websocket.MessageText, make([]byte, 64<<10+1))
	c.want("closed 1009 message_size")
}
