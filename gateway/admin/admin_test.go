package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/sessions"
)

// store answers Lookup and Ready as a test wants.
type store struct {
	sessions.Store
	totals map[sessions.ID]uint64
	down   error
}

func (s *store) Ready() error { return s.down }

func (s *store) Lookup(ctx context.Context, id sessions.ID) (uint64, error) {
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

func get(t *testing.T, h http.Handler, method, target string) (*http.Response, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Result(), string(body)
}

func TestAnswers(t *testing.T) {
	known, unknown := sessions.NewID(), sessions.NewID()
	up := &store{totals: map[sessions.ID]uint64{known: 1<<63 + 5}}
	down := &store{down: fmt.Errorf("%w: connection refused", sessions.ErrUnavailable)}
	draining := func() error { return errors.New("draining") }

	for _, tc := range []struct {
		name           string
		cfg            Config
		method, target string
		status         int
		body           string // whole, or with … a part of it
	}{
		{"health", Config{Ready: draining, Store: down}, "GET", "/healthz", 200, "ok\n"},
		{"ready", Config{Store: up}, "GET", "/readyz", 200, "ready\n"},
		{"ready without a store", Config{}, "GET", "/readyz", 200, "ready\n"},
		{"draining", Config{Ready: draining, Store: up}, "GET", "/readyz", 503, "not ready: draining\n"},
		{"store down", Config{Store: down}, "GET", "/readyz", 503, "not ready: session store unavailable: connection refused\n"},
		{"head", Config{Ready: draining}, "HEAD", "/readyz", 503, "…"},

		{"known session", Config{Store: up}, "GET", "/sessions/" + known.String(), 200,
			`{"session_id":"` + known.String() + `","count":9223372036854775813}` + "\n"},
		{"upper case", Config{Store: up}, "GET", "/sessions/" + strings.ToUpper(known.String()), 200, `…"session_id":"` + known.String()},
		{"unknown session", Config{Store: up}, "GET", "/sessions/" + unknown.String(), 404, `{"error":"no such session"}` + "\n"},
		{"no sessions", Config{}, "GET", "/sessions/" + unknown.String(), 404, `{"error":"this gateway keeps no sessions"}` + "\n"},
		{"malformed", Config{Store: up}, "GET", "/sessions/1234", 400, `…malformed session id`},
		{"malformed without a store", Config{}, "GET", "/sessions/1234", 400, `…malformed session id`},
		{"store cannot answer", Config{Store: down}, "GET", "/sessions/" + known.String(), 503, "…session store unavailable"},
		{"session by post", Config{Store: up}, "POST", "/sessions/" + known.String(), 405, "…"},
		{"session by delete", Config{Store: up}, "DELETE", "/sessions/" + known.String(), 405, "…"},
		{"no id", Config{Store: up}, "GET", "/sessions/", 404, "…"},
		{"deeper", Config{Store: up}, "GET", "/sessions/" + known.String() + "/x", 404, "…"},

		{"metrics", Config{}, "GET", "/metrics", 200, "…sluice_startup_seconds "},
		{"process metrics", Config{}, "GET", "/metrics", 200, "…process_resident_memory_bytes "},
		{"go metrics", Config{}, "GET", "/metrics", 200, "…go_goroutines "},
		{"metrics by post", Config{}, "POST", "/metrics", 405, "…"},
		{"index", Config{}, "GET", "/", 200, "…/debug/pprof/"},
		{"profiles", Config{}, "GET", "/debug/pprof/", 200, "…goroutine"},
		{"a profile", Config{}, "GET", "/debug/pprof/goroutine?debug=1", 200, "…goroutine profile: total"},
		{"command line", Config{}, "GET", "/debug/pprof/cmdline", 403, "…secrets"},
		{"elsewhere", Config{}, "GET", "/nowhere", 404, "…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res, body := get(t, New(tc.cfg), tc.method, tc.target)
			if res.StatusCode != tc.status {
				t.Errorf(
					"%s %s: got %d %q, want %d",
					tc.method,
					tc.target,
					res.StatusCode,
					body,
					tc.status,
				)
			}
			if part, ok := strings.CutPrefix(tc.body, "…"); ok && !strings.Contains(body, part) ||
				!ok && body != tc.body {
				t.Errorf("%s %s: got body %.200q, want %q", tc.method, tc.target, body, tc.body)
			}
			if got := res.Header.Get("Cache-Control"); got != "no-store" {
				t.Errorf("got Cache-Control %q, want no-store", got)
			}
			if tc.status == 503 && strings.HasPrefix(tc.target, "/sessions/") &&
				res.Header.Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
}

// What a client writes in the URL must not come back as anything but inert text.
func TestDoesNotEchoInput(t *testing.T) {
	h := New(Config{Store: &store{}})
	for _, target := range []string{
		"/sessions/%3Cscript%3Ealert(1)%3C%2Fscript%3E",
		"/sessions/%22%0d%0aSet-Cookie:%20a=b",
		"/sessions/" + strings.Repeat("a", 10_000),
	} {
		res, body := get(t, h, "GET", target)
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60s: got %d, want 400", target, res.StatusCode)
		}
		if strings.Contains(body, "script") || strings.Contains(body, "Cookie") ||
			len(body) > 200 ||
			len(res.Header["Set-Cookie"]) > 0 {
			t.Errorf("%.60s: the answer repeats the input: %.200q", target, body)
		}
	}
}

func TestVersion(t *testing.T) {
	res, body := get(t, New(Config{}), "GET", "/version")
	var b gateway.Build
	if err := json.Unmarshal([]byte(body), &b); err != nil || res.StatusCode != 200 {
		t.Fatalf("got %d %q: %v", res.StatusCode, body, err)
	}
	if b != gateway.ReadBuild() || b.Version == "" || b.Commit == "" ||
		!strings.HasPrefix(b.Go, "go") {
		t.Errorf("got %+v, want %+v with every field set", b, gateway.ReadBuild())
	}
}

func TestProcessTimes(t *testing.T) {
	gateway.SetStartup(1500 * time.Millisecond)
	gateway.SetShutdown(250 * time.Millisecond)
	defer gateway.SetStartup(0)
	defer gateway.SetShutdown(0)
	_, body := get(t, New(Config{}), "GET", "/metrics")
	for _, want := range []string{"sluice_startup_seconds 1.5\n", "sluice_shutdown_seconds 0.25\n"} {
		if !strings.Contains(body, want) {
			t.Errorf("/metrics has no %q", want)
		}
	}
}

func TestServerIsBounded(t *testing.T) {
	s := New(Config{}).Server()
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 ||
		s.IdleTimeout <= 0 ||
		s.MaxHeaderBytes <= 0 {
		t.Errorf("an unbounded admin server: %+v", s)
	}
	if s.WriteTimeout < time.Minute {
		t.Errorf("WriteTimeout %v leaves no time for a 30 s profile", s.WriteTimeout)
	}
}

// A page of a hostile name that resolves to loopback reads nothing from the admin address.
func TestHost(t *testing.T) {
	for _, tc := range []struct {
		local, host string
		want        int
	}{
		{"127.0.0.1", "127.0.0.1:8001", 200}, {"127.0.0.1", "localhost:8001", 200}, {"127.0.0.1", "LOCALHOST", 200},
		{"127.0.0.1", "[::1]:8001", 200}, {"127.0.0.1", "evil.example", 421}, {"127.0.0.1", "evil.example:8001", 421},
		{"127.0.0.1", "localhost.evil.example", 421}, {"192.0.2.1", "gateway.internal:8001", 200},
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Host = tc.host
		local := &net.TCPAddr{IP: net.ParseIP(tc.local), Port: 8001}
		w := httptest.NewRecorder()
		New(
			Config{},
		).ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local))))
		if w.Code != tc.want {
			t.Errorf("on %s with Host %s: got %d, want %d", tc.local, tc.host, w.Code, tc.want)
		}
	}
}
