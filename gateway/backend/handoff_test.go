package backend

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway/topics"
)

// handoffs is a process that another one takes over from, and that one, with a client of it.
type handoffs struct {
	old, new       *Control
	oldURL, newURL *url.URL
	next           *edge
	client         *client
	id             string // of client
}

func newHandoffs(t *testing.T) *handoffs {
	b := subscriberService(t)
	before := newEdge(t, Config{}, b.URL)
	h := &handoffs{next: newEdge(t, Config{}, b.URL)}
	open := func(e *edge) (*Control, *url.URL) {
		c := NewControl(ControlConfig{Hub: e.hub, App: e.app})
		s := httptest.NewServer(c)
		t.Cleanup(func() { s.Close(); c.Close() })
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		return c, u
	}
	h.old, h.oldURL = open(before)
	h.new, h.newURL = open(h.next)
	h.client = h.next.dial(t, "/?topics=a")
	h.id, _ = strings.CutPrefix(h.client.next(), "ready ")
	return h
}

// TestForward: requests that come while the topics are handed over wait, and are answered by the
// process that has them then; so are all later ones that reach the old process.
func TestForward(t *testing.T) {
	h := newHandoffs(t)
	h.old.Pause()
	answered := make(chan *http.Response)
	publish := func(text string) {
		res, err := http.Post(h.oldURL.String()+"/publish?topic=a", "text/plain", strings.NewReader(text))
		if err != nil {
			t.Error(err)
			close(answered)
			return
		}
		answered <- res
	}
	want := func() {
		res := <-answered
		if res == nil {
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != 200 || !res.Close || !strings.Contains(string(body), `"subscribers":1`) {
			t.Errorf("status %d, %s, to be closed: %v; want 200, one subscriber, and true",
				res.StatusCode, body, res.Close)
		}
	}
	go publish("1")
	select {
	case <-answered:
		t.Error("it is answered in the middle of the handoff")
	case <-time.After(50 * time.Millisecond):
	}
	h.old.Forward(h.newURL)
	want()
	go publish("2")
	want()
	h.client.want("1", "2")
	if status, _, _ := ask(t, "POST", h.oldURL.String()+"/connections/"+h.id+"/send", "3"); status != 200 {
		t.Errorf("to a connection: status %d, want 200", status)
	}
	h.client.want("3")
}

// TestForwardToNobody: who publishes is told when the process that has taken over does not answer.
func TestForwardToNobody(t *testing.T) {
	h := newHandoffs(t)
	h.old.Pause()
	h.old.Forward(&url.URL{Scheme: "http", Host: "127.0.0.1:1"})
	status, a, header := ask(t, "POST", h.oldURL.String()+"/publish?topic=a", "1")
	if status != 503 || a.Error == "" || header.Get("Retry-After") == "" {
		t.Errorf("status %d, %+v; want 503 with a reason, and when to try again", status, a)
	}
}

func TestResume(t *testing.T) {
	h := newHandoffs(t)
	h.old.Give(func([]byte) error { return nil })
	h.old.Pause()
	h.old.Resume()
	h.old.Resume() // a takeover may fail before it pauses anything
	if status, _, _ := ask(t, "POST", h.oldURL.String()+"/publish?topic=a", "1"); status != 200 {
		t.Errorf("status %d, want 200", status)
	}
	path := h.oldURL.String() + "/connections/" + h.id + "/send"
	if status, _, _ := ask(t, "POST", path, "2"); status != 404 {
		t.Errorf("to a connection that is elsewhere: status %d, want 404", status)
	}
}

// TestGivePassesOn: what is for a connection that has gone to the other process reaches it there.
func TestGivePassesOn(t *testing.T) {
	h := newHandoffs(t)
	h.old.Give(h.next.app.CarryOut)
	at := h.oldURL.String() + "/connections/" + h.id
	for _, tt := range []struct{ method, path, body, want string }{
		{"POST", "/send", "1", "1"},
		{"POST", "/send?type=binary", "\xff", "binary \xff"},
		{"POST", "/close?code=4000&reason=enough", "", "closed 4000 enough"},
	} {
		if status, a, _ := ask(t, tt.method, at+tt.path, tt.body); status != 200 {
			t.Errorf("%s: status %d, %+v; want 200", tt.path, status, a)
		}
		h.client.want(tt.want)
	}
	if status, _, header := ask(t, "GET", at, ""); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("GET: status %d, want 503 and when to try again", status)
	}
	if status, _, _ := ask(t, "POST", h.oldURL.String()+"/connections/nonsense/send", ""); status != 400 {
		t.Errorf("not an id: status %d, want 400", status)
	}
}

// TestPausePublishesWhatWaits: the other process would never hear of it.
func TestPausePublishesWhatWaits(t *testing.T) {
	b := subscriberService(t)
	e := newEdge(t, Config{}, b.URL)
	c := NewControl(ControlConfig{Hub: e.hub, App: e.app})
	defer c.Close()
	client := e.dial(t, "/?topics=a")
	client.next()
	number := func(id, prev string) item {
		return item{topic: "a", id: id, prevID: prev, seq: true, action: publishSend, op: ws.OpText,
			content: []byte(id)}
	}
	for _, it := range []item{number("1", "0"), number("5", "4"), number("6", "5"), number("2", "1")} {
		if _, err := c.one(t.Context(), it); err != nil {
			t.Fatal(err)
		}
	}
	client.want("1", "2")
	c.Pause()
	client.want("5", "6")
	if c.sequencer.count != 0 || len(c.sequencer.waiting) != 0 {
		t.Errorf("%d items still wait", c.sequencer.count)
	}
	c.Resume()
}

// FuzzCarryOut: no bytes crash what reads another process' items, and what was written is read.
func FuzzCarryOut(f *testing.F) {
	hub, err := topics.New(topics.Config{})
	if err != nil {
		f.Fatal(err)
	}
	app := &App{hub: hub}
	for _, it := range []item{
		{connection: "123e4567-e89b-42d3-a456-426614170000", action: publishSend, op: ws.OpText, content: []byte("x")},
		{topic: "a", action: publishRefresh},
		{topic: "a", action: publishClose, code: 1000, reason: "enough"},
	} {
		b := it.append(nil)
		r := reader{b: b}
		if got := r.item(); r.err != nil || got.connection != it.connection || got.action != it.action ||
			got.code != it.code || got.reason != it.reason {
			f.Errorf("read %+v (%v), want %+v", got, r.err, it)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _ = app.CarryOut(b) })
}
