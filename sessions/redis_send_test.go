package sessions

import "testing"

// Batches of all sizes around those at which they are spread over more connections: each writer
// gets its own answer.
func TestRedisBatchesAreSpread(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l := newTestLoop(t, s)
	for _, size := range []int{1, minPart - 1, minPart, minPart + 1, 2 * minPart, 2*minPart + 1, maxBatch - 1, maxBatch, maxBatch + 1} {
		members := make([]*member, size)
		l.on(func() {
			for i := range members {
				members[i] = &member{t: t, loop: l, name: "spread"}
				l.Attach(NewID(), "", false, members[i])
				for range i + 1 {
					members[i].a.Add()
				}
			}
		})
		for i, m := range members {
			m.acked(i + 1)
			if n := get(m, &m.numbers); n[0] != 1 || n[i] != uint64(i+1) {
				t.Errorf("writer %d of %d: acknowledged %d to %d, want 1 to %d", i, size, n[0], n[i], i+1)
			}
			if total, err := m.leave(); total != uint64(i+1) || err != nil {
				t.Errorf("writer %d of %d: Detached with %d, %v, want %d", i, size, total, err, i+1)
			}
		}
	}
}
