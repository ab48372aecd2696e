package service

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func post(t *testing.T, s *Service, target, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, target, strings.NewReader(body)))
	text, _ := io.ReadAll(w.Body)
	return w.Code, strings.ReplaceAll(string(text), "\r\n", "|")
}

func TestService(t *testing.T) {
	s := new(Service)
	for _, tc := range []struct {
		target, body string
		status       int
		want         string
	}{
		{"/ws/?topic=a&topic=b", "OPEN\r\n", 200, `OPEN|TEXT 24|c:{"channel":"a","type":"subscribe"}|` +
			`TEXT 24|c:{"channel":"b","type":"subscribe"}|`},
		{"/ws/", "TEXT 5\r\nhello\r\nBINARY 2\r\n\r\n\r\n", 200, "TEXT 7|m:hello|BINARY 4|m:||"},
		{"/ws/", "TEXT 0\r\n\r\nTEXT 0\r\n\r\nTEXT 0\r\n\r\nDISCONNECT\r\n", 200,
			"TEXT 2|m:|TEXT 2|m:|TEXT 2|m:|"},
		{"/ws/", "CLOSE 2\r\n\x03\xe8\r\n", 200, "CLOSE 2|\x03\xe8|"},
		{"/ws/", "TEXT 6\r\nhello\r\n", 400, ""},
		{"/ws/", "TEXT ffffffffffffffff\r\n", 400, ""},
		{"/ws/", "TEXT", 400, ""},
	} {
		status, got := post(t, s, tc.target, tc.body)
		if status != tc.status || status == 200 && got != tc.want {
			t.Errorf("%q: got %d %q, want %d %q", tc.body, status, got, tc.status, tc.want)
		}
	}
	want := Stats{Requests: 4, Opened: 1, Messages: 5, Closed: 2, Malformed: 3}
	want.Batches[1], want.Batches[2] = 1, 1
	if got := s.Stats(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzNextEvent(f *testing.F) {
	f.Add([]byte("OPEN\r\n"))                   // without content
	f.Add([]byte("TEXT 5\r\nhello\r\n"))        // with
	f.Add([]byte("TEXT ffffffff\r\nhello\r\n")) // longer than there is
	f.Fuzz(func(t *testing.T, b []byte) {
		_, content, rest, err := nextEvent(b)
		if err == nil && len(content)+len(rest) >= len(b) {
			t.Fatalf("%q: %d and %d bytes of %d", b, len(content), len(rest), len(b))
		}
	})
}
