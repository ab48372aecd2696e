// Package topics is publish and subscribe for a gateway's connections. An application subscribes
// connections to topics; what anybody publishes to a topic, from any goroutine, goes to all of
// them.
//
//	hub, err := topics.New(topics.Config{})
//
//	func (a *app) ForLoop(post func(func()) bool) gateway.Handler {
//		return &handler{topics: hub.ForLoop(post)}
//	}
//
//	func (h *handler) Message(c *gateway.Conn, op ws.OpCode, payload []byte) {
//		h.topics.Subscribe(c, "room")
//	}
//
//	func (h *handler) Closed(c *gateway.Conn) { h.topics.DropAll(c) }
//
//	hub.Publish("room", topics.Message{Payload: []byte("hello")})
//
// # Reading it
//
//	hub.go       the topics of all loops: publish, list
//	loop.go      one loop's part: subscribe, unsubscribe, what comes from the hub
//	fanout.go    passes over the subscribers, in slices
//	slow.go      subscribers whose sockets are full: a cursor, catching up, the policy
//	log.go       the messages of a topic on one loop that somebody has not been sent
//	history.go   the messages that a topic keeps for those who come back
//	recovery.go  coming back
//	source.go    publications of others, in formats of their own
//	redis*.go    the broker
//	relay.go     publications while subscribers move to another process; with move.go, export.go,
//	             freeze.go, and redis_cut.go for those that a broker brings
//	conn.go      what all this asks of a gateway.Conn
//
// # Guarantees
//
// All subscribers of a topic see its messages in the same order. A message is delivered once or not
// at all. A connection that is closed, or does not take what it is sent, misses messages: it is
// told so (see SlowPolicy), and with a history it can ask for them (see Loop.SubscribeFrom).
package topics
