package bench

import (
	"bytes"
	"sync"
)

// tailBytes is how much of its last words a process is remembered by.
const tailBytes = 4 << 10

// Tail keeps the end of what is written to it: a process's last words, for the message that says how it ended. Any goroutine.
type Tail struct {
	mu  sync.Mutex
	end []byte
}

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if over := len(t.end) - tailBytes; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	return len(p), nil
}

// String is what was kept, without white space around it.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.end))
}
