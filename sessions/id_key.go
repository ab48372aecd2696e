package sessions

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
)

// minIDKey is the shortest key of IDKeys, in bytes.
const minIDKey = 32

// idMAC is where the MAC of an id begins: 74 random bits, 6 of version and variant, 48 of MAC.
const idMAC = 10

// errForeignID is the error of an id that is well-formed and was not made with a key.
var errForeignID = errors.New("session id was not made here")

// IDKeys makes ids that nobody else can make, so that clients cannot invent, fixate or guess them,
// nor fill the store with them: UUIDs of version 8 (RFC 9562, section 5.8) whose last 48 bits are a
// MAC (HMAC-SHA256) of the rest. Whoever has the key can check an id without asking the store.
// Forging one takes 2^47 attempts at a gateway, on average, and finds no session that exists.
//
// A nil *IDKeys makes random ids and takes any UUID. Any goroutine.
type IDKeys struct{ keys [][]byte }

// NewIDKeys returns keys of 32 bytes or more: current makes ids, and ids that were made with one
// of earlier are taken too. To change keys on several gateways, give the new one as an earlier one
// to all, then make it the current one, and leave the old one out once its sessions have expired.
func NewIDKeys(current []byte, earlier ...[]byte) (*IDKeys, error) {
	k := &IDKeys{keys: append([][]byte{current}, earlier...)}
	for i, key := range k.keys {
		if len(key) < minIDKey {
			return nil, fmt.Errorf("session key %d of %d has %d bytes, want %d or more", i+1, len(k.keys), len(key), minIDKey)
		}
	}
	return k, nil
}

// New returns an id for a new session.
func (k *IDKeys) New() ID {
	id := NewID()
	if k == nil {
		return id
	}
	id[6] = id[6]&0x0f | 0x80
	copy(id[idMAC:], mac(k.keys[0], id))
	return id
}

// Parse is ParseID, and refuses what was not made with one of the keys.
func (k *IDKeys) Parse(s string) (ID, error) {
	id, err := ParseID(s)
	if err != nil || k == nil {
		return id, err
	}
	for _, key := range k.keys {
		if hmac.Equal(mac(key, id), id[idMAC:]) && id[6]>>4 == 8 && id[8]>>6 == 2 {
			return id, nil
		}
	}
	return ID{}, errForeignID
}

// mac is that of an id's other bytes, version and variant included.
func mac(key []byte, id ID) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(id[:idMAC])
	return h.Sum(nil)[:len(id)-idMAC]
}
