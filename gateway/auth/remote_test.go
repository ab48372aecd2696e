package auth

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// eventually waits until ok reports true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// keyServer serves what set holds; nil is an error.
type keyServer struct {
	*httptest.Server
	set   atomic.Pointer[string]
	asked atomic.Int32
}

func newKeyServer(t *testing.T) *keyServer {
	s := new(keyServer)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		if text := s.set.Load(); text != nil {
			io.WriteString(w, *text)
		} else {
			http.Error(w, "down", http.StatusInternalServerError)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) serve(keys map[string]pair) {
	text := jwks(keys)
	s.set.Store(&text)
}

func remote(t *testing.T, s *keyServer, every, soon time.Duration) (*Remote, *verifier) {
	t.Helper()
	r, err := NewRemote(RemoteConfig{URL: s.URL, Algorithm: ES256, Every: every, soon: soon, Timeout: 10 * time.Second,
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, newVerifier(&Config{Algorithm: ES256, Remote: r, now: func() time.Time { return noon }})
}

func TestRemoteKeysRotate(t *testing.T) {
	s := newKeyServer(t)
	old, next := newEC(), newEC()
	s.serve(map[string]pair{"1": old})
	r, v := remote(t, s, time.Hour, time.Millisecond)
	eventually(t, "the first reading", func() bool { return r.Ready() == nil })
	first, second := sign(jwt.SigningMethodES256, old.private, claims(), "kid", "1"), sign(jwt.SigningMethodES256, next.private, claims(), "kid", "2")
	if _, got := v.verify(first); got != valid {
		t.Fatalf("the first key: got %v", got)
	}
	// A new key is found by the first token that names it.
	s.serve(map[string]pair{"1": old, "2": next})
	time.Sleep(2 * time.Millisecond) // soon
	if _, got := v.verify(second); got != unknownKey {
		t.Fatalf("a key that is new: got %v, want unknown_key", got)
	}
	eventually(t, "the second key", func() bool { _, got := v.verify(second); return got == valid })
	// A key that was withdrawn is not taken any more, once that was read.
	s.serve(map[string]pair{"2": next})
	third := sign(jwt.SigningMethodES256, next.private, claims(), "kid", "3")
	eventually(t, "the end of the first key", func() bool {
		v.verify(third)
		_, got := v.verify(first)
		return got == forged
	})
	// The id of one key does not select another.
	if _, got := v.verify(sign(jwt.SigningMethodES256, old.private, claims(), "kid", "2")); got != forged {
		t.Errorf("the old key under the new id: got %v, want forged", got)
	}
}

func TestRemoteDown(t *testing.T) {
	s := newKeyServer(t)
	k := newEC()
	token := sign(jwt.SigningMethodES256, k.private, claims(), "kid", "1")
	r, v := remote(t, s, time.Millisecond, time.Millisecond)
	eventually(t, "a failed reading", func() bool { return s.asked.Load() > 0 })
	if _, got := v.verify(token); got != noKeys || r.Ready() == nil {
		t.Fatalf("without keys: got %v, ready %v", got, r.Ready())
	}
	s.serve(map[string]pair{"1": k})
	eventually(t, "the keys", func() bool { return r.Ready() == nil })
	for _, broken := range []*string{nil, new("<html>"), new(`{"keys":[]}`), new(strings.Repeat(" ", mostSet+1))} {
		s.set.Store(broken)
		before := s.asked.Load()
		eventually(t, "two more readings", func() bool { return s.asked.Load() > before+1 })
		if _, got := v.verify(token); got != valid {
			t.Fatalf("with the server broken: got %v, the last keys do not stand", got)
		}
	}
}

// TestInventedKeyIDsDoNotFloodTheKeyServer: they are refused at once, and cause one reading in each
// interval at most.
func TestInventedKeyIDsDoNotFloodTheKeyServer(t *testing.T) {
	s := newKeyServer(t)
	k := newEC()
	s.serve(map[string]pair{"1": k})
	r, v := remote(t, s, time.Hour, time.Hour)
	eventually(t, "the keys", func() bool { return r.Ready() == nil && !r.busy.Load() })
	token := sign(jwt.SigningMethodES256, k.private, claims(), "kid", "invented")
	for range 1000 {
		if _, got := v.verify(token); got != forged {
			t.Fatalf("got %v, want forged", got)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
}

func TestCheckURL(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://issuer.example/jwks.json": true, "http://127.0.0.1:8080/jwks": true, "http://localhost/jwks": true, "http://[::1]/": true,
		"http://issuer.example/jwks.json": false, "ftp://issuer.example/": false, "issuer.example": false, "": false,
		"http://127.0.0.1.example/": false, "https://x/#y": false,
	} {
		if err := CheckURL(url); (err == nil) != ok {
			t.Errorf("%q: error %v, want ok %v", url, err, ok)
		}
	}
}

// TestRedirectsStayPrivate: a redirect must not lead to keys over plain HTTP.
func TestRedirectsStayPrivate(t *testing.T) {
	asked := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host
		http.Redirect(w, r, "http://issuer.example/jwks", http.StatusFound)
	}))
	defer s.Close()
	r, err := NewRemote(RemoteConfig{URL: s.URL, Algorithm: ES256, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	eventually(t, "a failed reading", func() bool { return len(asked) > 0 && !r.busy.Load() })
	if host := <-asked; !strings.HasPrefix(host, "127.0.0.1") || r.Ready() == nil {
		t.Errorf("asked %s, ready %v", host, r.Ready())
	}
}
