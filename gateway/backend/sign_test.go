package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestParseKey(t *testing.T) {
	for text, want := range map[string]string{"plain": "plain", "base64:aGk=": "hi",
		"whsec_aGk=": "hi", "": ""} {
		if got, err := ParseKey(text); err != nil || string(got) != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"base64:?", "base64:", "whsec_", "whsec_a"} {
		if _, err := ParseKey(text); err == nil {
			t.Errorf("%q: want an error", text)
		}
	}
}

// The vector is that of the Standard Webhooks libraries' own tests.
func TestWebhookSignature(t *testing.T) {
	key, err := ParseKey("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	newSigner("sluice", key).sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0),
		[]byte(`{"test": 2432232314}`))
	if got, want := h.Get("webhook-signature"),
		"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature: got %q, want %q", got, want)
	}
	if got := h.Get("webhook-timestamp"); got != "1614265330" {
		t.Errorf("timestamp: got %q", got)
	}
}

func TestGripSig(t *testing.T) {
	s := newSigner("sluice", []byte("changeme"))
	now := time.Now()
	text := s.gripSig(now)
	claims := jwt.MapClaims{}
	if _, err := jwt.ParseWithClaims(text, claims,
		func(*jwt.Token) (any, error) { return []byte("changeme"), nil }, jwt.WithIssuer("sluice"), jwt.WithExpirationRequired(),
		jwt.WithValidMethods([]string{"HS256"})); err != nil {
		t.Fatal(err)
	}
	if exp, _ := claims.GetExpirationTime(); exp.Sub(now) < tokenLife-time.Minute ||
		exp.Sub(now) > tokenLife {
		t.Errorf("expires %v from now, want %v", exp.Sub(now), tokenLife)
	}
	if s.gripSig(now.Add(tokenReuse-time.Second)) != text {
		t.Error("a new token for each request")
	}
	if s.gripSig(now.Add(tokenReuse)) == text {
		t.Error("one token for ever")
	}
	if newSigner("sluice", nil) != nil {
		t.Error("a signer without a key")
	}
}

// Nothing gets past the guard that was not made with the key.
func FuzzGuard(f *testing.F) {
	key := []byte("0123456789abcdef0123456789abcdef")
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256,
		jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}).SignedString(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Bearer " + string(key))           // the key itself
	f.Add("Bearer " + token)                 // a JWT
	f.Add("Basic dXNlcjpwYXNzd29yZA==")      // user:password
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.") // a JWT without a signature
	f.Add("bearer")                          // no token
	f.Add("Bearer " + token[:len(token)-1])  // cut short
	f.Add("Bearer ....")                     // nothing but full stops
	f.Fuzz(func(t *testing.T, text string) {
		r := &http.Request{Host: "x", Header: http.Header{"Authorization": {text}}}
		g := guard{key}
		_, credentials, _ := strings.Cut(text, " ")
		_, password, _ := r.BasicAuth()
		good := credentials == string(key) || credentials == token || password == string(key)
		if status, err := g.check(r); err == nil && !good || status == 0 && err != nil {
			t.Errorf("%q: got %d, %v", text, status, err)
		}
		g.key = nil
		r = &http.Request{Host: text, Header: http.Header{}}
		if _, err := g.check(r); err == nil && !isLocalHost(text) {
			t.Errorf("host %q was let in", text)
		}
	})
}
