package check

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
)

// gateway is a counting service with a fault.
type gateway struct {
	fault  string
	counts map[string]uint64
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" {
		if g.fault == "ready" {
			http.Error(w, "draining", http.StatusServiceUnavailable)
		}
		return
	}
	if g.fault == "handshake" {
		http.Error(w, "full", http.StatusServiceUnavailable)
		return
	}
	var up websocket.Upgrader
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer ws.Close()
	say := func(format string, args ...any) {
		ws.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, format, args...))
	}
	if g.fault == "echo" {
		say(`{"ts":"2026-01-01T00:00:00.000Z"}`)
		for {
			op, p, err := ws.ReadMessage()
			if err != nil {
				return
			}
			ws.WriteMessage(op, p)
		}
	}
	id := r.URL.Query().Get("session_id")
	resumed := id != "" && g.fault != "forgets"
	if id == "" || g.fault == "another" {
		id = uuid.NewString()
	}
	if !resumed {
		g.counts[id] = 0
	}
	if g.fault != "silent" {
		say(`{"session_id":%q,"count":%d,"resumed":%v}`, id, g.counts[id], resumed)
	}
	ws.SetCloseHandler(func(code int, _ string) error {
		say(`{"bye":true,"total":%d}`, g.counts[id])
		if g.fault == "close" {
			code = websocket.CloseInternalServerErr
		}
		return ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(time.Second))
	})
	for {
		if _, _, err := ws.ReadMessage(); err != nil {
			return
		}
		if g.counts[id]++; g.fault == "double" {
			g.counts[id]++
		}
		say(`{"ts":"2026-01-01T00:00:00.000Z"}`)
		say(`{"count":%d}`, g.counts[id])
	}
}

func TestRun(t *testing.T) {
	for _, tc := range []struct{ fault, app, steps, says string }{
		{"", "count", "ready connect count close resume count close", ""},
		{"", "other", "ready connect close", ""},
		{"echo", "echo", "ready connect echo close", ""},
		{"", "echo", "ready connect echo", `got "{\"session_id\"`},
		{"ready", "count", "ready", "503 Service Unavailable: draining"},
		{"handshake", "count", "ready connect", "503 Service Unavailable: full"},
		{"silent", "count", "ready connect", "no welcome"},
		{"double", "count", "ready connect count", "counted as 2, want 1"},
		{"close", "count", "ready connect count close", "not answered with 1000"},
		{"forgets", "count", "ready connect count close resume", "count is 0, want 3"},
		{"another", "count", "ready connect count close resume", "got session"},
	} {
		t.Run(tc.fault+"/"+tc.app, func(t *testing.T) {
			server := httptest.NewServer(&gateway{fault: tc.fault, counts: make(map[string]uint64)})
			defer server.Close()
			timeout := time.Minute
			if tc.fault == "silent" {
				timeout = 200 * time.Millisecond // nothing comes, however long one waits
			}
			r, err := Run(t.Context(), Config{
				URL: "ws" + strings.TrimPrefix(server.URL, "http") + "/ws", App: tc.app, Timeout: timeout,
			})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range r.Steps {
				names = append(names, s.Name)
			}
			if got := strings.Join(names, " "); got != tc.steps || r.OK() != (tc.says == "") {
				t.Errorf("got %q, ok: %v, want %q", got, r.OK(), tc.steps)
			}
			var text strings.Builder
			if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), tc.says) {
				t.Errorf("%q is missing in\n%s", tc.says, &text)
			}
		})
	}
}

func TestRunInsistsOnWebSockets(t *testing.T) {
	for _, url := range []string{"", "http://host/", "ws://", "host:80", "ws://%zz"} {
		if _, err := Run(t.Context(), Config{URL: url}); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}
