package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/sessions"
)

// adminStore answers Lookup and Ready as a test wants.
type adminStore struct {
	sessions.Store
	totals map[sessions.ID]uint64
	down   error
}

func (s *adminStore) Ready() error { return s.down }

func (s *adminStore) Lookup(ctx context.Context, id sessions.ID) (uint64, error) {
	if _, ok := ctx.Deadline(); !ok {
		return 0, errors.New("lookup without a deadline")
	}
	if s.down != nil {
		return 0, s.down
	}
	total, ok := s.totals[id]
	if !ok {
		return 0, sessions.ErrNotFound
	}
	return total, nil
}

func adminGet(t *testing.T, h http.Handler, method, target string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func TestAdminAnswers(t *testing.T) {
	known, unknown := sessions.NewID(), sessions.NewID()
	up := &adminStore{totals: map[sessions.ID]uint64{known: 1<<63 + 5}}
	down := &adminStore{down: fmt.Errorf("%w: connection refused", sessions.ErrUnavailable)}
	draining := func() error { return errors.New("draining") }

	for _, tc := range []struct {
		name           string
		cfg            AdminConfig
		method, target string
		status         int
		body           string // whole, or with … a part of it
	}{
		{"health", AdminConfig{Ready: draining, Store: down}, "GET", "/healthz", 200, "ok\n"},
		{"ready", AdminConfig{Store: up}, "GET", "/readyz", 200, "ready\n"},
		{"ready without a store", AdminConfig{}, "GET", "/readyz", 200, "ready\n"},
		{"draining", AdminConfig{Ready: draining, Store: up}, "GET", "/readyz", 503, "not ready: draining\n"},
		{"store down", AdminConfig{Store: down}, "GET", "/readyz", 503, "not ready: session store unavailable: connection refused\n"},
		{"head", AdminConfig{Ready: draining}, "HEAD", "/readyz", 503, "…"},

		{"known session", AdminConfig{Store: up}, "GET", "/sessions/" + known.String(), 200,
			`{"session_id":"` + known.String() + `","count":9223372036854775813}` + "\n"},
		{"upper case", AdminConfig{Store: up}, "GET", "/sessions/" + strings.ToUpper(known.String()), 200, `…"session_id":"` + known.String()},
		{"unknown session", AdminConfig{Store: up}, "GET", "/sessions/" + unknown.String(), 404, `{"error":"no such session"}` + "\n"},
		{"no sessions", AdminConfig{}, "GET", "/sessions/" + unknown.String(), 404, `{"error":"this gateway keeps no sessions"}` + "\n"},
		{"malformed", AdminConfig{Store: up}, "GET", "/sessions/1234", 400, `…malformed session id`},
		{"malformed without a store", AdminConfig{}, "GET", "/sessions/1234", 400, `…malformed session id`},
		{"store cannot answer", AdminConfig{Store: down}, "GET", "/sessions/" + known.String(), 503, "…session store unavailable"},
		{"session by post", AdminConfig{Store: up}, "POST", "/sessions/" + known.String(), 405, "…"},
		{"session by delete", AdminConfig{Store: up}, "DELETE", "/sessions/" + known.String(), 405, "…"},
		{"no id", AdminConfig{Store: up}, "GET", "/sessions/", 404, "…"},
		{"deeper", AdminConfig{Store: up}, "GET", "/sessions/" + known.String() + "/x", 404, "…"},

		{"metrics", AdminConfig{}, "GET", "/metrics", 200, "…sluice_startup_seconds "},
		{"process metrics", AdminConfig{}, "GET", "/metrics", 200, "…process_resident_memory_bytes "},
		{"go metrics", AdminConfig{}, "GET", "/metrics", 200, "…go_goroutines "},
		{"metrics by post", AdminConfig{}, "POST", "/metrics", 405, "…"},
		{"index", AdminConfig{}, "GET", "/", 200, "…/debug/pprof/"},
		{"profiles", AdminConfig{}, "GET", "/debug/pprof/", 200, "…goroutine"},
		{"a profile", AdminConfig{}, "GET", "/debug/pprof/goroutine?debug=1", 200, "…goroutine profile: total"},
		{"command line", AdminConfig{}, "GET", "/debug/pprof/cmdline", 403, "…secrets"},
		{"elsewhere", AdminConfig{}, "GET", "/nowhere", 404, "…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, body := adminGet(t, NewAdmin(tc.cfg), tc.method, tc.target)
			if res.StatusCode != tc.status {
				t.Errorf("%s %s: got %d %q, want %d", tc.method, tc.target, res.StatusCode, body, tc.status)
			}
			if part, ok := strings.CutPrefix(tc.body, "…"); ok && !strings.Contains(body, part) || !ok && body != tc.body {
				t.Errorf("%s %s: got body %.200q, want %q", tc.method, tc.target, body, tc.body)
			}
			if got := res.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
			if tc.status == 503 && strings.HasPrefix(tc.target, "/sessions/") && res.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
}

// What a client writes in the URL must not come back as anything but inert text.
func TestAdminDoesNotEchoInput(t *testing.T) {
	h := NewAdmin(AdminConfig{Store: &adminStore{}})
	for _, target := range []string{
		"/sessions/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
		"/sessions/%22%0d%0aSet-Cookie:%20a=b",
		"/sessions/" + strings.Repeat("a", 10_000),
	} {
		res, body := adminGet(t, h, "GET", target)
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60s: got %d, want 400", target, res.StatusCode)
		}
		if strings.Contains(body, "script") || strings.Contains(body, "Cookie") || len(body) > 200 || len(res.Header["Set-Cookie"]) > 0 {
			t.Errorf("%.60s: the answer repeats the input: %.200q", target, body)
		}
	}
}

func TestAdminVersion(t *testing.T) {
	res, body := adminGet(t, NewAdmin(AdminConfig{}), "GET", "/version")
	var b Build
	if err := json.Unmarshal([]byte(body), &b); err != nil || res.StatusCode != 200 {
		t.Fatalf("got %d %q: %v", res.StatusCode, body, err)
	}
	if b != ReadBuild() || b.Version == "" || b.Commit == "" || !strings.HasPrefix(b.Go, "go") {
		t.Errorf("got %+v, want %+v with every field set", b, ReadBuild())
	}
}

func TestAdminProcessTimes(t *testing.T) {
	SetStartup(1500 * time.Millisecond)
	SetShutdown(250 * time.Millisecond)
	defer SetStartup(0)
	defer SetShutdown(0)
	_, body := adminGet(t, NewAdmin(AdminConfig{}), "GET", "/metrics")
	for _, want := range []string{"sluice_startup_seconds 1.5\n", "sluice_shutdown_seconds 0.25\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
}

func TestAdminServerIsBounded(t *testing.T) {
	s := NewAdminServer(AdminConfig{})
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("an unbounded admin server: %+v", s)
	}
	if s.WriteTimeout < time.Minute {
		t.Errorf("WriteTimeout %v leaves no time for a 30 s profile", s.WriteTimeout)
	}
}
