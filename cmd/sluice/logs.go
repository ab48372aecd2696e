package main

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"
)

// newLogger writes lines of level and above to w as format says, repeated warnings and errors
// throttled, and hands the same lines to more. The level can be changed.
func newLogger(w io.Writer, level, format string, more ...slog.Handler) (*slog.Logger, *throttle, *slog.LevelVar) {
	l := new(slog.LevelVar)
	setLevel(l, level)
	opts := &slog.HandlerOptions{Level: l}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if format == "text" {
		h = slog.NewTextHandler(w, opts)
	}
	if len(more) > 0 {
		h = slog.NewMultiHandler(append(more, h)...)
	}
	t := newThrottle(h, time.Now)
	return slog.New(t), t, l
}

const (
	throttleBurst  = 5                // lines of one message that pass in a row
	throttleWindow = 10 * time.Second // how often a message that goes on is repeated
	// throttleMessages bounds the memory. Messages are constants of this program, so it is never
	// reached unless someone logs a message with data in it.
	throttleMessages = 1000
)

// throttle is a slog.Handler that lets the first few of the same warning or error pass, then one in
// every window, with the number of those kept back as "suppressed". A condition that strikes every
// connection (no descriptors, Redis gone) must not make the disk its next victim. Any goroutine may
// log.
type throttle struct {
	next  slog.Handler
	state *throttleState // shared with the handlers that WithAttrs and WithGroup make
}

type throttleState struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[throttleKey]*repeated
}

type throttleKey struct {
	level   slog.Level
	message string
}

type repeated struct {
	since      time.Time // start of the window
	left       int       // how many still pass in this window
	suppressed int       // kept back since the last that passed
}

func newThrottle(next slog.Handler, now func() time.Time) *throttle {
	return &throttle{next: next, state: &throttleState{now: now, seen: make(map[throttleKey]*repeated)}}
}

func (t *throttle) Enabled(ctx context.Context, l slog.Level) bool { return t.next.Enabled(ctx, l) }

func (t *throttle) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &throttle{next: t.next.WithAttrs(attrs), state: t.state}
}

func (t *throttle) WithGroup(name string) slog.Handler {
	return &throttle{next: t.next.WithGroup(name), state: t.state}
}

func (t *throttle) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn {
		return t.next.Handle(ctx, r)
	}
	pass, suppressed := t.state.take(throttleKey{r.Level, r.Message})
	if !pass {
		return nil
	}
	if suppressed > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("suppressed", suppressed))
	}
	return t.next.Handle(ctx, r)
}

// take counts one more of k and says whether it passes, and how many before it did not.
func (s *throttleState) take(k throttleKey) (pass bool, suppressed int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	m := s.seen[k]
	switch {
	case m == nil:
		if len(s.seen) >= throttleMessages {
			clear(s.seen)
		}
		m = &repeated{since: now, left: throttleBurst}
		s.seen[k] = m
	case now.Sub(m.since) >= throttleWindow && m.suppressed > 0:
		m.since, m.left = now, 1 // it goes on
	case now.Sub(m.since) >= throttleWindow:
		m.since, m.left = now, throttleBurst
	}
	if m.left == 0 {
		m.suppressed++
		return false, 0
	}
	m.left--
	suppressed, m.suppressed = m.suppressed, 0
	return true, suppressed
}

// flush logs what is still kept back; call it before the process ends.
func (t *throttle) flush(ctx context.Context) {
	t.state.mu.Lock()
	var last []slog.Record
	for k, m := range t.state.seen {
		if m.suppressed > 0 {
			r := slog.NewRecord(t.state.now(), k.level, k.message, 0)
			r.AddAttrs(slog.Int("suppressed", m.suppressed))
			last = append(last, r)
			m.suppressed = 0
		}
	}
	t.state.mu.Unlock()
	for _, r := range last {
		// The process is ending and this is its log: there is nobody left to tell.
		_ = t.next.Handle(ctx, r)
	}
}
