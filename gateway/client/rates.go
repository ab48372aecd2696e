package client

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Bucket is a token bucket in 8 bytes: the time at which it is full again (the generic cell rate
// algorithm's theoretical arrival time). The zero Bucket is full.
type Bucket struct{ fullAt time.Duration }

// Rate is how fast buckets fill and how much they hold.
type Rate struct {
	each  time.Duration // time that one token takes
	depth time.Duration // time that a whole bucket takes
}

// PerSecond is a rate of n a second with buckets for burst of them, at least one. The zero Rate,
// and that of n <= 0, has no limit.
func PerSecond(n, burst int) Rate {
	if n <= 0 {
		return Rate{}
	}
	each := max(time.Second/time.Duration(n), 1)
	return Rate{each: each, depth: each * time.Duration(max(burst, 1))}
}

// Limited reports whether there is a limit at all.
func (r Rate) Limited() bool { return r.each > 0 }

// Take takes a token at the time now, and reports whether there was one.
func (b *Bucket) Take(r Rate, now time.Duration) bool {
	fullAt := max(b.fullAt, now) + r.each
	if fullAt-now > r.depth {
		return false
	}
	b.fullAt = fullAt
	return true
}

// Rates has a Bucket for each address, in a table whose size is fixed: 512 KiB. When more addresses
// than the table has places for come within one filling time, those with the fullest buckets are
// forgotten, which are the ones that the limit concerns least; a forgotten address begins with a
// full bucket. So a flood from very many addresses can weaken the limit, and cannot turn it against
// others nor take more memory. Any goroutine; the zero Rates has no limit.
type Rates struct {
	rate   Rate
	seed   maphash.Seed
	shards []rateShard
}

const (
	rateShards = 64
	rateSets   = 64 // in a shard
	rateWays   = 8  // places where an address can be
)

// rateShard is a part of the table. Its lock is held for a few comparisons, at accept and never on
// the way of a message.
type rateShard struct {
	mu   sync.Mutex
	sets [rateSets][rateWays]ratePlace
}

// ratePlace is one address. A keyed hash of 64 bits stands for it: nobody outside can make two
// addresses share a place on purpose.
type ratePlace struct {
	hash   uint64
	bucket Bucket
}

// NewRates makes an empty table for r.
func NewRates(r Rate) *Rates {
	t := &Rates{rate: r, seed: maphash.MakeSeed()}
	if r.Limited() {
		t.shards = make([]rateShard, rateShards)
	}
	return t
}

// Limited reports whether there is a limit at all.
func (t *Rates) Limited() bool { return t.rate.Limited() }

// Take takes a token of the address group of ip, and reports whether there was one.
func (t *Rates) Take(ip netip.Addr, now time.Duration) bool {
	if !t.rate.Limited() {
		return true
	}
	hash, shard, set := t.find(ip)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	place := &set[0]
	for i := range set {
		if set[i].hash == hash {
			return set[i].bucket.Take(t.rate, now)
		}
		if set[i].bucket.fullAt < place.bucket.fullAt {
			place = &set[i]
		}
	}
	*place = ratePlace{hash: hash}
	return place.bucket.Take(t.rate, now)
}

// Return gives back a token that Take took.
func (t *Rates) Return(ip netip.Addr) {
	if !t.rate.Limited() {
		return
	}
	hash, shard, set := t.find(ip)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	for i := range set {
		if set[i].hash == hash {
			set[i].bucket.fullAt -= t.rate.each
			return
		}
	}
}

// find is where ip's group belongs.
func (t *Rates) find(ip netip.Addr) (hash uint64, shard *rateShard, set *[rateWays]ratePlace) {
	hash = maphash.Comparable(t.seed, Group(ip)) | 1 // 0 is an empty place
	shard = &t.shards[hash>>58]
	return hash, shard, &shard.sets[hash>>52&(rateSets-1)]
}
