package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"
)

// TestTakeoverWithServices: connections of a service move between two of its requests, and what is
// published meanwhile, to all or to one, comes to each once and in order.
func TestTakeoverWithServices(t *testing.T) {
	var disconnects sync.Map // Connection-Id of connections that have ended
	ids := make(chan string, 1)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/websocket-events")
		var answer bytes.Buffer
		text := func(s string) { fmt.Fprintf(&answer, "TEXT %x\r\n%s\r\n", len(s), s) }
		for len(body) > 0 {
			line, rest, _ := bytes.Cut(body, []byte("\r\n"))
			kind, size, _ := strings.Cut(string(line), " ")
			var n int
			fmt.Sscanf(size, "%x", &n)
			if body = rest; size != "" {
				payload := string(rest[:n])
				body = rest[n+2:]
				if kind == "TEXT" {
					time.Sleep(3 * time.Millisecond) // so that some are in flight
					text("m:" + payload)
				}
			}
			switch kind {
			case "OPEN":
				w.Header().Set("Sec-WebSocket-Extensions", `grip; message-prefix="m:"`)
				answer.WriteString("OPEN\r\n")
				text(`c:{"type":"subscribe","channel":"room"}`)
				select {
				case ids <- r.Header.Get("Connection-Id"):
				default:
				}
			case "DISCONNECT", "CLOSE":
				disconnects.Store(r.Header.Get("Connection-Id"), true)
			}
		}
		w.Write(answer.Bytes())
	}))
	defer service.Close()
	p := launch(t, "serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", "--control=127.0.0.1:0", "--loops=2",
		"--app=backend", "--backend-url="+service.URL+"/ws", "--control-rate=0", "--heartbeat=0",
		"--takeover="+filepath.Join(t.TempDir(), "t.sock"))
	ready := p.until("ready")
	listen, _ := ready["listen"].(string)
	control, _ := ready["control"].(string)
	const clients, times = 50, 4
	var done sync.WaitGroup
	enough := make(chan struct{})
	var published, tells int
	telling := make(chan struct{})
	// Nobody who publishes notices either: there is one answer to each request, and it is yes.
	post := func(path, text string) {
		resp, err := http.Post("http://"+control+path, "text/plain", strings.NewReader(text))
		if err != nil {
			t.Errorf("publish: %v", err)
			return
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
			t.Errorf("publish: %s %s", resp.Status, body)
		}
	}
	publish := func(text string) { post("/publish?topic=room", text) }
	conns := make([]*gatewaytest.Client, clients)
	for i := range conns {
		conns[i] = gatewaytest.Open(t, at(listen), "/ws")
		conns[i].Write(gatewaytest.Text("here"))
		conns[i].Expect("text here") // and so it is subscribed
	}
	for i, c := range conns {
		done.Go(func() {
			asked, heard, told := 0, 0, 0
			c.Write(gatewaytest.Text("echo 0"))
			for {
				switch got := c.Next(); {
				case got == fmt.Sprintf("text echo %d", asked):
					asked++
					c.Write(gatewaytest.Text(fmt.Sprintf("echo %d", asked)))
				case got == fmt.Sprintf("text published %d", heard):
					heard++
				case got == fmt.Sprintf("text told %d", told):
					told++
				case got == "text end":
					if i == 0 && told != tells {
						t.Errorf("one was told %d times, want %d", told, tells)
					}
					return
				default:
					t.Errorf("got %q, want echo %d or published %d", got, asked, heard)
					return
				}
			}
		})
	}
	go func() {
		defer close(telling)
		for id := <-ids; ; tells++ {
			select {
			case <-enough:
				return
			default:
				post("/connections/"+id+"/send", fmt.Sprintf("told %d", tells))
			}
		}
	}()
	done.Go(func() {
		for ; ; published++ {
			select {
			case <-enough:
				<-telling
				publish("end")
				return
			default:
				publish(fmt.Sprintf("published %d", published))
			}
		}
	})
	serving := p.cmd.Process
	for range times {
		if err := serving.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		serving = p.next()
		p.until("exit") // of the process before
	}
	close(enough)
	done.Wait()
	if published < times {
		t.Errorf("only %d publications", published)
	}
	disconnects.Range(func(id, _ any) bool {
		t.Errorf("the service was told that %v has ended", id)
		return true
	})
}
