package topics

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// shout is the format of a source that is not ours: "!TEXT"; "-" is nothing for clients, "bye" a
// Close.
func shout(text string) (m Message, ok bool, err error) {
	switch text {
	case "-":
		return m, false, nil
	case "bye":
		return Message{Op: ws.OpClose, Payload: []byte{0x0f, 0xa1}}, true, nil
	case "ping":
		return Message{Op: ws.OpPing}, true, nil
	}
	body, ok := strings.CutPrefix(text, "!")
	if !ok {
		return m, false, errors.New("it does not shout")
	}
	return Message{Payload: []byte(body)}, true, nil
}

func TestSource(t *testing.T) {
	redis := startRedis(t)
	source := SourceConfig{URL: redis.url(), Prefix: "asgi__group__", Decode: shout,
		Deadline: 500 * time.Millisecond, ProbeInterval: 50 * time.Millisecond}
	cfg := func() Config {
		return Config{Sources: []SourceConfig{source}, History: keep(10, time.Hour), MaxPayload: 100}
	}
	a, as := start(t, cfg(), gateway.Config{})
	withBroker := cfg()
	withBroker.Redis = quick(redis.url())
	b, bs := start(t, withBroker, gateway.Config{})
	onA, onB := dial(t, as).sub("room", "kept"), dial(t, bs).sub("room", "kept")
	listeners := func(topic, n string) {
		t.Helper()
		eventually(t, n+" processes listen", func() bool {
			return strings.HasSuffix(redis.cli("pubsub", "numsub", "asgi__group__"+topic), "\n"+n)
		})
	}
	listeners("room", "2")
	listeners("kept", "2")
	long := strings.Repeat("x", 100)
	for _, text := range []string{"hello", "-", "!", "!\xff", "ping", "",
		"!" + long + "x", "!" + long, "!last"} {
		redis.cli("publish", "asgi__group__room", text)
	}
	onA.want("", long, "last")
	onB.want("", long, "last")

	// Both kinds of publications have one order, and where there is no broker they are in the
	// history.
	redis.cli("publish", "asgi__group__kept", "!one")
	onA.want("one")
	onB.want("one")
	publish(t, a, "kept", "two")
	onA.want("two")
	late := dial(t, as)
	late.do("from kept %s", Position{a.Topics("kept", 1)[0].Position.Epoch, 0})
	late.want(fmt.Sprintf("from %s true 2", a.Topics("kept", 1)[0].Position), "one", "two")

	// What was missed is told, and listening goes on.
	redis.kill()
	eventually(t, "not ready", func() bool { return a.Ready() != nil && b.Ready() != nil })
	if err := a.CanPublish(); err != nil {
		t.Errorf("got %v: a source is not needed to publish", err)
	}
	// b is not ready as soon as one of the two feeds is seen to be dead; this takes the broker's.
	eventually(t, "a broker is needed to publish", func() bool { return b.CanPublish() != nil })
	redis.start()
	eventually(t, "ready", func() bool { return a.Ready() == nil && b.Ready() == nil })
	onA.untilGap("room")
	listeners("room", "2")
	redis.cli("publish", "asgi__group__room", "!again")
	for _, m := onA.frame(); m != "again"; _, m = onA.frame() {
	}
	redis.cli("publish", "asgi__group__room", "bye")
	for op, _ := onA.frame(); op != ws.OpClose; op, _ = onA.frame() {
	}

	onB.conn.Close()
	listeners("kept", "1") // late's
}

func TestSourceConfig(t *testing.T) {
	for _, cfg := range []SourceConfig{
		{URL: "redis://127.0.0.1:1", Prefix: "a"},
		{URL: "redis://127.0.0.1:1", Decode: shout},
		{URL: "http://127.0.0.1:1", Prefix: "a", Decode: shout},
		{URL: "redis://127.0.0.1:1", Prefix: "a", Decode: shout, Deadline: -1},
		// nobody is there
		{URL: "redis://127.0.0.1:1", Prefix: "a", Decode: shout, Deadline: 50 * time.Millisecond},
	} {
		if h, err := New(Config{Logger: quiet, Sources: []SourceConfig{cfg}}); err == nil {
			h.Close()
			t.Errorf("%+v: no error", cfg)
		}
	}
}
