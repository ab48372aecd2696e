package sessions

import (
	"crypto/sha256"
	"encoding/base64"
)

// subject is who a session belongs to: a digest, so that it takes 16 bytes whatever an identity
// provider makes of its names, and so that the names are not in Redis. The zero subject is nobody.
type subject [16]byte

func subjectOf(name string) (s subject) {
	if name != "" {
		sum := sha256.Sum256([]byte(name))
		copy(s[:], sum[:])
	}
	return s
}

// mayUse says whether who may use a session that was made with s.
func (s subject) mayUse(who subject) bool { return s == subject{} || s == who }

// String is how a subject is stored: 22 characters, none for nobody.
func (s subject) String() string {
	if s == (subject{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(s[:])
}

// parseSubject reads what String made.
func parseSubject(text string) (s subject, ok bool) {
	n, err := base64.RawURLEncoding.Decode(s[:], []byte(text[:min(len(text), 22)]))
	return s, err == nil && n == len(s) && len(text) == 22 && s != subject{}
}
