package poller

import (
	"bytes"
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

func TestBuffersCapacityClasses(t *testing.T) {
	for _, tc := range []struct{ n, want int }{
		{-1, 256}, {0, 256}, {1, 256}, {255, 256}, {256, 256}, {257, 512}, {512, 512}, {513, 1024},
		{65_535, 65_536}, {65_536, 65_536}, {65_537, 131_072}, {131_071, 131_072}, {131_072, 131_072},
		{131_073, 131_073}, {1 << 20, 1 << 20}, // not pooled: exactly what is asked for
	} {
		var b Buffers
		p := b.Get(tc.n)
		if len(p) != 0 || cap(p) != tc.want {
			t.Errorf("Get(%d): length %d, capacity %d; want 0 and %d", tc.n, len(p), cap(p), tc.want)
		}
		b.Put(p)
		if pooled := tc.want <= 131_072; (b.kept == tc.want) != pooled {
			t.Errorf("Put of %d bytes: %d kept, pooled should be %v", tc.want, b.kept, pooled)
		}
	}
}

func TestBuffersIgnoreWhatIsNotTheirs(t *testing.T) {
	var b Buffers
	for _, p := range [][]byte{nil, {}, make([]byte, 0, 255), make([]byte, 0, 257), make([]byte, 0, 128), make([]byte, 300), make([]byte, 1<<18)} {
		b.Put(p)
	}
	if b.kept != 0 {
		t.Errorf("%d bytes kept", b.kept)
	}
}

func TestBuffersRetentionAtItsLimit(t *testing.T) {
	var b Buffers
	const size = 128 << 10
	for i := range retain/size + 3 {
		b.Put(make([]byte, 0, size))
		if want := min((i+1)*size, retain); b.kept != want {
			t.Fatalf("after %d buffers: %d bytes kept, want %d", i+1, b.kept, want)
		}
	}
	b.Put(make([]byte, 0, 256))
	if b.kept != retain {
		t.Errorf("over the limit: %d bytes kept, want %d", b.kept, retain)
	}
	b.Get(size)
	b.Put(make([]byte, 0, 256))
	if want := retain - size + 256; b.kept != want {
		t.Errorf("below the limit again: %d bytes kept, want %d", b.kept, want)
	}
}

// owned is a buffer in somebody's hands, full of his mark.
type owned struct {
	p    []byte
	mark byte
}

// TestBuffersHaveOneOwner leads a pool through a random life. Each owner fills his buffer, to the
// end of its capacity, with a mark that no other has at the time: two owners of the same memory
// would see each other's.
func TestBuffersHaveOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b Buffers
		var out []*owned
		marks := byte(0)
		// Few live at a time, so that 255 marks suffice.
		size := rapid.OneOf(rapid.IntRange(0, 1024), rapid.IntRange(0, 1<<18), rapid.SampledFrom([]int{255, 256, 257, 1 << 17, 1<<17 + 1}))
		fill := func(o *owned) {
			marks++
			o.mark = marks
			whole := o.p[:cap(o.p)]
			for i := range whole {
				whole[i] = o.mark
			}
		}
		check := func(o *owned) {
			whole := o.p[:cap(o.p)]
			if bytes.Count(whole, []byte{o.mark}) != len(whole) {
				t.Fatalf("a buffer of %d bytes was written by another owner", len(whole))
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			action := rapid.IntRange(0, 3).Draw(t, "action")
			if len(out) == 0 {
				action = 0
			}
			pick := func() int { return rapid.IntRange(0, len(out)-1).Draw(t, "which") }
			switch {
			case action <= 1 && len(out) < 12:
				n := size.Draw(t, "size")
				o := &owned{p: b.Get(n)}
				if len(o.p) != 0 || cap(o.p) < n {
					t.Fatalf("Get(%d): length %d, capacity %d", n, len(o.p), cap(o.p))
				}
				fill(o)
				out = append(out, o)
			case action == 2:
				i := pick()
				check(out[i])
				b.Put(out[i].p)
				out[i] = out[len(out)-1]
				out = out[:len(out)-1]
			default:
				o := out[pick()]
				check(o)
				// From an arbitrary fill, grow past the capacity.
				had := rapid.IntRange(0, cap(o.p)).Draw(t, "had")
				data := bytes.Repeat([]byte{o.mark}, rapid.IntRange(0, 5000).Draw(t, "more"))
				before := unsafe.SliceData(o.p)
				grown := b.Append(o.p[:had], data...)
				if len(grown) != had+len(data) || bytes.Count(grown, []byte{o.mark}) != len(grown) {
					t.Fatalf("Append of %d to %d bytes: %d bytes, %d of them right", len(data), had, len(grown), bytes.Count(grown, []byte{o.mark}))
				}
				if same := unsafe.SliceData(grown) == before; same != (had+len(data) <= cap(o.p)) {
					t.Fatalf("Append of %d to %d of %d bytes: moved %v", len(data), had, cap(o.p), !same)
				}
				o.p = grown
				fill(o)
			}
			kept := 0
			for class, list := range b.free {
				for _, p := range list {
					if cap(p) != 1<<(class+minBufferBits) {
						t.Fatalf("a buffer of %d bytes is in class %d", cap(p), class)
					}
					kept += cap(p)
				}
			}
			if kept != b.kept || kept > retain {
				t.Fatalf("%d bytes kept, counted as %d, limit %d", kept, b.kept, retain)
			}
		}
		for _, o := range out {
			check(o)
		}
	})
}

func TestBuffersReuseAllocatesNothing(t *testing.T) {
	var b Buffers
	data := bytes.Repeat([]byte("x"), 3000)
	if got := testing.AllocsPerRun(100, func() {
		p := b.Append(nil, data[:100]...)
		p = b.Append(p, data...)
		b.Put(p)
	}); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}
