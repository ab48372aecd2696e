package poller

import "math/bits"

// Buffers pools byte slices for partial input and unsent output, in powers of two from 256 bytes to
// 128 KiB. It belongs to one loop, so it needs no lock, and it keeps at most retain bytes, so that
// a burst does not stay in memory for good.
type Buffers struct {
	free [bufferClasses][][]byte
	kept int
	held int
}

// Held is the capacity in bytes of the slices that are in use: taken with Get or Append and not put
// back. Loop only.
func (b *Buffers) Held() int { return b.held }

const (
	minBufferBits = 8
	bufferClasses = 10
	retain        = 1 << 20 // bytes kept for reuse, a loop
)

// Get returns an empty slice with room for at least n bytes.
func (b *Buffers) Get(n int) []byte {
	class := max(bits.Len(uint(max(n, 1)-1)), minBufferBits) - minBufferBits
	if class >= bufferClasses {
		b.held += n
		return make([]byte, 0, n)
	}
	b.held += 1 << (class + minBufferBits)
	if list := b.free[class]; len(list) > 0 {
		p := list[len(list)-1]
		list[len(list)-1] = nil
		b.free[class] = list[:len(list)-1]
		b.kept -= cap(p)
		return p
	}
	return make([]byte, 0, 1<<(class+minBufferBits))
}

// Put gives p back. The caller must not use it, or a slice of it, any more.
func (b *Buffers) Put(p []byte) {
	size := cap(p)
	b.held -= size
	class := bits.Len(uint(size)) - 1 - minBufferBits
	if size == 0 || class < 0 || class >= bufferClasses || size != 1<<(class+minBufferBits) || b.kept+size > retain {
		return // the collector's
	}
	b.kept += size
	b.free[class] = append(b.free[class], p[:0])
}

// Append is append with a pooled p: when p is too small its bytes move to a pooled slice of at
// least twice the size.
func (b *Buffers) Append(p []byte, data ...byte) []byte {
	need := len(p) + len(data)
	if need > cap(p) {
		grown := append(b.Get(max(need, 2*cap(p))), p...)
		b.Put(p)
		p = grown
	}
	return append(p, data...)
}
