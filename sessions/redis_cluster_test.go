package sessions

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

func TestTopology(t *testing.T) {
	const ok, failed = "cluster_state:ok\r\n", "cluster_state:fail\r\n"
	me := func(flags, slots string) string {
		return "aa 127.0.0.1:1@2 master - 0 1 1 connected 100-200\n" +
			"bb 127.0.0.1:2@3 " + flags + " - 0 0 3 connected " + slots + "\n"
	}
	a, b := rueidis.Client(&rueidisNode{}), rueidis.Client(&rueidisNode{})
	for _, c := range []struct {
		name          string
		info, nodes   string
		owned, others []int
	}{
		{"a master", ok, me("myself,master", "0-5 7 9-10"), []int{0, 5, 7, 9, 10}, []int{6, 8, 11, 150}},
		{"in a minority", failed, me("myself,master", "0-5"), nil, []int{0, 5}},
		{"a replica", ok, me("myself,slave", ""), nil, []int{0, 150}},
		{"said to have failed", ok, me("myself,master,fail?", "0-5"), nil, []int{0}},
		{"gives a slot away", ok, me("myself,master", "0-5 [3->-aa]"), []int{0, 2, 4}, []int{3}},
		{"takes a slot", ok, me("myself,master", "0-5 [6-<-aa]"), []int{0}, []int{6}},
		{"garbage", ok, "myself\nx y myself,master\n", nil, []int{0}},
		{"garbage for slots", ok, me("myself,master", "x-y 3-z [w 5"), []int{5}, []int{0, 3}},
	} {
		top := &topology{moving: map[int]bool{}}
		top.add(a, c.info, c.nodes)
		for _, slot := range c.owned {
			if top.owner(slot) != a {
				t.Errorf("%s: slot %d has no owner", c.name, slot)
			}
		}
		for _, slot := range c.others {
			if top.owner(slot) != nil {
				t.Errorf("%s: slot %d has an owner", c.name, slot)
			}
		}
		top.add(b, ok, me("myself,master", "0-5")) // another one that claims them too, or took them over
		if c.owned != nil && top.owner(c.owned[0]) == a && c.owned[0] <= 5 {
			t.Errorf("%s: slot %d has one owner, though two servers claim it", c.name, c.owned[0])
		}
	}
}

// rueidisNode stands for a server.
type rueidisNode struct {
	rueidis.Client
	_ int // so that two are not the same
}

// While a slot moves, its old owner answers for the sessions that it still has, and writes to
// others go to the new owner: that a session was not there is no answer any more.
func TestResumeWhileASlotMoves(t *testing.T) {
	nodes := startCluster(t)
	writer, reader := newTestRedis(t, steady(nodes[0].url())), newTestRedis(t, steady(nodes[0].url()))
	id := NewID()
	key := reader.key(id)
	loops := [2]*testLoop{newTestLoop(t, writer), newTestLoop(t, reader)}
	for range 2 { // the second answer comes from the cache
		if m := loops[1].join(t, id, true); m.err != nil || m.total != 0 {
			t.Fatalf("resumed at %d, %v, want a new session", m.total, m.err)
		}
	}
	slot := nodes[0].cli("cluster", "keyslot", key)
	var number int
	fmt.Sscan(slot, &number)
	from := nodes[min(number/5461, 2)]
	to := nodes[(min(number/5461, 2)+1)%3]
	fromID, toID := from.cli("cluster", "myid"), to.cli("cluster", "myid")
	to.cli("cluster", "setslot", slot, "importing", fromID)
	from.cli("cluster", "setslot", slot, "migrating", toID)
	m := loops[0].join(t, id, false)
	for want := 1; want <= 5; want++ {
		m.add(1)
		m.acked(want)
		if r := loops[1].join(t, id, true); r.err != nil || r.total != uint64(want) {
			t.Fatalf("resumed at %d, %v, after %d was acknowledged", r.total, r.err, want)
		}
	}
	to.cli("cluster", "setslot", slot, "node", toID)
	m.add(1)
	m.acked(6)
	if r := loops[1].join(t, id, true); r.err != nil || r.total != 6 {
		t.Errorf("resumed at %d, %v, after 6 was acknowledged and the slot has a new owner", r.total, r.err)
	}
	from.cli("cluster", "setslot", slot, "node", toID)
	hits := redisCacheHits.Get()
	eventually(t, "the cache answers again", func() bool {
		if r := loops[1].join(t, id, true); r.err != nil || r.total != 6 {
			t.Fatalf("resumed at %d, %v, want 6", r.total, r.err)
		}
		return redisCacheHits.Get() > hits
	})
	if !strings.Contains(to.cli("hgetall", key), "6") {
		t.Error("the new owner does not hold the session")
	}
}
