package takeover

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// askingSink asks as each batch comes, and keeps the answers.
type askingSink struct {
	*pond
	taker   *Taker
	mu      sync.Mutex
	answers []string
}

func (s *askingSink) Adopt(fds []int, states [][]byte) (refused []int, commit, discard func()) {
	if err := s.taker.Ask("idle", states[0]); err != nil {
		s.t.Errorf("a question while connections move: %v", err)
	}
	return s.pond.Adopt(fds, states)
}

func (s *askingSink) Chunk(name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, name+": "+string(data))
	return nil
}

func (s *askingSink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.answers)
}

// TestAsk: the old process answers questions while connections move, and afterwards until it ends,
// of which the new one is told once.
func TestAsk(t *testing.T) {
	p := newPond(t, 20)
	p.answer = func(name string, question []byte) error {
		if string(question) == "last" {
			return errors.New("no more")
		}
		return p.send(name, append([]byte("of "), question...))
	}
	path, done := serve(t, p.offer())
	taker, err := Connect(path, "new", "pond")
	if err != nil {
		t.Fatal(err)
	}
	if !taker.Beside {
		t.Error("the old process is said to take no questions")
	}
	sink := &askingSink{pond: p, taker: taker}
	if err = taker.Run(context.Background(), sink, quiet); err != nil {
		t.Fatal(err)
	}
	if err = <-done; err != nil {
		t.Fatal(err)
	}
	defer p.closeAdopted()
	if n := p.count("new"); n != 20 {
		t.Errorf("%d moved, want 20", n)
	}
	waitFor(t, func() bool { return sink.count() == 3+1 }) // three batches, and Chunks
	if err = taker.Ask("idle", []byte("late")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return sink.count() == 5 })
	if got := sink.answers[4]; got != "idle: of late" {
		t.Errorf("the answer is %q", got)
	}
	alone := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.alone
	}
	if alone() != 0 {
		t.Error("the new process is said to be alone while the old one answers")
	}
	if err = taker.Ask("idle", []byte("last")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return alone() == 1 })
	waitFor(t, func() bool { return taker.Ask("idle", nil) != nil })
	time.Sleep(10 * time.Millisecond)
	if alone() != 1 {
		t.Error("Alone is called again")
	}
}
