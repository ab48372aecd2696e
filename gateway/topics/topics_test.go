package topics

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

func TestPublishReachesSubscribersOfAllLoops(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{Loops: 3})
	var in []*client
	for range 12 {
		in = append(in, dial(t, s).sub("room"))
	}
	other := dial(t, s).sub("elsewhere")
	if n := hub.Subscribers("room"); n != 12 {
		t.Fatalf("got %d subscribers, want 12", n)
	}
	r, err := hub.PublishWait(context.Background(), "room", Message{Payload: []byte("hello")})
	if err != nil || r.Subscribers != 12 {
		t.Fatalf("got %+v %v, want 12 subscribers", r, err)
	}
	for _, c := range in {
		c.want("hello")
	}
	publish(t, hub, "elsewhere", "there")
	other.want("there")

	in[0].do("unsub room")
	in[0].want("unsubscribed room")
	in[1].conn.Close()
	eventually(t, "10 subscribers", func() bool { return hub.Subscribers("room") == 10 })
	publish(t, hub, "room", "again")
	for _, c := range in[2:] {
		c.want("again")
	}
	in[0].do("say nothing")
	in[0].want("nothing")
}

func TestEmptyTopicsCostNothing(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{})
	c := dial(t, s)
	for i := range 90 {
		c.sub(fmt.Sprint("t", i))
		publish(t, hub, fmt.Sprint("t", i), "x")
		c.want("x")
	}
	if n := len(hub.Topics("", 1000)); n != 90 {
		t.Fatalf("got %d topics, want 90", n)
	}
	c.conn.Close()
	eventually(t, "no topics", func() bool {
		return len(hub.Topics("", 1000)) == 0 && hub.Subscriptions() == 0
	})
	publish(t, hub, "t0", "into the void")
	if n := hub.topics.Load(); n != 0 {
		t.Errorf("got %d topics, want none", n)
	}
	eventually(t, "nothing pending", func() bool {
		return hub.pending.Load() == 0 && hub.retained.Load() == 0
	})
}

// Messages of several publishers are in the same order for all, whatever their loops.
func TestOrderIsTheSameForAll(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{Loops: 3})
	var in []*client
	for range 9 {
		in = append(in, dial(t, s).sub("a", "b"))
	}
	var publishers sync.WaitGroup
	for p := range 4 {
		publishers.Go(func() {
			for i := range 100 {
				for {
					err := hub.Publish([]string{"a", "b"}[i%2], Message{Payload: fmt.Appendf(nil, "%d/%d", p, i)})
					if err == nil {
						break
					}
					if !errors.Is(err, ErrBusy) {
						t.Error(err)
						return
					}
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	publishers.Wait()
	var first [2][]string
	for i, c := range in {
		var got [2][]string
		for range 400 {
			_, m := c.frame()
			n := 0
			if strings.HasSuffix(m, "1") || strings.HasSuffix(m, "3") || strings.HasSuffix(m, "5") ||
				strings.HasSuffix(m, "7") || strings.HasSuffix(m, "9") {
				n = 1
			}
			got[n] = append(got[n], m)
		}
		if i == 0 {
			first = got
		}
		for n := range got {
			if strings.Join(got[n], " ") != strings.Join(first[n], " ") {
				t.Fatalf("client %d got topic %d in another order than the first", i, n)
			}
		}
	}
}

func TestPublishOfTheOwnLoopIsInOrderWithReplies(t *testing.T) {
	_, s := start(t, Config{}, gateway.Config{})
	c := dial(t, s).sub("room")
	for i := range 50 {
		c.do("pub room %d", i)
	}
	for i := range 50 {
		c.want(fmt.Sprint(i), "published")
	}
	c.do("burst room 500")
	c.do("say end")
	for i := range 500 {
		c.want(fmt.Sprint(i))
	}
	c.want("end")
}

func TestCloseIsPublishedInOrder(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{})
	c := dial(t, s).sub("room")
	publish(t, hub, "room", "before")
	body := append([]byte{4000 >> 8, 4000 & 0xff}, "go away"...)
	if err := hub.Publish("room", Message{Op: ws.OpClose, Payload: body}); err != nil {
		t.Fatal(err)
	}
	c.want("before")
	if op, got := c.frame(); op != ws.OpClose || got != string(body) {
		t.Fatalf("got opcode %d %q, want a Close with 4000", op, got)
	}
}

func TestBounds(t *testing.T) {
	hub, s := start(t, Config{MaxTopics: 4, MaxPerConn: 3, MaxSubscriptions: 6, MaxPayload: 10},
		gateway.Config{})
	a, b, c := dial(t, s), dial(t, s), dial(t, s)
	a.sub("1", "2", "3", "3") // to subscribe twice is no subscription more
	a.do("sub 4")
	a.want("error " + ErrTooMany.Error())
	b.sub("3", "4")
	b.do("sub 5")
	b.want("error " + ErrFull.Error())
	c.sub("4")
	c.do("sub 1")
	c.want("error " + ErrFull.Error())
	a.do("unsub 2")
	a.want("unsubscribed 2")
	c.sub("5")

	for n, want := range map[int]error{9: nil, 10: nil, 11: ErrTooBig} {
		if err := hub.Publish("void", Message{Payload: make([]byte, n)}); !errors.Is(err, want) {
			t.Errorf("%d bytes: got %v, want %v", n, err, want)
		}
	}
	if err := hub.Publish("void", Message{Op: ws.OpPing}); err == nil {
		t.Error("a Ping was published")
	}
	if err := hub.Publish("", Message{}); !errors.Is(err, ErrName) {
		t.Errorf("got %v, want %v", err, ErrName)
	}
}

// What is subscribed and unsubscribed at random agrees with a model, and memory is given back.
func TestRandomSubscriptions(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{Loops: 3})
	clients := make([]*client, 8)
	has := make([]map[string]bool, len(clients))
	for i := range clients {
		clients[i], has[i] = dial(t, s), make(map[string]bool)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 600 {
		i := random.IntN(len(clients))
		name := fmt.Sprint("t", random.IntN(6))
		switch random.IntN(5) {
		case 0, 1:
			clients[i].sub(name)
			has[i][name] = true
		case 2:
			clients[i].do("unsub %s", name)
			clients[i].want("unsubscribed " + name)
			delete(has[i], name)
		case 3:
			n := 0
			publish(t, hub, name, fmt.Sprint("step ", step))
			for j, c := range clients {
				if has[j][name] {
					c.want(fmt.Sprint("step ", step))
					n++
				}
			}
			if got := hub.Subscribers(name); got != n {
				t.Fatalf("step %d: got %d subscribers of %s, want %d", step, got, name, n)
			}
		case 4:
			if random.IntN(8) == 0 {
				clients[i].conn.Close()
				clients[i], has[i] = dial(t, s), make(map[string]bool)
				want := 0
				for _, h := range has {
					want += len(h)
				}
				eventually(t, "the subscriptions of the others",
					func() bool { return hub.Subscriptions() == want })
			}
		}
	}
}

func TestMembers(t *testing.T) {
	hub, s := start(t, Config{}, gateway.Config{Loops: 3})
	for range 7 {
		dial(t, s).sub("room")
	}
	for _, limit := range []int{100, 3, 1} {
		var mu sync.Mutex
		seen := make(map[*gateway.Conn]bool)
		done := make(chan struct{})
		hub.Members("room", func(c *gateway.Conn) bool {
			mu.Lock()
			defer mu.Unlock()
			if len(seen) < limit {
				seen[c] = true
			}
			return len(seen) < limit
		}, func() { close(done) })
		<-done
		if len(seen) != min(limit, 7) {
			t.Errorf("limit %d: got %d members", limit, len(seen))
		}
	}
	done := make(chan struct{})
	hub.Members("nobody", func(*gateway.Conn) bool { t.Error("a member of nothing"); return true },
		func() { close(done) })
	<-done
}
