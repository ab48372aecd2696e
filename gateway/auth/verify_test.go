package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

const secret = "a secret of at least thirty-two bytes"

// pair is a private key and the public one in PEM.
type pair struct {
	private crypto.Signer
	public  string
}

func newPair(private crypto.Signer) pair {
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		panic(err)
	}
	return pair{private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

var (
	rsaPair = sync.OnceValue(func() pair {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		return newPair(k)
	})
	ecPair = sync.OnceValue(newEC)
	edPair = sync.OnceValue(func() pair {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			panic(err)
		}
		return newPair(k)
	})
)

func newEC() pair {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return newPair(k)
}

// noon is the time of the tests.
var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// claims are those of a token that is valid at noon, with changes.
func claims(changes ...any) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "alice", "exp": noon.Add(time.Hour).Unix(), "iss": "https://issuer.example", "aud": "sluice"}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
		} else {
			c[changes[i].(string)] = changes[i+1]
		}
	}
	return c
}

// sign makes a token; headers are names and values.
func sign(method jwt.SigningMethod, key any, c jwt.MapClaims, headers ...string) string {
	t := jwt.NewWithClaims(method, c)
	for i := 0; i < len(headers); i += 2 {
		t.Header[headers[i]] = headers[i+1]
	}
	text, err := t.SignedString(key)
	if err != nil {
		panic(err)
	}
	return text
}

func verifierFor(t *testing.T, alg Algorithm, keys ...string) *verifier {
	t.Helper()
	k, err := ParseKeys(alg, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return newVerifier(&Config{Algorithm: alg, Keys: k, Issuer: "https://issuer.example", Audience: []string{"sluice", "other"},
		now: func() time.Time { return noon }})
}

// part is one part of a token.
func part(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestTokens(t *testing.T) {
	hs := verifierFor(t, HS256, secret)
	good := sign(jwt.SigningMethodHS256, []byte(secret), claims())
	at := func(d time.Duration) int64 { return noon.Add(d).Unix() }
	with := func(changes ...any) string { return sign(jwt.SigningMethodHS256, []byte(secret), claims(changes...)) }
	parts := strings.Split(good, ".")
	for _, test := range []struct {
		name, token string
		want        verdict
	}{
		{"good", good, valid},
		{"audience in a list", with("aud", []string{"x", "sluice"}), valid},
		// Confusions of the algorithm.
		{"alg none", part(map[string]string{"alg": "none"}) + "." + parts[1] + ".", forged},
		{"alg None", part(map[string]string{"alg": "None"}) + "." + parts[1] + "." + parts[2], forged},
		{"no alg", part(map[string]string{}) + "." + parts[1] + "." + parts[2], forged},
		{"HS512", sign(jwt.SigningMethodHS512, []byte(secret), claims()), forged},
		{"RS256", sign(jwt.SigningMethodRS256, rsaPair().private, claims()), forged},
		{"another secret", sign(jwt.SigningMethodHS256, []byte("another secret, of thirty-two bytes"), claims()), forged},
		{"no signature", parts[0] + "." + parts[1] + ".", forged},
		{"changed", parts[0] + "." + part(claims("sub", "mallory")) + "." + parts[2], forged},
		{"critical", sign(jwt.SigningMethodHS256, []byte(secret), claims(), "crit", "exp"), forged},
		// Times, at their limits. The leeway does not lengthen a token's life.
		{"expires in a second", with("exp", at(time.Second)), valid},
		{"expires now", with("exp", at(0)), expired},
		{"expired a second ago", with("exp", at(-time.Second)), expired},
		{"expired an hour ago", with("exp", at(-time.Hour)), expired},
		{"no exp", with("exp", nil), malformed},
		{"exp is text", with("exp", "tomorrow"), malformed},
		{"exp far away", with("exp", 1e17), valid},
		{"valid from now", with("nbf", at(0)), valid},
		{"valid after the leeway", with("nbf", at(leeway)), valid},
		{"valid a second later", with("nbf", at(leeway+time.Second)), early},
		// Who it is from, for and about.
		{"other audience", with("aud", "elsewhere"), otherwhere},
		{"no audience", with("aud", nil), malformed},
		{"audience as a prefix", with("aud", "sluic"), otherwhere},
		{"second audience", with("aud", "other"), valid},
		{"other issuer", with("iss", "https://issuer.example/"), otherwhere},
		{"no issuer", with("iss", nil), malformed},
		{"no subject", with("sub", nil), malformed},
		{"subject of 255 bytes", with("sub", strings.Repeat("a", 255)), valid},
		{"subject of 256 bytes", with("sub", strings.Repeat("a", 256)), malformed},
		{"subject with a line end", with("sub", "alice\r\nX-Admin: 1"), malformed},
		{"subject with a space behind", with("sub", "alice "), malformed},
		{"subject in Greek", with("sub", "αλίκη"), valid},
		{"subject is a number", with("sub", 7), malformed},
		// Forms.
		{"empty", "", malformed},
		{"one part", parts[0], malformed},
		{"four parts", good + ".x", malformed},
		{"not base64", "!." + parts[1] + "." + parts[2], malformed},
		{"padded", parts[0] + "=." + parts[1] + "." + parts[2], malformed},
		{"longest", sign(jwt.SigningMethodHS256, []byte(secret), claims("x", strings.Repeat("a", 20_000))), malformed},
	} {
		got, v := hs.verify(test.token)
		if v != test.want {
			t.Errorf("%s: got %v, want %v", test.name, v, test.want)
		}
		if (got.User != "") != (v == valid) {
			t.Errorf("%s: %v, but the user is %q", test.name, v, got.User)
		}
	}
}

// TestTokenAtItsLongest: mostToken bytes are read, one more is not.
func TestTokenAtItsLongest(t *testing.T) {
	hs := verifierFor(t, HS256, secret)
	make := func(size int) string {
		for pad := size * 3 / 4; pad > 0; pad-- {
			if token := sign(jwt.SigningMethodHS256, []byte(secret), claims("x", strings.Repeat("a", pad))); len(token) == size {
				return token
			}
		}
		return ""
	}
	for size, want := range map[int]verdict{mostToken: valid, mostToken + 1: malformed} {
		token := ""
		for ; token == ""; size++ { // not every length is one that base64 has
			token = make(size)
		}
		if len(token) > mostToken {
			want = malformed
		}
		if _, got := hs.verify(token); got != want {
			t.Errorf("%d bytes: got %v, want %v", len(token), got, want)
		}
	}
}

// TestAlgorithms: each algorithm takes its own tokens and nobody else's. The classic confusion is a
// token whose HMAC is made with the public key as its secret.
func TestAlgorithms(t *testing.T) {
	hs := sign(jwt.SigningMethodHS256, []byte(secret), claims())
	tokens := map[Algorithm]string{
		HS256: hs,
		RS256: sign(jwt.SigningMethodRS256, rsaPair().private, claims()),
		ES256: sign(jwt.SigningMethodES256, ecPair().private, claims()),
		EdDSA: sign(jwt.SigningMethodEdDSA, edPair().private, claims()),
	}
	public := map[Algorithm]string{RS256: rsaPair().public, ES256: ecPair().public, EdDSA: edPair().public}
	for alg, key := range public {
		v := verifierFor(t, alg, key)
		for signed, token := range tokens {
			want := forged
			if signed == alg {
				want = valid
			}
			if _, got := v.verify(token); got != want {
				t.Errorf("%s token for %s: got %v, want %v", signed, alg, got, want)
			}
		}
		swapped := sign(jwt.SigningMethodHS256, []byte(key), claims())
		if _, got := v.verify(swapped); got != forged {
			t.Errorf("HMAC with the public key for %s: got %v, want forged", alg, got)
		}
		if _, got := v.verify(sign(jwt.SigningMethodHS256, []byte(strings.TrimSpace(key)), claims())); got != forged {
			t.Errorf("HMAC with the trimmed public key for %s: got %v, want forged", alg, got)
		}
		none := jwt.NewWithClaims(jwt.SigningMethodNone, claims())
		text, err := none.SignedString(jwt.UnsafeAllowNoneSignatureType)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := v.verify(text); got != forged {
			t.Errorf("none for %s: got %v, want forged", alg, got)
		}
	}
	if _, got := verifierFor(t, RS256, rsaPair().public).verify(sign(jwt.SigningMethodPS256, rsaPair().private, claims())); got != forged {
		t.Errorf("PS256 for RS256: got %v, want forged", got)
	}
}

func TestTwoGenerationsOfKeys(t *testing.T) {
	old, next := newEC(), newEC()
	v := verifierFor(t, ES256, old.public, next.public)
	for _, k := range []pair{old, next} {
		if _, got := v.verify(sign(jwt.SigningMethodES256, k.private, claims(), "kid", "whatever")); got != valid {
			t.Errorf("got %v, want valid", got)
		}
	}
	if _, got := v.verify(sign(jwt.SigningMethodES256, newEC().private, claims())); got != forged {
		t.Errorf("a third key: got %v, want forged", got)
	}
}

func TestParseKeys(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(ecPair().private)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		alg  Algorithm
		key  string
		ok   bool
	}{
		{"secret of 31 bytes", HS256, strings.Repeat("x", 31), false},
		{"secret of 32 bytes", HS256, strings.Repeat("x", 32), true},
		{"base64 of 31 bytes", HS256, "base64:" + base64.StdEncoding.EncodeToString(make([]byte, 31)), false},
		{"base64 of 32 bytes", HS256, "base64:" + base64.StdEncoding.EncodeToString(make([]byte, 32)), true},
		{"not base64", HS256, "base64:" + strings.Repeat("!", 44), false},
		{"public key as a secret", HS256, rsaPair().public, false},
		{"RSA", RS256, rsaPair().public, true},
		{"RSA of 1024 bits", RS256, newPair(weak).public, false},
		{"EC for RSA", RS256, ecPair().public, false},
		{"EC", ES256, ecPair().public, true},
		{"P-384", ES256, newPair(p384).public, false},
		{"RSA for EC", ES256, rsaPair().public, false},
		{"Ed25519", EdDSA, edPair().public, true},
		{"EC for Ed25519", EdDSA, ecPair().public, false},
		{"private key", ES256, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), false},
		{"no PEM", ES256, "key", false},
		{"garbage in PEM", ES256, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: []byte("garbage")})), false},
	} {
		if _, err := ParseKeys(test.alg, test.key); (err == nil) != test.ok {
			t.Errorf("%s: error %v, want ok %v", test.name, err, test.ok)
		} else if err != nil && strings.Contains(err.Error(), strings.Repeat("x", 20)) {
			t.Errorf("%s: the error shows the secret: %v", test.name, err)
		}
	}
}

// jwks is a key set of public keys with the ids given; id "" has none.
func jwks(keys map[string]pair) string {
	var set jose.JSONWebKeySet
	for id, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: id})
	}
	b, err := json.Marshal(set)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestParseJWKS(t *testing.T) {
	one := jwks(map[string]pair{"a": ecPair()})
	keyOnly := one[len(`{"keys":[`) : len(one)-2]
	change := func(member string) string {
		return `{"keys":[` + keyOnly[:len(keyOnly)-1] + "," + member + `}]}`
	}
	many := func(n int) string { return `{"keys":[` + strings.Repeat(keyOnly+",", n-1) + keyOnly + `]}` }
	for _, test := range []struct {
		name, set string
		ok        bool
	}{
		{"one key", one, true},
		{"for signatures", change(`"use":"sig"`), true},
		{"for encryption", change(`"use":"enc"`), false},
		{"of this algorithm", change(`"alg":"ES256"`), true},
		{"of another algorithm", change(`"alg":"ES384"`), false},
		{"other types beside it", `{"keys":[{"kty":"XYZ"},{"kty":"oct","k":"c2VjcmV0"},{"kty":"RSA","n":"AQ","e":"AQAB"},7,` + keyOnly + `]}`, true},
		{"a secret only", `{"keys":[{"kty":"oct","k":"` + strings.Repeat("A", 43) + `"}]}`, false},
		{"not on the curve", `{"keys":[{"kty":"EC","crv":"P-256","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE","y":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE"}]}`, false},
		{"none", `{"keys":[]}`, false},
		{"no set", `[]`, false},
		{"no JSON", `<html>`, false},
		{"100 keys", many(100), true},
		{"101 keys", many(101), false},
	} {
		if _, err := ParseJWKS(ES256, []byte(test.set)); (err == nil) != test.ok {
			t.Errorf("%s: error %v, want ok %v", test.name, err, test.ok)
		}
	}
}

// FuzzVerify: nothing but what the key has signed is valid.
func FuzzVerify(f *testing.F) {
	k, err := ParseKeys(HS256, secret)
	if err != nil {
		f.Fatal(err)
	}
	v := newVerifier(&Config{Algorithm: HS256, Keys: k, now: func() time.Time { return noon }})
	good := sign(jwt.SigningMethodHS256, []byte(secret), claims())
	f.Add(good)                                                                // valid
	f.Add(sign(jwt.SigningMethodHS256, []byte(secret), claims("exp", 0)))      // expired
	f.Add(part(map[string]string{"alg": "none"}) + "." + part(claims()) + ".") // not signed
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if _, got := v.verify(token); got == valid && token != good {
			// A token has more than one spelling only where base64 ignores bits, which the parser
			// does not allow in the signature; another valid one would be a forgery.
			t.Fatalf("%q is valid", token)
		}
	})
}

// FuzzParseJWKS must return, and its keys must be usable.
func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(jwks(map[string]pair{"a": ecPair(), "": newEC()}))) // elliptic curves
	f.Add([]byte(jwks(map[string]pair{"r": rsaPair()})))             // RSA
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))               // a secret
	token := sign(jwt.SigningMethodES256, ecPair().private, claims(), "kid", "a")
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := ParseJWKS(ES256, b)
		if err == nil {
			newVerifier(&Config{Algorithm: ES256, Keys: k, now: func() time.Time { return noon }}).verify(token)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for alg, test := range map[Algorithm]struct{ key, token string }{
		HS256: {secret, sign(jwt.SigningMethodHS256, []byte(secret), claims())},
		RS256: {rsaPair().public, sign(jwt.SigningMethodRS256, rsaPair().private, claims())},
		ES256: {ecPair().public, sign(jwt.SigningMethodES256, ecPair().private, claims())},
		EdDSA: {edPair().public, sign(jwt.SigningMethodEdDSA, edPair().private, claims())},
	} {
		b.Run(string(alg), func(b *testing.B) {
			k, err := ParseKeys(alg, test.key)
			if err != nil {
				b.Fatal(err)
			}
			v := newVerifier(&Config{Algorithm: alg, Keys: k, now: func() time.Time { return noon }})
			for b.Loop() {
				if _, got := v.verify(test.token); got != valid {
					b.Fatal(got)
				}
			}
		})
	}
}

func ExampleParseKeys() {
	_, err := ParseKeys(HS256, "too short")
	fmt.Println(err)
	// Output: the secret has 9 bytes; HS256 needs at least 32
}
