package backend

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

func asClose(err error, to *websocket.CloseError) bool { return errors.As(err, to) }

// The life of a connection as the backend sees it, in the protocol's own bytes.
func TestLife(t *testing.T) {
	b := newService(t, nil)
	e := newEdge(t, Config{}, b.URL)
	c := e.dial(t, "/ws/chat/?a=1&b", "Cookie", "session=7")
	c.send("hello")
	c.want("hello")
	if err := c.Write(t.Context(), websocket.MessageBinary, []byte("\r\n")); err != nil {
		t.Fatal(err)
	}
	c.want("binary \r\n")
	c.Close(4001, "bye")
	await(t, "the backend has heard of the end",
		func() bool { return strings.Count(b.bodies(), "CLOSE") == 1 })
	if got, want := b.bodies(), "OPEN|TEXT 5 hello|BINARY 2|CLOSE 5 \x0f\xa1bye"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	id := b.seen()[0].id
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$`).MatchString(id) {
		t.Errorf("Connection-Id %q is not a UUID", id)
	}
	for i, r := range b.seen() {
		for name, want := range map[string]string{"Connection-Id": id, "Content-Type": contentType,
			"Accept": contentType, "Cookie": "session=7", "Sec-Websocket-Extensions": "grip",
			"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http",
			"X-Forwarded-Host": strings.TrimPrefix(e.url, "ws://")} {
			if got := strings.Join(r.header[name], ","); got != want {
				t.Errorf("request %d: %s is %q, want %q", i, name, got, want)
			}
		}
		if r.path != "/ws/chat/?a=1&b" {
			t.Errorf("request %d: path %q", i, r.path)
		}
		if got := r.host; got != strings.TrimPrefix(b.URL, "http://") {
			t.Errorf("request %d: Host %q", i, got)
		}
	}
}

func TestAnswersThatAreNotOpen(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		status int
		body   string
	}{
		{"401", func(w http.ResponseWriter) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "who are you?", 401)
		}, 401, "who are you?\n"},
		{"a page", func(w http.ResponseWriter) { io.WriteString(w, "a page") }, 200, "a page"},
		{"redirect", func(w http.ResponseWriter) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(302)
		}, 302, ""},
		{"500", func(w http.ResponseWriter) { http.Error(w, "oops", 500) }, 500, "oops\n"},
		{"no events", func(w http.ResponseWriter) { w.Header().Set("Content-Type", contentType) }, 502,
			""},
		{"events without OPEN", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "TEXT 0\r\n\r\n")
		}, 502, ""},
		{"garbage", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", contentType)
			io.WriteString(w, "OPEN\r\nTEXT zz\r\n")
		}, 502, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newService(t, func(w http.ResponseWriter, _ *http.Request, _ string) { tt.answer(w) })
			e := newEdge(t, Config{}, b.URL)
			_, res, err := e.tryDial("/ws/chat/")
			if err == nil || res == nil || res.StatusCode != tt.status {
				t.Fatalf("got %v, %v; want status %d", res, err, tt.status)
			}
			if body, _ := io.ReadAll(res.Body); tt.body != "" && string(body) != tt.body {
				t.Errorf("body %q, want %q", body, tt.body)
			}
			if tt.status == 401 && res.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("headers %v", res.Header)
			}
		})
	}
}
