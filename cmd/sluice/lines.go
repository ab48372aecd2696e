package main

import (
	"io"
	"sync"
	"time"
)

// maxLines is how many bytes of log wait for a reader that does not read; what comes beyond it is
// lost, and counted.
const maxLines = 256 << 10

// lineQueue is an io.Writer that never blocks: a goroutine of its own writes to w. Loops log too,
// and neither they nor a drain may wait for whoever reads standard error. Any goroutine.
type lineQueue struct {
	w    io.Writer
	lost func(lines int) // called after w has taken bytes again; it may log

	mu      sync.Mutex
	wake    sync.Cond
	pending []byte
	dropped int // lines since lost was called
	closed  bool
	done    chan struct{} // closed when all is written
}

func newLineQueue(w io.Writer) *lineQueue {
	q := &lineQueue{w: w, done: make(chan struct{})}
	q.wake.L = &q.mu
	return q
}

// start begins to write. lost is told how many lines there was no room for.
func (q *lineQueue) start(lost func(lines int)) {
	q.lost = lost
	go q.run()
}

// Write takes one line or loses it; it has no error.
func (q *lineQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending)+len(line) > maxLines {
		q.dropped++
		return len(line), nil
	}
	q.pending = append(q.pending, line...)
	q.wake.Signal()
	return len(line), nil
}

func (q *lineQueue) run() {
	defer close(q.done)
	var batch []byte
	for {
		q.mu.Lock()
		for len(q.pending) == 0 && !q.closed {
			q.wake.Wait()
		}
		batch, q.pending = q.pending, batch[:0]
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		// An error means that nobody will ever read this log. There is nobody to tell, and it is no
		// reason to stop serving.
		_, _ = q.w.Write(batch)
		q.mu.Lock()
		dropped := q.dropped
		q.dropped = 0
		q.mu.Unlock()
		if dropped > 0 {
			q.lost(dropped)
		}
	}
}

// close waits until all is written, but no longer than patience.
func (q *lineQueue) close(patience time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.wake.Signal()
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-time.After(patience):
	}
}
