package tls13

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// Cipher suites of RFC 8446, appendix B.4, by their number. They are the three that crypto/tls has.
const (
	AES128GCM        uint16 = 0x1301 // TLS_AES_128_GCM_SHA256
	AES256GCM        uint16 = 0x1302 // TLS_AES_256_GCM_SHA384
	ChaCha20Poly1305 uint16 = 0x1303 // TLS_CHACHA20_POLY1305_SHA256
)

// suite is the low byte of a cipher suite's number; the high byte is 0x13 for all of TLS 1.3.
type suite uint8

const (
	aes128 = suite(AES128GCM & 0xff)
	aes256 = suite(AES256GCM & 0xff)
	chacha = suite(ChaCha20Poly1305 & 0xff)
)

func suiteOf(number uint16) (suite, error) {
	switch number {
	case AES128GCM, AES256GCM, ChaCha20Poly1305:
		return suite(number & 0xff), nil
	}
	return 0, fmt.Errorf("tls13: cipher suite %#04x is not one of TLS 1.3's AEADs", number)
}

// secretSize is the length of the suite's hash, and so of its secrets, in bytes.
func (s suite) secretSize() int {
	if s == aes256 {
		return sha512.Size384
	}
	return sha256.Size
}

// HkdfLabel of RFC 8446, section 7.1: length, "tls13 " and the label, an empty context.
const (
	labelKey16    = "\x00\x10\x09tls13 key\x00"
	labelKey32    = "\x00\x20\x09tls13 key\x00"
	labelIV       = "\x00\x0c\x08tls13 iv\x00"
	labelUpdate32 = "\x00\x20\x11tls13 traffic upd\x00"
	labelUpdate48 = "\x00\x30\x11tls13 traffic upd\x00"
)

// expand is HKDF-Expand-Label. The label names the length once more, as the RFC has it.
func (s suite) expand(secret []byte, label string, size int) []byte {
	var out []byte
	var err error
	if s == aes256 {
		out, err = hkdf.Expand(sha512.New384, secret, label, size)
	} else {
		out, err = hkdf.Expand(sha256.New, secret, label, size)
	}
	if err != nil {
		panic("tls13: " + err.Error()) // a length that HKDF cannot give, or a build that forbids it
	}
	return out
}

// aead derives the write key and IV of a traffic secret (section 7.3) and builds the AEAD.
func (s suite) aead(secret []byte, iv *[ivSize]byte) cipher.AEAD {
	derived := s.expand(secret, labelIV, ivSize)
	copy(iv[:], derived)
	clear(derived)
	label, size := labelKey32, 32
	if s == aes128 {
		label, size = labelKey16, 16
	}
	key := s.expand(secret, label, size)
	defer clear(key)
	var aead cipher.AEAD
	var err error
	if s == chacha {
		aead, err = chacha20poly1305.New(key)
	} else {
		var block cipher.Block
		if block, err = aes.NewCipher(key); err == nil {
			aead, err = cipher.NewGCM(block)
		}
	}
	if err != nil {
		panic("tls13: " + err.Error()) // the key's length is right for all three
	}
	return aead
}

// update replaces a traffic secret by the next one (section 7.2).
func (s suite) update(secret []byte) {
	label := labelUpdate32
	if s == aes256 {
		label = labelUpdate48
	}
	next := s.expand(secret, label, len(secret))
	copy(secret, next)
	clear(next)
}
