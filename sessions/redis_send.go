package sessions

import (
	"context"
	"fmt"
	"sync"

	"github.com/redis/rueidis"
)

// minPart is the number of commits up to which a batch is sent whole: about as many as Redis reads at once.
const minPart = 64

// send commits a batch: all by EVALSHA, then once more those for which the server lacks the script or has
// lost the state.
func (l *redisLoop) send(batch []*redisAttachment) ([]stored, []error) {
	answers, errs := l.answers[:len(batch)], l.errs[:len(batch)]
	ctx, cancel := context.WithTimeout(l.store.ctx, l.store.cfg.Deadline)
	defer cancel()
	c, err := l.store.do()
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return answers, errs
	}
	which := l.which[:len(batch)]
	for i := range which {
		which[i] = i
	}
	for source, round := false, 0; len(which) > 0 && round < 4; round++ {
		results := spread(ctx, c.commits, l.commands(c.commits.B(), batch, which, source))
		left := which[:0]
		for j, i := range which {
			answers[i], errs[i] = parseStored(results[j])
			switch {
			case errs[i] != nil && isNoScript(errs[i]):
				source = true
				left = append(left, i)
			case errs[i] == nil && answers[i].lost:
				l.lost(batch[i])
				errs[i] = fmt.Errorf("session %s: state lost", batch[i].id)
				left = append(left, i)
			case errs[i] == nil && answers[i].healed:
				redisHeals.Inc()
			}
		}
		which = left
	}
	return answers, errs
}

// spread sends commands over several connections when they are many, and returns their results in order. rueidis draws
// the connection of each part.
func spread(ctx context.Context, c rueidis.Client, commands []rueidis.Completed) []rueidis.RedisResult {
	parts := min(1<<commitMultiplex, (len(commands)+minPart-1)/minPart)
	if parts <= 1 {
		return c.DoMulti(ctx, commands...)
	}
	results := make([]rueidis.RedisResult, len(commands))
	var wg sync.WaitGroup
	for i := range parts {
		from, to := i*len(commands)/parts, (i+1)*len(commands)/parts
		wg.Go(func() { copy(results[from:to], c.DoMulti(ctx, commands[from:to]...)) })
	}
	wg.Wait()
	return results
}

// commands builds the commits of the attachments at which.
func (l *redisLoop) commands(b rueidis.Builder, batch []*redisAttachment, which []int, source bool) []rueidis.Completed {
	l.commits = l.commits[:0]
	l.mu.Lock()
	for _, i := range which {
		a := batch[i]
		l.commits = append(l.commits, a.says())
	}
	l.mu.Unlock()
	s := l.store
	commands := make([]rueidis.Completed, 0, len(which))
	for j, i := range which {
		k := &l.commits[j]
		k.key = s.key(batch[i].id)
		commands = append(commands, k.command(b, s.cfg.script, s.ttl, source))
	}
	clear(l.commits)
	return commands
}
