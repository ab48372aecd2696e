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
	held := seen
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
	if k.held != held {
		t.Fatalf("%d AEADs held, %d on the list", k.held, held)
	}
}

// TestKeysTrim: what was not used between two calls of Trim goes, what was stays, and connections
// whose AEADs went build new ones.
func TestKeysTrim(t *testing.T) {
	keys := &Keys{Max: 64}
	var mk Keys
	var layers, mirrors []*Layer
	for i := range 8 {
		p := connect1(t, suites[i%len(suites)])
		layers, mirrors = append(layers, p.layer), append(mirrors, p.mirror(t))
	}
	echo := func(i int) {
		t.Helper()
		data, _, err := layers[i].Open(keys, mirrors[i].Seal(&mk, nil, []byte("in")))
		if string(data) != "in" || err != nil {
			t.Fatalf("got %q, %v", data, err)
		}
		data, _, err = mirrors[i].Open(&mk, layers[i].Seal(keys, nil, []byte("out")))
		if string(data) != "out" || err != nil {
			t.Fatalf("got %q, %v", data, err)
		}
		checkKeys(t, keys)
	}
	trim := func(want int) {
		t.Helper()
		keys.Trim()
		if got := keys.Held(); got != want {
			t.Fatalf("%d AEADs held, want %d", got, want)
		}
		checkKeys(t, keys)
	}
	for i := range layers {
		echo(i)
	}
	trim(16) // all were used
	for _, i := range []int{5, 2, 7} {
		echo(i)
	}
	trim(6)
	echo(2)
	echo(0)
	trim(4)
	trim(0)
	if keys.entries != nil {
		t.Error("places are kept, want none")
	}
	trim(0)
	for i := range layers {
		echo(i)
	}
	trim(16)
}

// TestKeysGrow: many connections that speak once share the least; those that speak again soon after
// their AEADs went to others get places of their own, up to Max; and a quiet time takes them back.
func TestKeysGrow(t *testing.T) {
	const conns, most = 8 * DefaultKeys, 9 * DefaultKeys
	keys := &Keys{Max: most}
	layers := make([]*Layer, conns)
	for i := range layers {
		l, err := New(AES128GCM, make([]byte, 32), make([]byte, 32), 0)
		if err != nil {
			t.Fatal(err)
		}
		layers[i] = &l
	}
	speak := func(layers []*Layer) {
		for _, l := range layers {
			l.Seal(keys, nil, []byte("out"))
		}
		checkKeys(t, keys)
	}
	check := func(when string, want int) {
		t.Helper()
		if got := keys.Held(); got != want {
			t.Errorf("%s: %d AEADs held, want %d", when, got, want)
		}
	}
	speak(layers)
	check("each spoke once", DefaultKeys)
	keys.Trim()
	keys.Trim()
	check("after a quiet time", 0)
	keys.Trim()
	for range 3 {
		speak(layers)
		keys.Trim()
		keys.Trim()
		keys.Trim()
	}
	check("spoke seldom", 0)
	for range 3 {
		speak(layers)
	}
	check("spoke again and again", conns)
	for range 3 {
		speak(layers)
		keys.Trim()
	}
	check("as many are busy", conns)
	speak(layers[:10])
	keys.Trim()
	check("few are busy", 10)
	speak(layers)
	check("others spoke once", DefaultKeys)

	keys.Trim()
	keys.Trim()

	for range 2 { // a burst: each speaks, and speaks again
		speak(layers)
	}
	check("a burst", conns)
	for range 3 { // then each speaks in some turn, once, as with a heartbeat
		for i := 0; i < conns; i += conns / 4 {
			keys.Trim()
			speak(layers[i : i+conns/4])
		}
	}
	check("heartbeats after a burst", DefaultKeys)
	keys.Trim()
	keys.Trim()
	speak(layers[:10])
	for range 4 {
		speak(layers)
	}
	check("again", conns)
	keys.Trim()
	for range 3 {
		speak(layers[:10])
		keys.Trim()
		checkKeys(t, keys)
	}
	check("ten of them", 10)
	if n := len(keys.entries); n > 4*DefaultKeys {
		t.Errorf("%d places are kept for 10 AEADs", n)
	}

	keys.Max = conns - 1
	for range 4 {
		speak(layers)
	}
	check("the bound", conns-1)
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
