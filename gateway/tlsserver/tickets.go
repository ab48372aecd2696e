package tlsserver

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"
)

const (
	ticketKeySize  = 32
	ticketKeyEvery = 24 * time.Hour     // a key of our own encrypts for as long
	ticketKeyLife  = 7 * 24 * time.Hour // and decrypts for as long, which is how long tickets live
	maxTicketKeys  = 64                 // each one is tried on a ticket that no key fits
)

// ticketKeys are the keys of session tickets, the one that encrypts first.
type ticketKeys struct {
	list []ticketKey
	own  bool // made here
}

type ticketKey struct {
	key  [ticketKeySize]byte
	made time.Time
}

func (k ticketKeys) keys() (list [][ticketKeySize]byte) {
	for _, key := range k.list {
		list = append(list, key.key)
	}
	return list
}

// due reports whether a new key of our own is.
func (k ticketKeys) due(now time.Time) bool {
	return k.own && now.Sub(k.list[0].made) >= ticketKeyEvery
}

// renewed are the keys that follow k: those of the file, or our own with a new one if that is due.
func (k ticketKeys) renewed(file []byte, given bool, now time.Time) (ticketKeys, error) {
	if given {
		keys, err := parseTicketKeys(file)
		return ticketKeys{list: keys}, err
	}
	if len(k.list) > 0 && !k.due(now) {
		return k, nil
	}
	fresh := ticketKey{made: now}
	if _, err := rand.Read(fresh.key[:]); err != nil {
		return k, err
	}
	next := ticketKeys{list: []ticketKey{fresh}, own: true}
	for _, old := range k.list {
		if now.Sub(old.made) < ticketKeyLife {
			next.list = append(next.list, old)
		}
	}
	return next, nil
}

// parseTicketKeys reads a file of keys: one a line, # begins a comment.
func parseTicketKeys(file []byte) (keys []ticketKey, err error) {
	number := 0
	for line := range bytes.Lines(file) {
		number++
		line, _, _ = bytes.Cut(line, []byte("#"))
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		var key []byte
		if len(line) == hex.EncodedLen(ticketKeySize) {
			key, err = hex.AppendDecode(nil, line)
		} else {
			key, err = base64.StdEncoding.AppendDecode(nil, line)
		}
		if err != nil || len(key) != ticketKeySize {
			return nil, fmt.Errorf("line %d: want 32 bytes in hex or base64", number) // never the line
		}
		if len(keys) == maxTicketKeys {
			return nil, fmt.Errorf("more than %d session ticket keys", maxTicketKeys)
		}
		keys = append(keys, ticketKey{key: [ticketKeySize]byte(key)})
		clear(key)
	}
	if len(keys) == 0 {
		return nil, errNoKey
	}
	return keys, nil
}
