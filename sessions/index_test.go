package sessions

import (
	"math/rand/v2"
	"testing"
)

// The index does what a Go map does, while it grows over many pages and shrinks again.
func TestIndexAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x index
	want := map[ID]*session{}
	var ids []ID
	check := func(id ID) {
		if got := x.get(id); got != want[id] {
			t.Fatalf("with %d sessions: get is %p, want %p", len(want), got, want[id])
		}
	}
	const most = 20_000
	for _, growth := range []int{90, 50, 10, 100, 0} { // how many of 100 steps add
		for range most {
			if i := r.IntN(max(1, len(ids))); r.IntN(100) >= growth && len(ids) > 0 {
				x.remove(ids[i])
				delete(want, ids[i])
				check(ids[i])
				x.remove(ids[i]) // does nothing
				ids[i] = ids[len(ids)-1]
				ids = ids[:len(ids)-1]
			} else {
				s := &session{id: NewID()}
				check(s.id)
				x.add(s)
				want[s.id] = s
				ids = append(ids, s.id)
				check(s.id)
			}
			if x.len() != len(want) {
				t.Fatalf("the index has %d sessions, want %d", x.len(), len(want))
			}
		}
		for id := range want {
			check(id)
		}
	}
	if len(x.pages) < 16 {
		t.Errorf("%d pages held up to %d sessions; the test means to see many", len(x.pages), most)
	}
	x.clear()
	if x.len() != 0 || x.get(NewID()) != nil {
		t.Error("a cleared index is not empty")
	}
	x.add(&session{})
	if x.get(ID{}) == nil {
		t.Error("a cleared index does not take sessions")
	}
}

// Places of a page that has not been split as often as the others all lead to it.
func TestIndexUnevenPages(t *testing.T) {
	var x index
	var low []*session
	// Of ids that fall on one half of the pages only, that half is split.
	for len(low) < 4*maxPage {
		if s := (&session{id: NewID()}); hashOf(s.id)>>63 == 0 {
			x.add(s)
			low = append(low, s)
		}
	}
	var high []*session
	for len(high) < 100 {
		if s := (&session{id: NewID()}); hashOf(s.id)>>63 == 1 {
			x.add(s)
			high = append(high, s)
		}
	}
	depths := map[uint8]bool{}
	for _, p := range x.pages {
		depths[p.depth] = true
	}
	if len(depths) < 2 {
		t.Errorf("all pages have the same depth: %v", depths)
	}
	for _, s := range append(low, high...) {
		if x.get(s.id) != s {
			t.Fatal("a session is lost")
		}
	}
}

func BenchmarkIndex(b *testing.B) {
	for _, size := range []int{256, 15_625, 156_250} {
		sessions := make([]*session, size)
		for i := range sessions {
			sessions[i] = &session{id: NewID()}
		}
		b.Run("add and get/"+sizeName(size), func(b *testing.B) {
			for b.Loop() {
				var x index
				for _, s := range sessions {
					x.add(s)
				}
				for _, s := range sessions {
					if x.get(s.id) != s {
						b.Fatal("lost")
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/session")
		})
		b.Run("map/"+sizeName(size), func(b *testing.B) {
			for b.Loop() {
				x := map[ID]*session{}
				for _, s := range sessions {
					x[s.id] = s
				}
				for _, s := range sessions {
					if x[s.id] != s {
						b.Fatal("lost")
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/session")
		})
	}
}
