package admin

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

const token = "0123456789abcdef"

// ask sends a request with headers NAME, VALUE, …
func ask(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for pair := range slices.Chunk(headers, 2) {
		r.Header.Set(pair[0], pair[1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTokenGuardsEverything(t *testing.T) {
	a := New(Config{Token: token, Logger: slog.New(slog.DiscardHandler)})
	paths := []string{
		"/", "/events", "/metrics", "/healthz", "/readyz", "/sessions/x", "/version", "/debug/pprof/", "/nowhere",
	}
	for _, path := range paths {
		w := ask(a, "GET", path, "")
		if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") == "" {
			t.Errorf("%s without the token: %d", path, w.Code)
		}
		if strings.Contains(w.Body.String(), token) {
			t.Errorf("%s tells the token", path)
		}
	}
	for _, tc := range []struct {
		authorization string
		status        int
	}{
		{"Bearer " + token, 200},
		{"bearer " + token, 200},
		{"Bearer " + token[:15], 401},
		{"Bearer " + token + "0", 401},
		{"Bearer ", 401},
		{"Basic " + token, 401},
		{token, 401},
	} {
		if w := ask(a, "GET", "/healthz", "", "Authorization", tc.authorization); w.Code != tc.status {
			t.Errorf("%q: %d, want %d", tc.authorization, w.Code, tc.status)
		}
	}
	if w := ask(New(Config{}), "GET", "/healthz", ""); w.Code != http.StatusOK {
		t.Errorf("no token is set, and none is shown: %d", w.Code)
	}
}

func TestSignIn(t *testing.T) {
	a := New(Config{Token: token, Logger: slog.New(slog.DiscardHandler)})
	const form = "application/x-www-form-urlencoded"
	if w := ask(a, "GET", "/", "", "Accept", "text/html"); w.Code != 401 ||
		!strings.Contains(w.Body.String(), `<form method="post"`) {
		t.Errorf("a browser gets %d and no form", w.Code)
	}
	wrong := ask(a, "POST", "/sign-in", "token=guess", "Content-Type", form, "Accept", "text/html")
	if wrong.Code != 401 || len(wrong.Result().Cookies()) != 0 {
		t.Errorf("a wrong token gets %d and %v", wrong.Code, wrong.Result().Cookies())
	}
	right := ask(a, "POST", "/sign-in", url.Values{"token": {token}}.Encode(), "Content-Type", form)
	cookies := right.Result().Cookies()
	if right.Code != http.StatusSeeOther || len(cookies) != 1 {
		t.Fatalf("the token gets %d and %v", right.Code, cookies)
	}
	c := cookies[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, token) {
		t.Errorf("cookie %v", c)
	}
	if w := ask(a, "GET", "/healthz", "", "Cookie", c.Name+"="+c.Value); w.Code != 200 {
		t.Errorf("with the cookie: %d", w.Code)
	}
	for _, now := range []struct {
		at    time.Duration
		allow bool
	}{{cookieLife - time.Minute, true}, {cookieLife + time.Minute, false}} {
		if a.guard.allowsCookie(c.Value, time.Now().Add(now.at)) != now.allow {
			t.Errorf("after %v: want %v", now.at, now.allow)
		}
	}
	expires, signature, _ := strings.Cut(c.Value, ".")
	for _, forged := range []string{"", ".", expires, expires + "0." + signature, "x." + signature, expires + ".00"} {
		if a.guard.allowsCookie(forged, time.Now()) {
			t.Errorf("%q is let in", forged)
		}
	}
	other := guard{"another token, as good"}
	if other.allowsCookie(c.Value, time.Now()) {
		t.Error("the cookie outlives its token")
	}
}

// series is what a Server with some traffic writes.
func series(n int) func(io.Writer) {
	return func(w io.Writer) {
		fmt.Fprintf(w, "sluice_connections %d\nsluice_messages_received_total %d\n", n, n*1000)
		fmt.Fprintf(w, "sluice_handshakes_rejected_total{reason=\"path\"} %d\n", n)
		io.WriteString(w, "sluice_closes_total{code=\"1001\"} 3\n")
	}
}

func TestPage(t *testing.T) {
	lines := new(Lines)
	slog.New(lines.Handler()).Warn(`<script>alert("x")</script>`)
	slog.New(lines.Handler()).Info("not for the page")
	a := New(Config{
		Series: series(4321), Lines: lines, Ready: func() error { return fmt.Errorf("draining & tired") },
		Loops: func() []gateway.LoopSnapshot { return []gateway.LoopSnapshot{{Connections: 77}} },
	})
	text := ask(a, "GET", "/", "")
	html := ask(a, "GET", "/", "", "Accept", "text/html,*/*")
	for _, want := range []string{"4,321", "77", "draining", "1001 going away", "path"} {
		if !strings.Contains(text.Body.String(), want) || !strings.Contains(html.Body.String(), want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Contains(text.Body.String(), "not for the page") {
		t.Error("a line below warn is shown")
	}
	if strings.Contains(html.Body.String(), "<script>alert") {
		t.Error("a log line is taken for HTML")
	}
	if got := html.Header().Get("Content-Security-Policy"); got != pagePolicy || !strings.Contains(got, "script-src 'sha256-") {
		t.Errorf("policy %q", got)
	}
	for _, outside := range []string{"http://", "https://", "src=", "@import", "url("} {
		if strings.Contains(html.Body.String(), outside) {
			t.Errorf("the page asks for something elsewhere: %q", outside)
		}
	}
}

// TestEvents follows a page's numbers, and sees the goroutine that makes them end with the last
// page.
func TestEvents(t *testing.T) {
	a := New(Config{Series: series(5)})
	server := httptest.NewServer(a)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	follow := func() *http.Response {
		r, _ := http.NewRequestWithContext(ctx, "GET", server.URL+"/events", nil)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	var pages []*http.Response
	for range MaxViewers {
		resp := follow()
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s %v", resp.Status, resp.Header)
		}
		pages = append(pages, resp)
	}
	full := follow()
	full.Body.Close()
	if full.StatusCode != http.StatusServiceUnavailable || full.Header.Get("Retry-After") == "" {
		t.Errorf("one page too many: %s", full.Status)
	}
	for _, i := range []int{0, MaxViewers - 1} {
		scanner := bufio.NewScanner(pages[i].Body)
		scanner.Buffer(nil, 1<<20)
		var names []string
		for len(names) < 3 && scanner.Scan() {
			if name, found := strings.CutPrefix(scanner.Text(), "event: "); found {
				names = append(names, name)
			}
		}
		if !slices.Equal(names, []string{"history", "sample", "sample"}) {
			t.Errorf("page %d got %v, %v", i, names, scanner.Err())
		}
	}
	cancel()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		a.feed.mu.Lock()
		left, running := len(a.feed.viewers), a.feed.running
		a.feed.mu.Unlock()
		if left == 0 && !running {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d pages are left, running: %v", left, running)
		}
	}
}

// TestRates compares two samples: growth a second, and a histogram's quantile since the first.
func TestRates(t *testing.T) {
	at := time.Unix(1e9, 0)
	before := sample{at: at, readings: parse([]byte("x_total{a=\"1\"} 10\nh_bucket{le=\"0.1\"} 5\nh_bucket{le=\"+Inf\"} 5\n"))}
	last := sample{at: at.Add(2 * time.Second), readings: parse([]byte(
		"x_total{a=\"1\"} 14\nx_total{a=\"2\"} 2\nh_bucket{le=\"0.1\"} 5\nh_bucket{le=\"+Inf\"} 7\n"))}
	if got, ok := rate(last, before, "x_total"); !ok || got != 3 {
		t.Errorf("rate %v, %v, want 3", got, ok)
	}
	if got, ok := last.readings.quantile(before.readings, "h", 0.5); !ok || atMost(got) != "beyond the last bucket" {
		t.Errorf("quantile %v, %v", got, ok)
	}
	if _, ok := rate(last, sample{}, "x_total"); ok {
		t.Error("a rate from one sample")
	}
}

func TestHistoryKeepsItsSeconds(t *testing.T) {
	for _, n := range []int{chartSeconds - 1, chartSeconds, chartSeconds + 1} {
		var h history
		for i := range n {
			h.add(point{at: int64(i)})
		}
		got := h.points()
		if len(got) != min(n, chartSeconds) || got[0].at != int64(n-len(got)) || got[len(got)-1].at != int64(n-1) {
			t.Errorf("%d points: %d kept, from %d", n, len(got), got[0].at)
		}
	}
}

func TestLinesAreBounded(t *testing.T) {
	l := new(Lines)
	for _, size := range []int{maxLogLine - 1, maxLogLine, maxLogLine + 1} {
		l.Write([]byte(strings.Repeat("x", size) + "\n"))
		want := min(size, maxLogLine)
		if got := strings.TrimSuffix(l.Last()[0], "…"); len(got) != want {
			t.Errorf("%d bytes: %d kept", size, len(got))
		}
	}
	l.Write([]byte(strings.Repeat("é", maxLogLine) + "\n"))
	if got := l.Last()[0]; strings.ToValidUTF8(got, "") != got {
		t.Error("a character is cut in two")
	}
	for range 2 * maxLogLines {
		l.Write([]byte("again"))
	}
	if got := len(l.Last()); got != maxLogLines {
		t.Errorf("%d lines are kept, want %d", got, maxLogLines)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("a 1\nb{c=\"d\"} 2\n# HELP x y\n"))
	f.Add([]byte("a{ 1\n{=\"\" x\n \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if got := len(parse(text).series); got > len(text)/2 {
			t.Errorf("%d series from %d bytes", got, len(text))
		}
	})
}
