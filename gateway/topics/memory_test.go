package topics

import (
	"fmt"
	"runtime"
	"testing"

	"sluice/gateway"
)

// subscriptionBytes is what one of a loop's subscriptions costs in memory when conns connections
// have perConn topics each, of so many topics in all. What a topic costs by itself is not in it:
// all of them are there before.
func subscriptionBytes(t testing.TB, conns, perConn, topics int) float64 {
	hub, err := New(Config{Logger: quiet, MaxPerConn: topics})
	if err != nil {
		t.Fatal(err)
	}
	l := hub.ForLoop(func(func()) bool { return true })
	names := make([]string, topics)
	for i := range names {
		names[i] = fmt.Sprint("topic-", i)
	}
	list := make([]gateway.Conn, conns+1)
	subscribe := func(c *gateway.Conn, name string) {
		if err := l.Subscribe(c, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		subscribe(&list[conns], name)
	}
	before := heap()
	for i := range conns {
		for k := range perConn {
			subscribe(&list[i], names[(i*7+k*(topics/perConn))%topics])
		}
	}
	after := heap()
	runtime.KeepAlive(l)
	runtime.KeepAlive(list)
	runtime.KeepAlive(names)
	return float64(int64(after-before)) / float64(conns*perConn)
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A subscription is an entry of 16 bytes, a place of 8, a tenth of what the connection has besides,
// and room for more. The numbers of connections are those at which lists have just grown, or not.
func TestSubscriptionMemory(t *testing.T) {
	const most = 40
	for _, conns := range []int{1_000, 9_000, 10_000} {
		for _, topics := range []int{10, 100, 1_000} {
			if b := subscriptionBytes(t, conns, 10, topics); b > most {
				t.Errorf("%d connections, 10 of %d topics: %.1f B a subscription, want at most %d",
					conns, topics, b, most)
			} else {
				t.Logf("%d connections, 10 of %d topics: %.1f B a subscription", conns, topics, b)
			}
		}
	}
}
