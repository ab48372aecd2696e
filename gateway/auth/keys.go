package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Algorithm is the one algorithm that tokens may be signed with.
type Algorithm string

// The algorithms that are known, by their names in RFC 7518 and RFC 8037.
const (
	HS256 Algorithm = "HS256"
	RS256 Algorithm = "RS256"
	ES256 Algorithm = "ES256"
	EdDSA Algorithm = "EdDSA"
)

// Bounds on keys.
const (
	// RFC 7518, section 3.2: "A key of the same size as the hash output […] or larger MUST be used"
	leastSecret = 32

	leastRSA = 2048
	mostRSA  = 8192 // a longer one makes each token cost milliseconds
)

// Keys are what tokens are checked with. They are never changed, so all goroutines may share them.
type Keys struct {
	byID  map[string][]any
	plain []any // those without an id
}

// ParseKeys reads keys of one algorithm. For HS256 a key is a secret of at least 32 bytes: text, or
// "base64:…"; for the others it is a public key or a certificate in PEM. Several are several
// generations: a token may be signed with any of them.
func ParseKeys(alg Algorithm, texts ...string) (*Keys, error) {
	keys := new(Keys)
	for _, text := range texts {
		key, err := parseKey(alg, text)
		if err != nil {
			return nil, err
		}
		keys.plain = append(keys.plain, key)
	}
	return keys, nil
}

func parseKey(alg Algorithm, text string) (any, error) {
	if alg == HS256 {
		return parseSecret(text)
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("want a public key in PEM (-----BEGIN PUBLIC KEY-----) for %s", alg)
	}
	var key any
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	default:
		return nil, fmt.Errorf("the PEM block is a %q; want a PUBLIC KEY", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("read the public key: %w", err)
	}
	return key, usable(alg, key)
}

func parseSecret(text string) (any, error) {
	secret := []byte(text)
	if encoded, ok := strings.CutPrefix(text, "base64:"); ok {
		var err error
		if secret, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, errors.New("what follows base64: is not base64")
		}
	}
	if strings.Contains(text, "-----BEGIN") {
		return nil, errors.New("a PEM key is no secret for HS256: whoever has the public key could sign")
	}
	if len(secret) < leastSecret {
		return nil, fmt.Errorf("the secret has %d bytes; HS256 needs at least %d", len(secret), leastSecret)
	}
	return secret, nil
}

// usable returns why key cannot be one of alg, or nil.
func usable(alg Algorithm, key any) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if alg != RS256 {
			return fmt.Errorf("an RSA key is not one for %s", alg)
		}
		if bits := k.N.BitLen(); bits < leastRSA || bits > mostRSA {
			return fmt.Errorf("an RSA key of %d bits; want %d to %d", bits, leastRSA, mostRSA)
		}
		if k.E < 3 || k.E%2 == 0 {
			return errors.New("an RSA key with an impossible exponent")
		}
		return nil
	case *ecdsa.PublicKey:
		if alg != ES256 || k.Curve != elliptic.P256() {
			return fmt.Errorf("a key on %s is not one for %s", k.Curve.Params().Name, alg)
		}
		return nil
	case ed25519.PublicKey:
		if alg != EdDSA {
			return fmt.Errorf("an Ed25519 key is not one for %s", alg)
		}
		return nil
	}
	return fmt.Errorf("a key of type %T is not one for %s", key, alg)
}

// mostKeys bounds a key set.
const mostKeys = 100

// ParseJWKS reads a JSON Web Key Set (RFC 7517, section 5). Keys that are not for checking
// signatures of alg are left out, as the RFC asks; a set in which none is left is an error.
func ParseJWKS(alg Algorithm, text []byte) (*Keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("not a key set: %w", err)
	}
	if len(set.Keys) > mostKeys {
		return nil, fmt.Errorf("a set of %d keys; at most %d are read", len(set.Keys), mostKeys)
	}
	keys := &Keys{byID: make(map[string][]any)}
	var why error
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if err := k.UnmarshalJSON(raw); err != nil {
			why = err
			continue
		}
		// RFC 7517, section 5: "Implementations SHOULD ignore JWKs […] that are not supported"
		if k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != string(alg) || !k.IsPublic() {
			continue
		}
		if err := usable(alg, k.Key); err != nil {
			why = err
			continue
		}
		if k.KeyID == "" {
			keys.plain = append(keys.plain, k.Key)
		} else {
			keys.byID[k.KeyID] = append(keys.byID[k.KeyID], k.Key)
		}
	}
	if len(keys.byID) == 0 && len(keys.plain) == 0 {
		return nil, errors.Join(fmt.Errorf("no key for %s among %d", alg, len(set.Keys)), why)
	}
	return keys, nil
}

// find is the keys that a token with this id may be signed with. A token without an id may be
// signed with any; one with an id, by the keys of that id, or by those that have none.
func (k *Keys) find(id string) []any {
	if k == nil {
		return nil
	}
	if id != "" {
		if with := k.byID[id]; len(with) > 0 {
			return with
		}
		return k.plain
	}
	found := k.plain
	for _, with := range k.byID {
		found = append(found[:len(found):len(found)], with...)
	}
	return found
}
