package client

import (
	"hash/maphash"
	"net/netip"
	"sync"
)

// Counts is how many connections each address holds. It has an entry for each address that holds
// one, so what bounds the connections bounds it too. Any goroutine; a nil Counts has no limit.
type Counts struct {
	most   int32
	seed   maphash.Seed
	shards [rateShards]countShard
}

type countShard struct {
	mu   sync.Mutex
	held map[netip.Addr]int32
}

// NewCounts allows most connections for each address group; it returns nil for no limit.
func NewCounts(most int) *Counts {
	if most <= 0 {
		return nil
	}
	return &Counts{most: int32(min(most, 1<<30)), seed: maphash.MakeSeed()}
}

func (t *Counts) shard(group netip.Addr) *countShard {
	return &t.shards[maphash.Comparable(t.seed, group)%rateShards]
}

// Add counts a connection of ip, and reports whether it may be held; if not, it is not counted.
func (t *Counts) Add(ip netip.Addr) bool {
	if t == nil {
		return true
	}
	group := Group(ip)
	s := t.shard(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[group] >= t.most {
		return false
	}
	if s.held == nil {
		s.held = make(map[netip.Addr]int32)
	}
	s.held[group]++
	return true
}

// Remove undoes an Add that has reported true.
func (t *Counts) Remove(ip netip.Addr) {
	if t == nil {
		return
	}
	group := Group(ip)
	s := t.shard(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[group]--; s.held[group] <= 0 {
		delete(s.held, group)
	}
	if len(s.held) == 0 {
		s.held = nil // a map keeps the room that a flood has made it take
	}
}

// Held is how many connections the address group of ip holds.
func (t *Counts) Held(ip netip.Addr) int {
	if t == nil {
		return 0
	}
	group := Group(ip)
	s := t.shard(group)
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.held[group])
}
