package gateway

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sluice/gateway/gatewaytest"
)

// onLoops runs fn on every loop of s, one after the other, and returns when the rounds it ran in
// have handled everything posted before. It is how a test looks at what belongs to a loop.
func onLoops(s *Server, fn func(w *worker)) {
	for _, w := range s.workers {
		done := make(chan struct{})
		if !w.loop.Post(func() { fn(w); close(done) }) {
			continue
		}
		<-done
	}
}

// acceptAll takes over the connections that the kernel has completed: some of their clients may be
// gone already.
func acceptAll(s *Server) {
	onLoops(s, func(w *worker) {
		for before := -1; before < len(w.conns); {
			before = len(w.conns)
			for _, a := range w.acceptors {
				a.Readable()
			}
		}
	})
}

// overdue has the time run out that connections have for what they wait for, on all loops.
func overdue(s *Server) {
	onLoops(s, func(w *worker) {
		for _, c := range slices.Clone(w.conns) {
			if c.state != open {
				c.deadline = w.loop.Now()
				c.expire()
			}
		}
	})
}

func await(t testing.TB, what string, condition func() bool) {
	t.Helper()
	gatewaytest.Await(t, what, condition)
}

// counting returns how much a series of s grows from here on.
func counting(s *Server, series string) func() uint64 {
	read := func() uint64 {
		var text strings.Builder
		s.WriteMetrics(&text)
		for line := range strings.Lines(text.String()) {
			if value, ok := strings.CutPrefix(line, series+" "); ok {
				n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
				if err != nil {
					panic(fmt.Sprintf("%s: %v", series, err))
				}
				return n
			}
		}
		panic("no such series: " + series)
	}
	before := read()
	return func() uint64 { return read() - before }
}

// checkQuiet insists that a server without connections holds nothing for them: no connection in a
// list, no timer, no buffer that was not given back, and nothing given back twice.
func checkQuiet(t testing.TB, s *Server) {
	t.Helper()
	onLoops(s, func(w *worker) {
		if len(w.conns) > 0 || w.corked != nil || w.asked != nil || len(w.scratch) > 0 {
			t.Errorf("loop holds %d connections, corked %p, asked %p, %d bytes to write; want none", len(w.conns), w.corked, w.asked, len(w.scratch))
		}
		if n := w.loop.Timers(); n > 0 {
			t.Errorf("got %d timers armed, want none", n)
		}
		inputs := make(map[*input]bool)
		for _, in := range w.inputs {
			if inputs[in] {
				t.Error("an input is in the pool twice")
			}
			inputs[in] = true
			if in.raw != nil || in.message != nil || in.accept != nil || in.op != 0 || in.remaining != 0 {
				t.Errorf("pooled input is not empty: %+v", in)
			}
		}
		outputs := make(map[*output]bool)
		for _, out := range w.outputs {
			if outputs[out] || out.buf != nil || out.sent != 0 {
				t.Errorf("pooled output is there twice or not empty: %+v", out)
			}
			outputs[out] = true
		}
		// Two slices of one array in the pool would be two owners of it later.
		arrays := make(map[*byte]bool)
		var taken [][]byte
		for size := 256; size <= 128<<10; size *= 2 {
			for range 64 {
				p := w.loop.Buffers.Get(size)
				if first := &p[:1][0]; arrays[first] {
					t.Errorf("a buffer of %d bytes is in the pool twice", size)
				} else {
					arrays[first] = true
				}
				taken = append(taken, p)
			}
		}
		for _, p := range taken {
			w.loop.Buffers.Put(p)
		}
	})
}
