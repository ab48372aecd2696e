package sessions

import (
	"hash/maphash"
	"math/bits"
)

// index finds sessions by their id. A Go map from ID to pointer keeps the id a second time, 24
// bytes a slot and up to 52 a session; this keeps a pointer and eight bits of the hash, 9 bytes a
// slot and 10 to 21 a session. It grows as Go's map does: a page doubles until it has maxPage
// slots, and then becomes two (Fagin and others, "Extendible Hashing", 1979), so that no insertion
// moves more than 900 sessions. The hash has a random key: clients choose ids, and must not choose
// pages. The zero index is empty. No two goroutines at a time.
type index struct {
	n     int
	pages []*page // by the first bits of the hash; a page may be there more than once
}

// page is a hash table with linear probing.
type page struct {
	depth uint8 // how many bits of the hash all its sessions share
	n     int
	tags  []uint8 // 0 for an empty slot
	slots []*session
}

const (
	minPage = 8
	maxPage = 1024 // slots
)

var indexSeed = maphash.MakeSeed()

func hashOf(id ID) uint64 { return maphash.Comparable(indexSeed, id) }

// tag is never 0. Its bits are not those that choose the page or the slot.
func tag(h uint64) uint8 { return uint8(h>>16) | 1 }

func (x *index) len() int { return x.n }

// at is the place of h among the pages.
func (x *index) at(h uint64) int {
	return int(h >> (64 - bits.TrailingZeros(uint(len(x.pages))))) // a shift by 64 gives 0
}

// get returns nil when there is none.
func (x *index) get(id ID) *session {
	if x.n == 0 {
		return nil
	}
	h := hashOf(id)
	p := x.pages[x.at(h)]
	if i, ok := p.find(h, id); ok {
		return p.slots[i]
	}
	return nil
}

// add adds s, whose id is not there.
func (x *index) add(s *session) {
	if x.pages == nil {
		x.pages = []*page{newPage(0, minPage)}
	}
	h := hashOf(s.id)
	p := x.pages[x.at(h)]
	for p.full() {
		if len(p.slots) < maxPage {
			p.move(p.slots, 2*len(p.slots))
		} else {
			x.split(x.at(h))
			p = x.pages[x.at(h)]
		}
	}
	p.put(h, s)
	x.n++
}

// remove removes the session with this id, if there is one.
func (x *index) remove(id ID) {
	if x.n == 0 {
		return
	}
	h := hashOf(id)
	p := x.pages[x.at(h)]
	if i, ok := p.find(h, id); ok {
		p.remove(i)
		x.n--
	}
}

// clear forgets all.
func (x *index) clear() { *x = index{} }

// split has the sessions of the page at place i deal themselves to two, by their next bit.
func (x *index) split(i int) {
	p := x.pages[i]
	if 1<<p.depth == len(x.pages) {
		wide := make([]*page, 2*len(x.pages))
		for j := range wide {
			wide[j] = x.pages[j/2]
		}
		x.pages, i = wide, 2*i
	}
	low, high := newPage(p.depth+1, maxPage), newPage(p.depth+1, maxPage)
	for _, s := range p.slots {
		if s == nil {
			continue
		}
		h := hashOf(s.id)
		if h<<p.depth>>63 == 0 {
			low.put(h, s)
		} else {
			high.put(h, s)
		}
	}
	span := len(x.pages) >> p.depth // places that the page has
	first := i &^ (span - 1)
	for j := range span {
		if j < span/2 {
			x.pages[first+j] = low
		} else {
			x.pages[first+j] = high
		}
	}
}

func newPage(depth uint8, slots int) *page {
	return &page{depth: depth, tags: make([]uint8, slots), slots: make([]*session, slots)}
}

// full reports whether there are as many as probes stay short with: 7 of 8 slots.
func (p *page) full() bool { return 8*p.n >= 7*len(p.slots) }

// move has p hold the sessions of slots in a table of another size.
func (p *page) move(slots []*session, size int) {
	q := newPage(p.depth, size)
	for _, s := range slots {
		if s != nil {
			q.put(hashOf(s.id), s)
		}
	}
	*p = *q
}

// home is where the probes for h begin.
func (p *page) home(h uint64) int { return int(h) & (len(p.slots) - 1) }

// find returns the slot of id, or the empty one at which the search for it ended.
func (p *page) find(h uint64, id ID) (i int, ok bool) {
	for i = p.home(h); p.tags[i] != 0; i = (i + 1) & (len(p.slots) - 1) {
		if p.tags[i] == tag(h) && p.slots[i].id == id {
			return i, true
		}
	}
	return i, false
}

// put adds s, which is not there; there is room.
func (p *page) put(h uint64, s *session) {
	i, _ := p.find(h, s.id)
	p.tags[i], p.slots[i] = tag(h), s
	p.n++
}

// remove empties slot i, and moves what was put behind it because of it up (Knuth, The Art of
// Computer Programming 3, 6.4 R).
func (p *page) remove(i int) {
	mask := len(p.slots) - 1
	for j := (i + 1) & mask; p.tags[j] != 0; j = (j + 1) & mask {
		if home := p.home(hashOf(p.slots[j].id)); (j-home)&mask >= (j-i)&mask {
			p.tags[i], p.slots[i] = p.tags[j], p.slots[j]
			i = j
		}
	}
	p.tags[i], p.slots[i] = 0, nil
	p.n--
}
