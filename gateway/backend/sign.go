package backend

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// ParseKey reads a secret: plain text, "base64:…" as GRIP libraries take it, or "whsec_…" as
// Standard Webhooks libraries do.
func ParseKey(text string) ([]byte, error) {
	encoded, isBase64 := strings.CutPrefix(text, "base64:")
	if !isBase64 {
		if encoded, isBase64 = strings.CutPrefix(text, "whsec_"); !isBase64 {
			return []byte(text), nil
		}
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, errors.New("what follows base64: or whsec_ is not base64")
	}
	return key, nil
}

// signer proves to a backend where a request comes from. Grip-Sig is a JWT that says who has sent
// it, for GRIP libraries; webhook-id, -timestamp and -signature are Standard Webhooks' and cover
// the body. Both are HMAC-SHA256 with one key. Any goroutine.
type signer struct {
	issuer string
	key    []byte
	token  atomic.Pointer[gripToken]
}

type gripToken struct {
	text string
	made time.Time
}

const (
	tokenLife = time.Hour // as Pushpin's
	// the claims are the same for all requests of a second, and nearly so for a minute's
	tokenReuse = time.Minute
)

// newSigner returns nil when there is no key: then nothing is signed.
func newSigner(issuer string, key []byte) *signer {
	if len(key) == 0 {
		return nil
	}
	return &signer{issuer: issuer, key: key}
}

// gripSig is a token that is valid for most of an hour.
func (s *signer) gripSig(now time.Time) string {
	if t := s.token.Load(); t != nil && now.Sub(t.made).Abs() < tokenReuse {
		return t.text
	}
	claims := jwt.MapClaims{"iss": s.issuer, "exp": now.Add(tokenLife).Unix()}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(s.key)
	if err != nil {
		panic(err) // HMAC takes any key
	}
	s.token.Store(&gripToken{text, now})
	return text
}

// sign adds the headers to a request with this body. id must have no full stop in it.
func (s *signer) sign(h http.Header, id string, now time.Time, body []byte) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	h["Webhook-Timestamp"] = []string{timestamp}
	h["Webhook-Signature"] = []string{"v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))}
	h["Grip-Sig"] = []string{s.gripSig(now)}
}
