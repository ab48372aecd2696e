package sessions

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// shortError says that too few replicas had received a commit in time. Redis holds the commit, and
// it is repeated like one that was not answered.
type shortError struct {
	got, want int64
	err       error // of WAIT
}

func (e *shortError) Error() string {
	if e.err != nil {
		return fmt.Sprintf("wait for %d replicas: %v", e.want, e.err)
	}
	return fmt.Sprintf("%d replicas have received it in time, want %d (--redis-wait-replicas)",
		e.got, e.want)
}

func (e *shortError) Unwrap() error { return e.err }

// execute sends commits and returns their results in order. With WaitReplicas the result of one
// that the replicas have not received is a shortError.
func (c *committer) execute(
	ctx context.Context, client rueidis.Client, commits []rueidis.Completed,
) []rueidis.RedisResult {
	switch {
	case c.store.cfg.WaitReplicas == 0:
		return spread(ctx, client.DoMulti, commits)
	case client.Mode() == rueidis.ClientModeCluster:
		return c.executeOnCluster(ctx, client, commits)
	}
	return spread(ctx, func(ctx context.Context, part ...rueidis.Completed) []rueidis.RedisResult {
		return c.store.replicated(ctx, client, part)
	}, commits)
}

// replicated sends commands and, on the same connection, WAIT: its answer comes when the replicas
// have received what this connection has written. Hence each commit must write: what another
// connection wrote before would not be waited for.
func (s *Redis) replicated(
	ctx context.Context, node rueidis.Client, commands []rueidis.Completed,
) []rueidis.RedisResult {
	want := int64(s.cfg.WaitReplicas)
	wait := node.B().Wait().Numreplicas(want).Timeout(s.cfg.Deadline.Milliseconds() / 2).Build()
	results := node.DoMulti(ctx, append(slices.Clip(commands), wait)...)
	last := len(commands)
	got, err := results[last].AsInt64()
	if results = results[:last]; err == nil && got >= want {
		return results
	}
	for i := range results {
		if results[i].Error() == nil {
			results[i] = rueidis.NewErrorResult(&shortError{got, want, err})
		}
	}
	return results
}

// maxRedirections bounds how often servers of a cluster may send a commit elsewhere.
const maxRedirections = 4

// destination is where a commit goes on a cluster.
type destination struct {
	addr string
	ask  bool // the slot moves, and is there already for this session
}

// executeOnCluster finds the servers by itself, as WAIT has no slot: by what they answered before,
// and from the start by asking any of them.
func (c *committer) executeOnCluster(
	ctx context.Context, client rueidis.Client, commits []rueidis.Completed,
) []rueidis.RedisResult {
	nodes := client.Nodes()
	results := make([]rueidis.RedisResult, len(commits))
	if c.owners == nil {
		c.owners = map[uint16]string{}
	}
	at := map[destination][]int{}
	for i := range commits {
		commits[i] = commits[i].Pin() // it may be sent again
		to := destination{addr: c.owners[commits[i].Slot()]}
		at[to] = append(at[to], i)
	}
	for range maxRedirections {
		var wg sync.WaitGroup
		for to, which := range at {
			wg.Go(func() { c.executeAt(ctx, nodes, to, which, commits, results) })
		}
		wg.Wait()
		next := map[destination][]int{}
		for _, which := range at {
			for _, i := range which {
				if to, ok := c.redirected(commits[i].Slot(), results[i]); ok {
					next[to] = append(next[to], i)
				}
			}
		}
		if at = next; len(at) == 0 {
			return results
		}
	}
	return results
}

// executeAt sends the commits at which to one server, or to any if that is unknown.
func (c *committer) executeAt(
	ctx context.Context, nodes map[string]rueidis.Client, to destination, which []int,
	commits []rueidis.Completed, results []rueidis.RedisResult,
) {
	node := nodes[to.addr]
	for _, any := range nodes {
		if node == nil {
			node = any
		}
	}
	if node == nil {
		for _, i := range which {
			results[i] = rueidis.NewErrorResult(ErrUnavailable)
		}
		return
	}
	part := make([]rueidis.Completed, 0, 2*len(which))
	for _, i := range which {
		if to.ask {
			part = append(part, node.B().Asking().Build())
		}
		part = append(part, commits[i])
	}
	each := len(part) / len(which)
	for j, r := range c.store.replicated(ctx, node, part) {
		if j%each == each-1 {
			results[which[j/each]] = r
		}
	}
}

// redirected says where a commit must go that its server did not take, and notes who owns the slot.
// One of which nothing is heard may own it no more.
func (c *committer) redirected(slot uint16, r rueidis.RedisResult) (to destination, ok bool) {
	answer, answered := rueidis.IsRedisErr(r.Error())
	if r.Error() != nil && !answered {
		delete(c.owners, slot)
		return to, false
	}
	if !answered {
		return to, false
	}
	word, rest, _ := strings.Cut(answer.Error(), " ")
	_, addr, _ := strings.Cut(rest, " ")
	switch word {
	case "MOVED":
		c.owners[slot] = addr
		return destination{addr: addr}, true
	case "ASK":
		return destination{addr, true}, true
	}
	return to, false
}

// replicas says when a master has fewer replicas than commits wait for.
func (s *Redis) replicas(c rueidis.Client) error {
	if s.cfg.WaitReplicas == 0 {
		return nil
	}
	for at, node := range c.Nodes() {
		ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Deadline)
		role, err := node.Do(ctx, node.B().Role().Build()).ToArray()
		cancel()
		if err != nil || len(role) < 3 {
			continue // what does not answer is found out by others
		}
		if name, _ := role[0].ToString(); name != "master" {
			continue
		}
		replicas, _ := role[2].ToArray()
		if n := len(replicas); n < s.cfg.WaitReplicas {
			return fmt.Errorf("redis %s: %d replicas, commits wait for %d (--redis-wait-replicas)",
				at, n, s.cfg.WaitReplicas)
		}
	}
	return nil
}
