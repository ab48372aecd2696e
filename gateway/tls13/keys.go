package tls13

import (
	"crypto/cipher"
	"math"
)

// Keys are the AEADs that the connections of one loop have at hand. They belong to the loop. A zero
// Keys holds DefaultKeys, until their connections end or Trim drops them.
type Keys struct {
	// Max bounds the AEADs held; each takes up to 1.3 KB. With too few, one is built for every
	// message (2 to 3 µs and as much garbage). A busy connection needs two. At most 65,535;
	// default DefaultKeys. More than that are held only while connections need theirs again soon
	// after others have taken the place: many handshakes, or heartbeats, do not fill it.
	Max int

	// RekeyAfter is how many records one key protects before it is replaced. RFC 8446, section 5.5:
	// "For AES-GCM, up to 2^24.5 full-size records (about 24 million) may be encrypted on a given
	// connection". Default 2^23.
	RekeyAfter uint64

	entries []entry
	held    int    // entries with an AEAD
	limit   int    // what held may grow to now; it may be above that after Trim
	wanted  int    // entries that were found in this turn, after others had been used
	turn    uint8  // calls of Trim + 1, modulo 255 and never 0, but for a zero Keys
	newest  uint16 // 0: none; else one more than an index of entries, as all links here
	oldest  uint16
	free    uint16

	nonce  [ivSize]byte // arguments of an interface's method would be allocated for each call
	header [headerSize]byte
}

// DefaultKeys is what a loop holds at most unless Keys.Max says otherwise: 512, up to 0.7 MB.
const DefaultKeys = 512

const defaultRekeyAfter = 1 << 23

const (
	ivSize     = 12
	headerSize = 5
	tagSize    = 16
)

// entry is one AEAD and whose it is.
type entry struct {
	owner *Layer
	dir   direction
	iv    [ivSize]byte
	newer uint16
	older uint16 // for a free one, the next free one
	turn  uint8  // of Keys, when it was last used
	found uint8  // of Keys, when it was last counted in wanted
	aead  cipher.AEAD
}

func (k *Keys) rekeyAfter() uint64 {
	if k.RekeyAfter != 0 {
		return k.RekeyAfter
	}
	return defaultRekeyAfter
}

// get returns the AEAD of l in one direction, built if it is not at hand, with the nonce of the
// next record (section 5.3: the IV and the sequence number, xored) in k.nonce.
func (k *Keys) get(l *Layer, d direction) cipher.AEAD {
	e := k.entry(l, d)
	seq := l.half[d].seq
	k.nonce = e.iv
	for i := range 8 {
		k.nonce[ivSize-1-i] ^= byte(seq >> (8 * i))
	}
	return e.aead
}

func (k *Keys) entry(l *Layer, d direction) *entry {
	slot := l.slot[d]
	if slot != 0 && int(slot) <= len(k.entries) {
		if e := &k.entries[slot-1]; e.owner == l && e.dir == d {
			if slot != k.newest {
				k.unlink(slot)
				k.link(slot)
				if e.found != k.turn {
					e.found = k.turn
					k.wanted++
				}
			}
			e.turn = k.turn
			return e
		}
	}
	slot = k.take(l.built[d])
	e := &k.entries[slot-1]
	e.owner, e.dir, e.turn = l, d, k.turn
	l.built[d] = k.turn
	e.aead = l.suite.aead(l.secret(d), &e.iv)
	l.slot[d] = slot
	k.link(slot)
	return e
}

// take finds a place: a free one, a new one, or that of the AEAD that was used least recently.
// built says when this AEAD was built before.
func (k *Keys) take(built uint8) (slot uint16) {
	if k.turn == 0 {
		k.turn, k.limit = 1, k.least()
	}
	if k.held >= k.limit {
		recently := built != 0 && (built == k.turn || built == k.turn-1)
		if recently && k.held < min(k.Max, math.MaxUint16) {
			k.limit = k.held + 1
		} else {
			k.release(k.oldest)
			if k.held >= k.limit { // see Trim
				k.release(k.oldest)
			}
		}
	}
	if slot = k.free; slot != 0 {
		k.free = k.entries[slot-1].older
	} else {
		k.entries = append(k.entries, entry{})
		slot = uint16(len(k.entries))
	}
	k.held++
	return slot
}

// least is what Keys hold however seldom they are used.
func (k *Keys) least() int {
	if k.Max <= 0 {
		return DefaultKeys
	}
	return min(k.Max, DefaultKeys)
}

// Held is the number of AEADs held.
func (k *Keys) Held() int { return k.held }

// Trim drops the AEADs that were not used since the last call, so that connections which have gone
// quiet give theirs back. It costs the time of what it drops.
//
// As many may be held afterwards as were used again: the use of those that were built and not found
// since the last call, for one heartbeat each, say, keeps no place after a time of many handshakes.
func (k *Keys) Trim() {
	for k.oldest != 0 {
		if k.entries[k.oldest-1].turn == k.turn {
			break
		}
		k.release(k.oldest)
	}
	if k.turn++; k.turn == 0 {
		k.turn = 1
	}
	k.limit = max(k.wanted, k.least())
	k.wanted = 0
	switch {
	case k.held == 0:
		k.entries, k.free = nil, 0
	case len(k.entries) > 4*max(k.held, k.limit):
		k.shrink()
	}
}

// shrink moves the AEADs into a slice of their number.
func (k *Keys) shrink() {
	old, oldest := k.entries, k.oldest
	k.entries, k.free, k.newest, k.oldest = make([]entry, 0, k.held), 0, 0, 0
	for s := oldest; s != 0; s = old[s-1].newer {
		e := old[s-1]
		k.entries = append(k.entries, e)
		slot := uint16(len(k.entries))
		e.owner.slot[e.dir] = slot
		k.link(slot)
	}
}

// drop lets go of l's AEAD in one direction: its key was replaced, or the connection has ended.
func (k *Keys) drop(l *Layer, d direction) {
	slot := l.slot[d]
	l.slot[d] = 0
	if slot == 0 || int(slot) > len(k.entries) {
		return
	}
	if e := &k.entries[slot-1]; e.owner == l && e.dir == d {
		k.release(slot)
	}
}

// release gives the place of an AEAD back.
func (k *Keys) release(slot uint16) {
	e := &k.entries[slot-1]
	e.owner.slot[e.dir] = 0
	k.unlink(slot)
	*e = entry{older: k.free}
	k.free = slot
	k.held--
}

func (k *Keys) link(slot uint16) {
	e := &k.entries[slot-1]
	e.newer, e.older = 0, k.newest
	if k.newest != 0 {
		k.entries[k.newest-1].newer = slot
	} else {
		k.oldest = slot
	}
	k.newest = slot
}

func (k *Keys) unlink(slot uint16) {
	e := &k.entries[slot-1]
	if e.newer != 0 {
		k.entries[e.newer-1].older = e.older
	} else {
		k.newest = e.older
	}
	if e.older != 0 {
		k.entries[e.older-1].newer = e.newer
	} else {
		k.oldest = e.newer
	}
}
