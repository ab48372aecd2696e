package auth

import (
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

// Claims are what a valid token says.
type Claims struct {
	User    string // sub
	Expires time.Time
}

// verdict is what became of a token: the label of its metric.
type verdict uint8

const (
	valid     verdict = iota
	missing           // no token
	malformed         // no token in its form, or one with a user that cannot be passed on
	forged            // wrong algorithm, key or signature
	expired
	early      // not valid yet
	otherwhere // meant for somebody else, or from somebody else
	unknownKey // signed with a key that may be known soon: try again
	noKeys     // no keys have been read yet
	busy       // too many wait to be checked
	verdicts
)

var verdictNames = [verdicts]string{
	valid: "valid", missing: "missing", malformed: "malformed", forged: "forged", expired: "expired",
	early: "early", otherwhere: "audience", unknownKey: "unknown_key", noKeys: "no_keys", busy: "busy",
}

func (v verdict) String() string { return verdictNames[v] }

// leeway is by how much the clocks of who signs and who checks may differ. It does not lengthen a
// token's life.
const leeway = 5 * time.Second

// isToken reports whether s has only what a token is made of. The base64 reader ignores line ends.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// Bounds on tokens.
const (
	mostToken   = 8 << 10
	mostSubject = 255
	mostLife    = 10 * 365 * 24 * time.Hour // no sum of times overflows
)

var (
	errCritical = errors.New("the token has critical parameters")
	errKeyID    = errors.New("no key has the token's id")
	errNoKeys   = errors.New("no keys have been read")
)

// verifier checks tokens. Any goroutine.
type verifier struct {
	parser *jwt.Parser
	keys   func() *Keys
	now    func() time.Time

	// missed is told of a token whose key is not known, and reports whether it may be known soon.
	// nil when the keys do not change.
	missed func() (soon bool)
}

func newVerifier(cfg *Config) *verifier {
	v := &verifier{now: cfg.now}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{string(cfg.Algorithm)}), jwt.WithExpirationRequired(),
		jwt.WithLeeway(leeway), jwt.WithTimeFunc(cfg.now), jwt.WithStrictDecoding(),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if len(cfg.Audience) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audience...))
	}
	v.parser = jwt.NewParser(options...)
	if cfg.Remote != nil {
		v.keys, v.missed = cfg.Remote.Keys, cfg.Remote.missed
	} else {
		v.keys = func() *Keys { return cfg.Keys }
	}
	return v
}

// verify checks one token.
func (v *verifier) verify(token string) (Claims, verdict) {
	if len(token) > mostToken || !isToken(token) {
		return Claims{}, malformed
	}
	var claims jwt.RegisteredClaims
	_, err := v.parser.ParseWithClaims(token, &claims, v.keyFor)
	if err != nil {
		return Claims{}, v.verdictOf(err)
	}
	now := v.now()
	life := claims.ExpiresAt.Sub(now)
	switch {
	case life <= 0:
		return Claims{}, expired
	case !goodSubject(claims.Subject):
		return Claims{}, malformed
	case life > mostLife:
		return Claims{claims.Subject, now.Add(mostLife)}, valid
	}
	return Claims{claims.Subject, claims.ExpiresAt.Time}, valid
}

// keyFor is a jwt.Keyfunc.
func (v *verifier) keyFor(token *jwt.Token) (any, error) {
	if _, critical := token.Header["crit"]; critical {
		return nil, errCritical
	}
	id, _ := token.Header["kid"].(string)
	keys := v.keys()
	found := keys.find(id)
	switch {
	case keys == nil:
		return nil, errNoKeys
	case len(found) == 0:
		return nil, errKeyID
	case len(found) == 1:
		return found[0], nil
	}
	set := jwt.VerificationKeySet{}
	for _, key := range found {
		set.Keys = append(set.Keys, key)
	}
	return set, nil
}

func (v *verifier) verdictOf(err error) verdict {
	switch {
	case errors.Is(err, errNoKeys):
		return noKeys
	case errors.Is(err, errKeyID):
		if v.missed != nil && v.missed() {
			return unknownKey
		}
		return forged
	case errors.Is(err, jwt.ErrTokenExpired):
		return expired
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return early
	case errors.Is(err, jwt.ErrTokenInvalidAudience), errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return otherwhere
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, jwt.ErrTokenUnverifiable):
		return forged
	}
	return malformed
}

// goodSubject admits users that may stand in a header and in a log line.
func goodSubject(s string) bool {
	if s == "" || len(s) > mostSubject || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return s[0] != ' ' && s[len(s)-1] != ' '
}

// challenge is the WWW-Authenticate header of a 401 (RFC 6750, section 3).
func challenge(v verdict) string {
	if v == missing {
		return "WWW-Authenticate: Bearer realm=\"sluice\"\r\n"
	}
	return "WWW-Authenticate: Bearer realm=\"sluice\", error=\"invalid_token\", " +
		fmt.Sprintf("error_description=%q\r\n", v.String())
}
