package topics

import (
	"sync/atomic"

	"sluice/gateway"
)

// membersSlice is how many members are visited before other events of the loop have their turn.
const membersSlice = 256

// visitMembers goes through the subscribers on all loops, at the same time.
func visitMembers(loops []*Loop, name string, each func(c *gateway.Conn) bool, done func()) {
	left, stop := new(atomic.Int32), new(atomic.Bool)
	left.Store(int32(len(loops)) + 1)
	finish := func() {
		if left.Add(-1) == 0 {
			done()
		}
	}
	for _, l := range loops {
		if !l.post(func() { l.visit(name, -1, each, stop, finish) }) {
			finish()
		}
	}
	finish()
}

// visit goes from entry i, the last for -1, towards the first, as a pass does.
func (l *Loop) visit(name string, i int, each func(c *gateway.Conn) bool, stop *atomic.Bool,
	finish func()) {
	lo := l.locals[name]
	if lo == nil {
		finish()
		return
	}
	if n := len(lo.entries); i < 0 || i > n {
		i = n
	}
	for range min(i, membersSlice) {
		i--
		if stop.Load() || !each(lo.entries[i].conn) {
			stop.Store(true)
			finish()
			return
		}
	}
	if i == 0 || !l.post(func() { l.visit(name, i, each, stop, finish) }) {
		finish()
	}
}
