package baseline

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

func TestTopics(t *testing.T) {
	for _, name := range []string{"gorilla", Floor} {
		t.Run(name, func(t *testing.T) {
			if name == Floor && FloorAvailable() != nil {
				t.Skip(FloorAvailable())
			}
			addr, _ := start(t, name, Options{App: Topics})
			publish := func(body string) {
				url := "http://" + addr + "/publish?topic=a"
				res, err := http.Post(url, "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					t.Fatalf("status %d", res.StatusCode)
				}
			}
			defer http.DefaultClient.CloseIdleConnections()
			publish("nobody is there")
			for _, body := range []string{"", "hello", strings.Repeat("x", 125), strings.Repeat("y", 126),
				strings.Repeat("z", 8_000)} {
				for range 3 { // one leaves, the others stay and get all that follows
					c, _, _, err := ws.Dial(t.Context(), "ws://"+addr+"/ws?topic=a")
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { c.Close() })
					_ = c.SetDeadline(time.Now().Add(deadline))
					publish(body)
					got, err := wsutil.ReadServerText(c)
					if err != nil || string(got) != body {
						t.Fatalf("got %.20q %v, want %.20q", got, err, body)
					}
					if body == "hello" {
						_ = wsutil.WriteClientMessage(c, ws.OpClose, ws.NewCloseFrameBody(1000, ""))
						c.Close()
					}
				}
			}
		})
	}
	if err := Serve(t.Context(), "coder", "127.0.0.1:0", Options{App: Topics}); err == nil {
		t.Error("coder: no error")
	}
}
