package admin

import (
	"log/slog"
	"strings"
	"sync"
	"unicode/utf8"
)

// Lines keeps the last log lines of warn and above, for the page. Any goroutine.
type Lines struct {
	mu    sync.Mutex
	ring  [maxLogLines]string
	count int // of all lines ever
}

// What Lines keeps at most.
const (
	maxLogLines = 30
	maxLogLine  = 500 // bytes
)

// Handler is where a logger sends what Lines is to keep, beside its own handler: see
// slog.NewMultiHandler.
func (l *Lines) Handler() slog.Handler {
	return slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn})
}

// Write takes one line, from Handler.
func (l *Lines) Write(p []byte) (int, error) {
	line := strings.ToValidUTF8(strings.TrimSuffix(string(p), "\n"), "�")
	if len(line) > maxLogLine {
		cut := maxLogLine
		for !utf8.RuneStart(line[cut]) {
			cut--
		}
		line = strings.Clone(line[:cut]) + "…"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring[l.count%maxLogLines] = line
	l.count++
	return len(p), nil
}

// Last returns what is kept, the latest first.
func (l *Lines) Last() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := make([]string, 0, min(l.count, maxLogLines))
	for i := l.count - 1; i >= 0 && i >= l.count-maxLogLines; i-- {
		lines = append(lines, l.ring[i%maxLogLines])
	}
	return lines
}
