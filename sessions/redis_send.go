package sessions

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/rueidis"
)

// minPart is the number of commits up to which a batch is sent whole: about as many as Redis
// reads at once.
const minPart = 64

// errLost is the error of a commit for which Redis twice said that it lost state: to be repeated.
var errLost = errors.New("state lost")

// sending is the committer's room for one batch.
type sending struct {
	commits [maxBatch]commit
	answers [maxBatch]stored
	errs    [maxBatch]error
	which   [maxBatch]int
}

// send commits a batch: all by EVALSHA, then once more those for which the server lacks the
// script or has lost state.
func (c *committer) send(batch []*writer) ([]stored, []error) {
	answers, errs := c.sending.answers[:len(batch)], c.sending.errs[:len(batch)]
	ctx, cancel := context.WithTimeout(c.store.ctx, c.store.cfg.Deadline)
	defer cancel()
	clients, err := c.store.do()
	which := c.sending.which[:len(batch)]
	for i := range which {
		which[i], errs[i] = i, err
	}
	if err != nil {
		return answers, errs
	}
	for source, round := false, 0; len(which) > 0 && round < 4; round++ {
		c.take(batch, which)
		commands := c.commands(clients.commits.B(), batch, which, source)
		results := c.execute(ctx, clients.commits, commands)
		left := which[:0]
		for j, i := range which {
			answers[i], errs[i] = parseStored(results[j])
			switch {
			case errs[i] != nil && isNoScript(errs[i]):
				source = true
				left = append(left, i)
			case errs[i] == nil && answers[i].lost:
				errs[i] = errLost
				left = append(left, i)
			}
		}
		which = left
	}
	return answers, errs
}

// take notes what the writers at which have to say.
func (c *committer) take(batch []*writer, which []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range which {
		if c.sending.errs[i] == errLost {
			batch[i].restore = true
		}
		c.sending.commits[i] = batch[i].commit()
		if c.store.cfg.WaitReplicas > 0 { // it writes, also when there is nothing new in it
			c.sending.commits[i].touch = true
		}
	}
}

// commands builds the commits at which.
func (c *committer) commands(b rueidis.Builder, batch []*writer, which []int, source bool) []rueidis.Completed {
	s := c.store
	commands := make([]rueidis.Completed, 0, len(which))
	for _, i := range which {
		commands = append(commands, c.sending.commits[i].command(b, s.key(batch[i].id), batch[i].instance.name, s.ttl, source))
	}
	return commands
}

// doMulti sends commands on one connection and returns their results in order.
type doMulti func(context.Context, ...rueidis.Completed) []rueidis.RedisResult

// spread sends commands over several connections when they are many, and returns their results in
// order. rueidis draws the connection of each part.
func spread(ctx context.Context, do doMulti, commands []rueidis.Completed) []rueidis.RedisResult {
	parts := min(1<<commitMultiplex, (len(commands)+minPart-1)/minPart)
	if parts <= 1 {
		return do(ctx, commands...)
	}
	results := make([]rueidis.RedisResult, len(commands))
	var wg sync.WaitGroup
	for i := range parts {
		from, to := i*len(commands)/parts, (i+1)*len(commands)/parts
		wg.Go(func() { copy(results[from:to], do(ctx, commands[from:to]...)) })
	}
	wg.Wait()
	return results
}
