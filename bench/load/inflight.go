package load

import "time"

// inFlight is the queue of intended send times of one connection's unanswered messages, oldest
// first. Servers answer a connection in order, so a reply belongs to the front. One message in
// flight, the usual case, needs no allocation.
type inFlight struct {
	first time.Duration
	more  *[]time.Duration // those after the first; nil when none
	n     uint32
}

func (q *inFlight) push(at time.Duration) {
	switch {
	case q.n == 0:
		q.first = at
	case q.more == nil:
		q.more = &[]time.Duration{at}
	default:
		*q.more = append(*q.more, at)
	}
	q.n++
}

// pop takes the oldest; there must be one.
func (q *inFlight) pop() time.Duration {
	at := q.first
	if q.n--; q.n > 0 {
		rest := *q.more
		q.first, *q.more = rest[0], rest[1:]
	} else {
		q.more = nil
	}
	return at
}
