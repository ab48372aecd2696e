package load

import (
	"testing"
	"time"
)

func TestInFlight(t *testing.T) {
	var q inFlight
	next, oldest := time.Duration(0), time.Duration(0)
	for _, step := range []int{1, -1, 3, -2, 5, -6, 2, -2} { // pushes, and pops as negative numbers
		for ; step > 0; step-- {
			q.push(next)
			next++
		}
		for ; step < 0; step++ {
			if got := q.pop(); got != oldest {
				t.Fatalf("popped %d, want %d", got, oldest)
			}
			oldest++
		}
	}
	if q.n != 0 || q.more != nil {
		t.Errorf("%d are left, and memory %v", q.n, q.more)
	}
}
