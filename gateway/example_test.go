package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"sluice/gateway"
)

// shout is an application: it answers in capitals, a moment later and from another goroutine.
type shout struct{ token string }

var refuseToken = gateway.NewRefusal(http.StatusUnauthorized, "say who you are", "WWW-Authenticate: Bearer\r\n")

// ForLoop implements gateway.App. A handler with state of its own would be made here, one for each
// loop.
func (s shout) ForLoop(func(fn func()) bool) gateway.Handler { return s }

func (s shout) Open(c *gateway.Conn, r *gateway.Request) {
	if auth, _ := r.Header("Authorization"); string(auth) != "Bearer "+s.token {
		c.Refuse(refuseToken)
		return
	}
	c.Accept("Sec-WebSocket-Protocol: shout\r\n")
}

func (s shout) Message(c *gateway.Conn, op ws.OpCode, payload []byte) {
	text := string(payload) // payload dies when Message returns
	go func() {
		answer := []byte(strings.ToUpper(text)) // a database or another service in real life
		c.Post(func(c *gateway.Conn) { c.Send(op, answer) })
	}()
}

func (s shout) Leave(c *gateway.Conn, code ws.StatusCode) { c.Close(code, "until next time") }

func (s shout) Closed(*gateway.Conn) {}

// A gateway in a program of one's own, from start to drain.
func Example() {
	srv, err := gateway.New(gateway.Config{
		Listen: "127.0.0.1:0",
		Paths:  []string{"/shout"},
		Logger: slog.New(slog.DiscardHandler),
	}, shout{token: "secret"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := srv.Start(); err != nil {
		fmt.Println(err)
		return
	}
	url := fmt.Sprintf("ws://%s/shout", srv.Addr())

	_, _, _, err = ws.Dial(context.Background(), url)
	fmt.Println("without a token:", err)

	dialer := ws.Dialer{Protocols: []string{"shout"}, Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer secret"}}}
	conn, _, hs, err := dialer.Dial(context.Background(), url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	wsutil.WriteClientText(conn, []byte("hello"))
	answer, err := wsutil.ReadServerText(conn)
	fmt.Printf("%s: %s %v\n", hs.Protocol, answer, err)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go wsutil.ReadServerText(conn) // answers the Close
	fmt.Println("drained:", srv.Drain(ctx))
	srv.Close()

	// Output:
	// without a token: unexpected HTTP response status: 401
	// shout: HELLO <nil>
	// drained: <nil>
}
