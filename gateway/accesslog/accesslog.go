// Package accesslog writes one line for each WebSocket at its end: to a file that may be rotated,
// or to standard output. Loops hand over finished lines and never wait: what the file does not take
// in time is lost, and counted.
package accesslog

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"sluice/gateway"
)

// Config sets up a Log.
type Config struct {
	// File is where lines go: a path, or "stdout".
	File string

	// Common writes the Common Log Format of web servers instead of JSON. It has no place for
	// messages, bytes received, session and duration; the status is the close code.
	Common bool

	// MaxPending bounds the bytes that wait for the file. Too little loses lines when very many
	// connections end at once, as in a drain. Default 4 MiB.
	MaxPending int

	// Logger is told when lines are lost. Default slog.Default().
	Logger *slog.Logger
}

// Log is an access log. Any goroutine.
type Log struct {
	cfg Config

	mu      sync.Mutex
	wake    sync.Cond
	pending []byte
	lines   int // in pending
	lost    int // since the last report
	reopen  bool
	closed  bool
	done    chan struct{} // closed when all is written

	out io.Writer // the writing goroutine's
}

// Open opens the file, which is appended to, and begins to write.
func Open(cfg Config) (*Log, error) {
	if cfg.MaxPending == 0 {
		cfg.MaxPending = 4 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	l := &Log{cfg: cfg, done: make(chan struct{})}
	l.wake.L = &l.mu
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	go l.run()
	return l, nil
}

// open opens the file. O_APPEND lets it be truncated by whoever has copied it.
func (l *Log) open() error {
	if l.cfg.File == "stdout" {
		l.out = os.Stdout
		return nil
	}
	f, err := os.OpenFile(l.cfg.File, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	l.out = f
	return nil
}

// Reopen opens the file anew, once what waits is written: the old one has been renamed.
func (l *Log) Reopen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reopen = true
	l.wake.Signal()
}

// Ended writes the line of one connection: it is for gateway.Config.Ended.
func (l *Log) Ended(s *gateway.Summary) {
	var buf [1024]byte
	line := buf[:0]
	if l.cfg.Common {
		line = appendCommon(line, s)
	} else {
		line = appendJSON(line, s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || len(l.pending)+len(line) > l.cfg.MaxPending {
		l.lost++
		linesLost.Inc()
		return
	}
	l.pending = append(l.pending, line...)
	l.lines++
	l.wake.Signal()
}

func (l *Log) run() {
	defer close(l.done)
	var batch []byte
	for {
		l.mu.Lock()
		for len(l.pending) == 0 && !l.reopen && !l.closed {
			l.wake.Wait()
		}
		batch, l.pending = l.pending, batch[:0]
		lines, lost, reopen, closed := l.lines, l.lost, l.reopen, l.closed
		l.lines, l.lost, l.reopen = 0, 0, false
		l.mu.Unlock()
		if len(batch) > 0 {
			if _, err := l.out.Write(batch); err != nil {
				l.cfg.Logger.Warn("access log lines lost", "error", err, "lines", lines)
				linesLost.Add(lines)
			} else {
				linesWritten.Add(lines)
			}
		}
		if lost > 0 {
			l.cfg.Logger.Warn("access log lines lost: the file did not take them in time", "lines", lost)
		}
		if reopen {
			l.change()
		}
		if closed && len(batch) == 0 && !reopen {
			l.closeFile()
			return
		}
	}
}

// change goes over to a new file, or stays with the old one when there is none to be had.
func (l *Log) change() {
	old := l.out
	if err := l.open(); err != nil {
		l.cfg.Logger.Error("cannot reopen the access log, going on with the old file", "error", err)
		return
	}
	if f, ok := old.(*os.File); ok && f != os.Stdout {
		_ = f.Close() // all of it is written
	}
}

func (l *Log) closeFile() {
	if f, ok := l.out.(*os.File); ok && f != os.Stdout {
		if err := f.Close(); err != nil {
			l.cfg.Logger.Warn("close the access log", "error", err)
		}
	}
}

// Close writes what waits, for no longer than patience.
func (l *Log) Close(patience time.Duration) error {
	l.mu.Lock()
	l.closed = true
	l.wake.Signal()
	l.mu.Unlock()
	select {
	case <-l.done:
		return nil
	case <-time.After(patience):
		return errors.New("the access log's file does not take its last lines")
	}
}
