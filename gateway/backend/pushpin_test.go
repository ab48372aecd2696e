package backend

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"

	"github.com/gobwas/ws"
)

// The same service behind Pushpin and behind Sluice: the clients see the same frames, the service
// the same events. Pushpin is what GRIP's libraries were written for.
func TestSameAsPushpin(t *testing.T) {
	if _, err := exec.LookPath("pushpin"); err != nil {
		t.Skip("pushpin is not installed (apt-get install pushpin): nothing to compare with")
	}
	got := transcript(t, newSluiceProxy)
	want := transcript(t, newPushpin)
	for _, name := range transcriptNames {
		if got[name] != want[name] {
			t.Errorf("%s\nSluice:\n%s\nPushpin:\n%s", name, got[name], want[name])
		}
	}
	t.Logf("both:\n%s", strings.Join(transcriptLines(want), "\n"))
}

// proxy is either of them.
type proxy struct {
	address string // for clients
	control string // URL of the control address
}

func newSluiceProxy(t *testing.T, b *service) proxy {
	e := newEdge(t, Config{Key: []byte("changeme")}, b.URL)
	return proxy{strings.TrimPrefix(e.url, "ws://"), newControl(t, e, ControlConfig{}).URL}
}

// newPushpin starts one with files and ports of its own: the example's, elsewhere. A port that
// another program has taken meanwhile costs a second attempt.
func newPushpin(t *testing.T, b *service) proxy {
	for range 3 {
		if p, ok := startPushpin(t, b); ok {
			return p
		}
	}
	t.Fatal("pushpin does not answer")
	return proxy{}
}

func startPushpin(t *testing.T, b *service) (proxy, bool) {
	dir, err := os.MkdirTemp("", "pp") // t.TempDir is too long a path for Unix sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	conf, err := os.ReadFile("../../scripts/examples/pushpin/pushpin.conf")
	if err != nil {
		t.Fatal(err)
	}
	p := proxy{fmt.Sprintf("127.0.0.1:%d", gatewaytest.FreePort(t)),
		fmt.Sprintf("http://127.0.0.1:%d", gatewaytest.FreePort(t))}
	text := strings.NewReplacer("/tmp/sluice-pushpin", dir, "127.0.0.1:7999", p.address, "5561",
		p.control[strings.LastIndexByte(p.control, ':')+1:]).Replace(string(conf))
	if err := os.WriteFile(filepath.Join(dir, "pushpin.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("pushpin", "--config", filepath.Join(dir, "pushpin.conf"), "-m", "--route",
		"* "+strings.TrimPrefix(b.URL, "http://")+",over_http")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with all that it starts
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("pushpin:\n%s", text)
		}
	})
	client := http.Client{Timeout: time.Second}
	deadline := time.Now().Add(testPatience)
	for ; time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", strings.TrimPrefix(p.control, "http://")); err == nil {
			c.Close()
			// its parts have found each other
			if res, err := client.Get("http://" + p.address + "/page"); err == nil {
				res.Body.Close()
				if res.StatusCode == 200 {
					return p, true
				}
			}
		}
	}
	return p, false
}

// script is the service: what it does is in the path, and in the messages.
func script(w http.ResponseWriter, r *http.Request, body string) {
	if r.Method == "GET" || r.URL.Path == "/page" {
		w.Header().Set("X-Page", "yes")
		io.WriteString(w, "a page")
		return
	}
	if r.URL.Path == "/forbidden" {
		w.Header().Set("X-Why", "because")
		http.Error(w, "not you", http.StatusForbidden)
		return
	}
	var out []byte
	text := func(s string) { out = appendEvent(out, eventText, []byte(s)) }
	_ = eachEvent([]byte(body), func(e event) bool {
		switch e.kind {
		case eventOpen:
			out = appendEvent(out, eventOpen, nil)
			if r.URL.Path != "/plain" {
				w.Header().Set("Sec-WebSocket-Extensions", `grip; message-prefix="m:"`)
				w.Header().Set("Set-Meta-User", "7")
				w.Header().Set("X-Welcome", "hello")
				text("m:meta " + r.Header.Get("Meta-User"))
				text("dropped")
			}
		case eventText:
			command, rest, _ := strings.Cut(string(e.content), " ")
			switch command {
			case "echo":
				text("m:" + rest)
			case "raw":
				text(rest)
			case "ping":
				out = appendEvent(out, eventPing, []byte(rest))
			case "pong":
				out = appendEvent(out, eventPong, []byte(rest))
			case "meta":
				text("m:meta " + r.Header.Get("Meta-User"))
			case "close":
				out = appendEvent(out, eventClose, closeBody(4002, []byte(rest)))
			case "subscribe", "unsubscribe":
				text(`c:{"type":"` + command + `","channel":"` + rest + `"}`)
				text("m:" + command + "d")
			case "detach":
				text("m:last")
				text(`c:{"type":"detach"}`)
			}
		case eventBinary:
			out = appendEvent(out, eventBinary, append([]byte("m:"), e.content...))
		case eventClose:
			if r.URL.Path == "/words" {
				text("m:last words")
			}
			out = appendEvent(out, eventClose, e.content)
		}
		return true
	})
	w.Header().Set("Content-Type", contentType)
	w.Write(out)
}

var transcriptNames = []string{"page", "forbidden", "messages", "plain", "client closes",
	"client closes without a code", "last words", "service closes", "published", "close published",
	"detached", "broken off"}

func transcriptLines(of map[string]string) (lines []string) {
	for _, name := range transcriptNames {
		lines = append(lines, name+": "+strings.ReplaceAll(of[name], "\n", " | "))
	}
	return lines
}

// transcript plays all scenes in front of one proxy. What it returns is, by scene, what the client
// saw and what the service was told.
func transcript(t *testing.T, start func(t *testing.T, b *service) proxy) map[string]string {
	b := newService(t, script)
	p := start(t, b)
	of := make(map[string]string)
	scene := func(name, path string, play func(c *player)) {
		c := &player{t: t, proxy: p, service: b}
		c.open(path)
		play(c)
		of[name] = c.String()
	}
	scene("page", "/page", func(*player) {})
	scene("forbidden", "/forbidden", func(*player) {})
	scene("messages", "/grip?a=1&b", func(c *player) {
		c.read(1)
		for _, s := range []string{"echo hello", "echo ", "echo grüße", "echo " +
			strings.Repeat("x", 5_000), "meta", "raw dropped", "raw c:not JSON", "echo after"} {
			c.send(ws.OpText, s)
		}
		c.read(6)
		c.send(ws.OpBinary, "\x00\xff")
		c.send(ws.OpText, "ping hi")
		c.send(ws.OpText, "pong ho")
		c.read(3)
		c.close(1000, "")
	})
	scene("plain", "/plain", func(c *player) {
		c.send(ws.OpText, "raw m:all of it")
		c.send(ws.OpText, `raw c:{"type":"subscribe"}`)
		c.read(2)
		c.close(1000, "")
	})
	scene("client closes", "/grip", func(c *player) { c.read(1); c.close(4001, "bye") })
	scene("client closes without a code", "/grip", func(c *player) { c.read(1); c.close(0, "") })
	scene("last words", "/words", func(c *player) { c.read(1); c.close(4001, "bye") })
	scene("service closes", "/grip", func(c *player) {
		c.read(1)
		c.send(ws.OpText, "close enough")
		c.read(1)
		c.close(4003, "") // the answer has another code
	})
	scene("published", "/grip", func(c *player) {
		c.read(1)
		c.subscribe("published")
		c.publish(`{"channel":"published","id":"a","formats":{"ws-message":{"content":"one"}}}`)
		c.publish(`{"channel":"published","id":"a","formats":{"ws-message":{"content":"one again"}}}`)
		c.publish(`{"channel":"published","id":"c","prev-id":"b",
				"formats":{"ws-message":{"content":"three"}}},
			{"channel":"published","id":"b","prev-id":"a",
				"formats":{"ws-message":{"content":"two"}}}`)
		c.publish(`{"channel":"published","formats":{"ws-message":{"content-bin":"AP8="}}}`)
		c.publish(`{"channel":"published","formats":{"http-stream":{"content":"not for sockets"}}}`)
		c.publish(`{"channel":"published","formats":{"ws-message":{"type":"ping","content":"p"}}}`)
		c.read(5)
		c.send(ws.OpText, "unsubscribe published")
		c.read(1)
		c.close(1000, "")
	})
	scene("close published", "/grip", func(c *player) {
		c.read(1)
		c.subscribe("closed")
		c.publish(`{"channel":"closed","formats":
			{"ws-message":{"action":"close","code":4004,"reason":"all out"}}}`)
		c.read(1)
		c.close(4004, "")
	})
	scene("detached", "/grip", func(c *player) {
		c.read(1)
		c.subscribe("detached")
		c.send(ws.OpText, "detach")
		c.read(1)
		c.told(eventClose)
		c.send(ws.OpText, "echo for nobody")
		c.publish(`{"channel":"detached","formats":{"ws-message":{"content":"still here"}}}`)
		c.read(1)
		c.close(1000, "")
	})
	scene("broken off", "/grip", func(c *player) {
		c.read(1)
		c.raw.(*net.TCPConn).SetLinger(0)
		c.raw.Close()
		c.told(eventDisconnect)
	})
	return of
}

// player is a client that writes down every frame.
type player struct {
	t       *testing.T
	proxy   proxy
	service *service
	raw     net.Conn
	conn    net.Conn // with what has been read ahead
	id      string

	mu   sync.Mutex
	said []string
}

func (c *player) open(path string) {
	c.t.Helper()
	before := len(c.service.seen())
	dialer := ws.Dialer{
		Timeout: testPatience,
		OnStatusError: func(status int, _ []byte, res io.Reader) {
			text, _ := io.ReadAll(res)
			head, body, _ := strings.Cut(string(text), "\r\n\r\n")
			lines := slices.Sorted(strings.Lines(head))
			for _, line := range lines {
				if strings.HasPrefix(line, "X-Why") || strings.HasPrefix(line, "X-Page") ||
					strings.HasPrefix(line, "Content-Type") {
					body = strings.TrimSpace(line) + "; " + body
				}
			}
			c.said = append(c.said, fmt.Sprint(status, " ", strings.TrimSpace(body)))
		},
		OnHeader: func(key, value []byte) error {
			if name := string(key); name == "X-Welcome" || name == "Set-Meta-User" ||
				name == "Content-Type" {
				c.said = append(c.said, name+": "+string(value))
			}
			return nil
		},
	}
	conn, br, _, err := dialer.Dial(c.t.Context(), "ws://"+c.proxy.address+path)
	if seen := c.service.seen(); len(seen) > before {
		c.id = seen[before].id
	}
	if err != nil {
		return
	}
	c.raw, c.conn = conn, conn
	if br != nil { // frames that came with the 101
		c.conn = &bufferedConn{conn, br}
	}
	c.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testPatience))
}

type bufferedConn struct {
	net.Conn
	r io.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func (c *player) send(op ws.OpCode, payload string) {
	c.t.Helper()
	if err := ws.WriteFrame(c.conn, ws.MaskFrame(ws.NewFrame(op, true, []byte(payload)))); err != nil {
		c.t.Fatal(err)
	}
}

// next reads one frame; a message in pieces is put together.
func (c *player) next() string {
	var op ws.OpCode
	var payload []byte
	for {
		f, err := ws.ReadFrame(c.conn)
		if err != nil {
			return "end"
		}
		if f.Header.OpCode != ws.OpContinuation {
			op = f.Header.OpCode
		}
		payload = append(payload, f.Payload...)
		if f.Header.Fin {
			break
		}
	}
	if len(payload) > 100 {
		payload = fmt.Appendf(payload[:20], "… %d bytes", len(payload))
	}
	if op == ws.OpClose {
		if len(payload) < 2 {
			return "close"
		}
		return fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(payload), payload[2:])
	}
	return fmt.Sprintf("%s %q",
		map[ws.OpCode]string{ws.OpText: "text", ws.OpBinary: "binary", ws.OpPing: "ping",
			ws.OpPong: "pong"}[op], payload)
}

func (c *player) read(n int) {
	for range n {
		c.said = append(c.said, c.next())
	}
}

// close sends Close and writes down what comes until the end.
func (c *player) close(code ws.StatusCode, reason string) {
	c.t.Helper()
	c.send(ws.OpClose, string(closeBody(code, []byte(reason))))
	for {
		got := c.next()
		if c.said = append(c.said, got); got == "end" {
			break
		}
	}
	c.told(eventClose)
}

// told waits until the service has been told of the end.
func (c *player) told(kind eventKind) {
	c.t.Helper()
	await(c.t, "the service is told "+eventNames[kind], func() bool {
		return strings.Contains(c.events(), eventNames[kind])
	})
}

// events are what the service was told of this connection.
func (c *player) events() string {
	var all []string
	for _, r := range c.service.seen() {
		if r.id != c.id || c.id == "" {
			continue
		}
		if r.header.Get("Grip-Sig") == "" || r.header.Get("Sec-Websocket-Extensions") != "grip" {
			all = append(all, "headers are missing")
		}
		_ = eachEvent([]byte(r.body), func(e event) bool {
			content := fmt.Sprintf("%q", e.content)
			if len(content) > 100 {
				content = fmt.Sprintf("%d bytes", len(e.content))
			}
			if e.content == nil {
				content = ""
			}
			all = append(all, strings.TrimSpace(eventNames[e.kind]+" "+content+" "+
				r.header.Get("Meta-User")))
			return true
		})
	}
	return strings.Join(all, "\n")
}

// subscribe returns when what is published arrives.
func (c *player) subscribe(topic string) {
	c.t.Helper()
	c.send(ws.OpText, "subscribe "+topic)
	c.read(1)
	deadline := time.Now().Add(testPatience)
	for { // the parts of Pushpin that subscribe and that answer are two processes
		c.publish(`{"channel":"` + topic + `","formats":{"ws-message":{"content":"sync"}}}`)
		c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		got := c.next()
		c.conn.SetReadDeadline(deadline)
		if got == `text "sync"` {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("nothing is published to %s", topic)
		}
	}
}

func (c *player) publish(items string) {
	c.t.Helper()
	if status, a, _ := ask(c.t, "POST", c.proxy.control+"/publish/", `{"items":[`+items+
		`]}`, "Content-Type", "application/json"); status != 200 {
		c.t.Fatalf("publish: %d %+v", status, a)
	}
}

func (c *player) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.said, "\n") + "\n--\n" + c.events()
}
