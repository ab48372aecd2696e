package main

import (
	"bytes"
	"errors"
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
// published meanwhile comes to each subscriber once and in order.
func TestTakeoverWithServices(t *testing.T) {
	var disconnects sync.Map // Connection-Id of connections that have ended
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
	var published int
	publish := func(text string) {
		for {
			resp, err := http.Post("http://"+control+"/publish?topic=room", "text/plain", strings.NewReader(text))
			if err == nil {
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return
				}
				if resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("publish: %s %s", resp.Status, body)
					return
				}
			} else if !strings.Contains(err.Error(), "EOF") && !errors.Is(err, syscall.ECONNRESET) {
				// The old process closes only connections on which nothing is asked.
				t.Errorf("publish: %v", err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	conns := make([]*gatewaytest.Client, clients)
	for i := range conns {
		conns[i] = gatewaytest.Open(t, at(listen), "/ws")
		conns[i].Write(gatewaytest.Text("here"))
		conns[i].Expect("text here") // and so it is subscribed
	}
	for _, c := range conns {
		done.Go(func() {
			asked, heard := 0, 0
			c.Write(gatewaytest.Text("echo 0"))
			for {
				switch got := c.Next(); {
				case got == fmt.Sprintf("text echo %d", asked):
					asked++
					c.Write(gatewaytest.Text(fmt.Sprintf("echo %d", asked)))
				case got == fmt.Sprintf("text published %d", heard):
					heard++
				case got == "text end":
					return
				default:
					t.Errorf("got %q, want echo %d or published %d", got, asked, heard)
					return
				}
			}
		})
	}
	done.Go(func() {
		for ; ; published++ {
			select {
			case <-enough:
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
