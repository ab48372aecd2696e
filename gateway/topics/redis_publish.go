package topics

import (
	"context"
	"fmt"
	"sync"

	"github.com/gobwas/ws"
	"github.com/redis/rueidis"
)

// sender publishes what a partition's publishers hand it, in order: while a batch is with Redis the
// next one gathers.
type sender struct {
	b     *redisBroker
	wake  chan struct{}
	mu    sync.Mutex
	queue []publication
	bytes int
	over  bool
}

type publication struct {
	name    string
	rule    HistoryRule
	op      ws.OpCode
	payload string
	done    func(Position, error)
}

const (
	batchAtMost      = 512
	maxSenderBytes   = 32 << 20
	publicationBytes = 128 // what a publication costs beside its payload, by and large
)

func newSender(b *redisBroker) *sender { return &sender{b: b, wake: make(chan struct{}, 1)} }

func (s *sender) add(p publication) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p.payload) + publicationBytes
	switch {
	case s.over:
		return ErrClosed
	case len(s.queue) >= s.b.cfg.MaxQueue || s.bytes+n > maxSenderBytes && len(s.queue) > 0:
		return ErrBusy
	}
	s.queue = append(s.queue, p)
	s.bytes += n
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

func (s *sender) run() {
	for {
		batch, over := s.next()
		switch {
		case over:
			return
		case len(batch) > 0:
			s.send(batch)
		default:
			select {
			case <-s.wake:
			case <-s.b.ctx.Done():
			}
		}
	}
}

// next takes a batch off the queue. When the broker is closed all that is left fails.
func (s *sender) next() (batch []publication, over bool) {
	s.mu.Lock()
	if s.over = s.b.ctx.Err() != nil; s.over {
		batch, s.queue = s.queue, nil
	} else {
		n := min(len(s.queue), batchAtMost)
		batch = append(batch, s.queue[:n]...)
		rest := copy(s.queue, s.queue[n:])
		clear(s.queue[rest:])
		s.queue = s.queue[:rest]
		for _, p := range batch {
			s.bytes -= len(p.payload) + publicationBytes
		}
	}
	s.mu.Unlock()
	if s.over {
		for _, p := range batch {
			p.finish(Position{}, ErrClosed)
		}
		return nil, true
	}
	return batch, false
}

func (p *publication) finish(at Position, err error) {
	if err != nil {
		publishErrors.Inc()
	}
	if p.done != nil {
		p.done(at, err)
	}
}

// send publishes a batch. What fails is not repeated: it may have been published.
func (s *sender) send(batch []publication) {
	ctx, cancel := context.WithTimeout(s.b.ctx, s.b.cfg.Deadline)
	defer cancel()
	results := s.do(ctx, batch, false)
	var again []int // a server that has no script has done nothing
	for i := range results {
		if noScript(results[i]) {
			again = append(again, i)
		}
	}
	if len(again) > 0 {
		retry := make([]publication, len(again))
		for k, i := range again {
			retry[k] = batch[i]
		}
		for k, r := range s.do(ctx, retry, true) {
			results[again[k]] = r
		}
	}
	for i := range batch {
		p := &batch[i]
		at, err := p.result(results[i])
		if err != nil {
			err = fmt.Errorf("publish: %w", err)
		}
		p.finish(at, err)
	}
}

func (s *sender) do(ctx context.Context, batch []publication, source bool) []rueidis.RedisResult {
	commands := make([]rueidis.Completed, len(batch))
	for i := range batch {
		commands[i] = s.command(&batch[i], source)
	}
	return s.b.client.DoMulti(ctx, commands...)
}

func (s *sender) command(p *publication, source bool) rueidis.Completed {
	b := s.b
	channel := b.channelPrefix(b.part(p.name)) + p.name
	if p.rule.Size > 0 {
		verb := "PUBLISH"
		if b.sharded {
			verb = "SPUBLISH"
		}
		l := lives(p.rule)
		return publishScript.command(b.client.B(), source, b.keys(p.name), []string{
			fmt.Sprint(p.rule.Size), l[0], l[1], l[2], opLetter(p.op), p.payload, channel, verb,
		})
	}
	body := opLetter(p.op) + "\n" + p.payload
	if b.sharded {
		return b.client.B().Spublish().Channel(channel).Message(body).Build()
	}
	return b.client.B().Publish().Channel(channel).Message(body).Build()
}

func (p *publication) result(r rueidis.RedisResult) (at Position, err error) {
	if err := r.Error(); err != nil || p.rule.Size == 0 {
		return at, err
	}
	list, err := r.ToArray()
	if err != nil {
		return at, err
	}
	return parseEpochOffset(list)
}
