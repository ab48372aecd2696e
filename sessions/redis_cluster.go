package sessions

import (
	"context"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/rueidis"
)

// claim is a range of slots of which a server of a Cluster says that they are its own.
type claim struct {
	from, to int
	node     rueidis.Client
}

// topology is what all servers of a Cluster said of themselves.
type topology struct {
	claims []claim
	moving map[int]bool // slots that some server gives away or takes
}

// owner returns the one server that claims a slot, or nil if none does, or more than one, or it
// moves.
func (t *topology) owner(slot int) (node rueidis.Client) {
	if t.moving[slot] {
		return nil
	}
	for _, c := range t.claims {
		if c.from <= slot && slot <= c.to {
			if node != nil {
				return nil
			}
			node = c.node
		}
	}
	return node
}

// add takes what one server answers to CLUSTER INFO and CLUSTER NODES. Only what it says of
// itself counts: a server that was demoted, or knows that it is in a minority, claims nothing.
func (t *topology) add(node rueidis.Client, info, nodes string) {
	ok := strings.Contains(info, "cluster_state:ok")
	for line := range strings.Lines(nodes) {
		f := strings.Fields(line)
		if len(f) < 8 || !strings.Contains(f[2], "myself") {
			continue
		}
		master := strings.Contains(f[2], "master") && !strings.Contains(f[2], "fail")
		for _, text := range f[8:] {
			if moving, ok := strings.CutPrefix(text, "["); ok { // [slot->-target] or [slot-<-source]
				number, _, _ := strings.Cut(moving, "-")
				if slot, err := strconv.Atoi(number); err == nil {
					t.moving[slot] = true
				}
				continue
			}
			first, last, more := strings.Cut(text, "-")
			from, err := strconv.Atoi(first)
			to, err2 := from, error(nil)
			if more {
				to, err2 = strconv.Atoi(last)
			}
			if ok && master && err == nil && err2 == nil {
				t.claims = append(t.claims, claim{from, to, node})
			}
		}
	}
}

// askTopology asks every server of a Cluster for what it claims, on the connection that carries
// its invalidations: like the PING of a single server, the answer comes after those of all
// confirmed writes. Unless all of them answer it returns nil: one that does not may have taken
// slots over.
func askTopology(ctx context.Context, c rueidis.Client) *topology {
	nodes := c.Nodes()
	var wg sync.WaitGroup
	var mu sync.Mutex
	t, answered := &topology{moving: map[int]bool{}}, 0
	for _, node := range nodes {
		wg.Go(func() {
			r := node.DoMulti(ctx, node.B().ClusterInfo().Build(), node.B().ClusterNodes().Build())
			info, err := r[0].ToString()
			text, err2 := r[1].ToString()
			if err != nil || err2 != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answered++
			t.add(node, info, text)
		})
	}
	wg.Wait()
	if answered < len(nodes) {
		return nil
	}
	return t
}

// readCluster answers from the client-side cache what it may, and reads the rest from the
// servers. A cached entry is used only on the connection on which its server has just said that
// it owns the slot, and that the slot does not move: else another server may have taken writes of
// which this one hears nothing.
func (s *Redis) readCluster(ctx context.Context, c rueidis.Client, ids []ID, out []found) {
	within, cancel := context.WithTimeout(ctx, s.cfg.Deadline/2)
	t := askTopology(within, c)
	cancel()
	if t == nil {
		s.readDirect(ctx, c, ids, out, nil)
		return
	}
	cached, direct := map[rueidis.Client][]int{}, []int{}
	for i, id := range ids {
		command := c.B().Hgetall().Key(s.key(id)).Build()
		if node := t.owner(int(command.Slot())); node != nil {
			cached[node] = append(cached[node], i)
		} else {
			direct = append(direct, i)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for node, which := range cached {
		wg.Go(func() {
			redirected := s.readCached(ctx, node, ids, out, which)
			mu.Lock()
			direct = append(direct, redirected...)
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(direct) > 0 {
		s.readDirect(ctx, c, ids, out, direct)
	}
}
