package faults

import "testing"

// Each promise that is not kept is found, and what is allowed is none.
func TestServiceBooks(t *testing.T) {
	hear := func(b *serviceBooks, texts ...string) {
		for _, text := range texts {
			b.heard("c", "TEXT", []byte(text))
		}
	}
	open := func(b *serviceBooks, said int) *serviceLife {
		l := b.born("0.0", "gateway")
		b.heard("c", "OPEN", nil)
		for range said {
			b.saying("0.0", l)
		}
		for n := range 5 {
			b.publishing(0)
			b.took(0, n)
		}
		return l
	}
	for name, tt := range map[string]struct {
		do   func(b *serviceBooks)
		want serviceTally
	}{
		"all is well": {func(b *serviceBooks) {
			l := open(b, 2)
			hear(b, "0.0 0", "0.0 1")
			b.came(l, "publication 0 2")
			b.came(l, "publication 0 3")
			b.came(l, "0.0 0")
			b.heard("c", "CLOSE", nil)
		}, serviceTally{said: 2, heard: 2, published: 5, delivered: 2}},
		"lost": {func(b *serviceBooks) {
			open(b, 2)
			hear(b, "0.0 0")
			b.lost()
			b.heard("c", "CLOSE", nil)
		}, serviceTally{said: 2, heard: 1, lost: 1, published: 5}},
		"closed instead": {func(b *serviceBooks) {
			l := open(b, 2)
			hear(b, "0.0 0")
			b.died(l)
			b.lost()
			b.heard("c", "DISCONNECT", nil)
		}, serviceTally{said: 2, heard: 1, closed: 1, published: 5}},
		"doubled and reordered": {func(b *serviceBooks) {
			open(b, 4)
			hear(b, "0.0 0", "0.0 0", "0.0 3", "0.0 1")
			b.heard("c", "CLOSE", nil)
		}, serviceTally{said: 4, heard: 2, closed: 2, doubled: 1, reordered: 1, published: 5}},
		"untold": {func(b *serviceBooks) {
			open(b, 0)
		}, serviceTally{untold: 1, published: 5}},
		"untold by a gateway that was killed": {func(b *serviceBooks) {
			open(b, 1)
			hear(b, "0.0 0")
			b.killed["gateway"] = true
		}, serviceTally{said: 1, heard: 1, published: 5}},
		"a gap that is told, and one that is not": {func(b *serviceBooks) {
			l := open(b, 0)
			b.came(l, "publication 0 0")
			b.came(l, `{"type":"gap","topic":"room-1","missed":0}`)
			b.came(l, "publication 0 2")
			b.came(l, `{"type":"gap","topic":"room-0","missed":0}`)
			b.came(l, "publication 0 4")
			b.heard("c", "CLOSE", nil)
		}, serviceTally{published: 5, delivered: 3, told: 1, silent: 1}},
		"a gap of what was not taken": {func(b *serviceBooks) {
			l := open(b, 0)
			b.publishing(1)
			b.publishing(1)
			b.publishing(1)
			b.came(l, "publication 1 0")
			b.came(l, "publication 1 2")
			b.heard("c", "CLOSE", nil)
		}, serviceTally{published: 5, delivered: 2}},
		"twice and backwards": {func(b *serviceBooks) {
			l := open(b, 0)
			b.came(l, "publication 0 1")
			b.came(l, "publication 0 1")
			b.came(l, "publication 0 0")
			b.heard("c", "CLOSE", nil)
		}, serviceTally{published: 5, delivered: 3, twice: 1, backwards: 1}},
	} {
		b := newServiceBooks()
		tt.do(b)
		if got := b.settle(); got != tt.want {
			t.Errorf("%s: got %+v, want %+v", name, got, tt.want)
		}
	}
}
