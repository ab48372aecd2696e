package tls13

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestKeysBound uses more connections than a loop has keys for, in any order, and checks every
// list.
func TestKeysBound(t *testing.T) {
	const limit = 8
	for conns := limit/2 - 1; conns <= limit/2+1; conns++ {
		t.Run(fmt.Sprint(conns), func(t *testing.T) {
			keys := &Keys{Max: limit}
			var layers, mirrors []*Layer
			var mk Keys
			for i := range conns {
				p := connect1(t, suites[i%len(suites)])
				layers, mirrors = append(layers, p.layer), append(mirrors, p.mirror(t))
			}
			random := rand.New(rand.NewPCG(1, 2))
			for range 2000 {
				i := random.IntN(conns)
				data, _, err := layers[i].Open(keys, mirrors[i].Seal(&mk, nil, []byte("in")))
				if string(data) != "in" || err != nil {
					t.Fatalf("got %q, %v", data, err)
				}
				data, _, err = mirrors[i].Open(&mk, layers[i].Seal(keys, nil, []byte("out")))
				if string(data) != "out" || err != nil {
					t.Fatalf("got %q, %v", data, err)
				}
				if random.IntN(10) == 0 {
					mirrors[i].Seal(&mk, nil, nil)
					state := layers[i].AppendState(nil)
					layers[i].Wipe(keys)
					l, _, err := Restore(state)
					if err != nil {
						t.Fatal(err)
					}
					*layers[i] = l
				}
				checkKeys(t, keys)
			}
			if want := min(limit, 2*conns); len(keys.entries) != want {
				t.Errorf("%d AEADs for %d connections, want %d", len(keys.entries), conns, want)
			}
		})
	}
}

func checkKeys(t *testing.T, k *Keys) {
	t.Helper()
	seen, before := 0, uint16(0)
	for s := k.newest; s != 0; s = k.entries[s-1].older {
		e := &k.entries[s-1]
		if e.newer != before || e.owner == nil || e.aead == nil || e.owner.slot[e.dir] != s {
			t.Fatalf("entry %d: %+v", s, e)
		}
		before = s
		if seen++; seen > len(k.entries) {
			t.Fatal("the list goes round in circles")
		}
	}
	if k.oldest != before {
		t.Fatalf("oldest is %d, want %d", k.oldest, before)
	}
	for s := k.free; s != 0; s = k.entries[s-1].older {
		if e := &k.entries[s-1]; e.owner != nil || e.aead != nil {
			t.Fatalf("free entry %d: %+v", s, e)
		}
		seen++
	}
	if seen != len(k.entries) {
		t.Fatalf("%d of %d entries are on a list", seen, len(k.entries))
	}
}

func BenchmarkEcho(b *testing.B) {
	for _, suite := range suites {
		for _, max := range []int{DefaultKeys, 1} {
			b.Run(fmt.Sprintf("%#x/keys=%d", suite, max), func(b *testing.B) {
				p := connect1(b, suite)
				p.keys.Max = max
				m := p.mirror(b)
				var mk Keys
				plain := make([]byte, 64)
				var sealed []byte
				b.ReportAllocs()
				for b.Loop() {
					sealed = m.Seal(&mk, sealed[:0], plain)
					if _, _, err := p.layer.Open(p.keys, sealed); err != nil {
						b.Fatal(err)
					}
					sealed = p.layer.Seal(p.keys, sealed[:0], plain)
					if _, _, err := m.Open(&mk, sealed); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
