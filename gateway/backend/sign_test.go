package backend

import (
	"net/http"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestParseKey(t *testing.T) {
	for text, want := range map[string]string{"plain": "plain", "base64:aGk=": "hi", "whsec_aGk=": "hi", "": ""} {
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
	newSigner("sluice", key).sign(h, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got, want := h.Get("webhook-signature"), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
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
	if _, err := jwt.ParseWithClaims(text, claims, func(*jwt.Token) (any, error) { return []byte("changeme"), nil }, jwt.WithIssuer("sluice"), jwt.WithExpirationRequired(), jwt.WithValidMethods([]string{"HS256"})); err != nil {
		t.Fatal(err)
	}
	if exp, _ := claims.GetExpirationTime(); exp.Sub(now) < tokenLife-time.Minute || exp.Sub(now) > tokenLife {
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
