package baseline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// Topics is the third service, of gorilla and the floor alone: a client's topic is in ?topic= of
// its handshake, and POST /publish?topic= sends the body to all of that topic. The floor has one
// topic.
const Topics = "topics"

// serveTopics runs the named baseline as Topics.
func serveTopics(ctx context.Context, name, addr string, o Options) error {
	switch name {
	case Floor:
		return serveFloor(ctx, addr, o)
	case "gorilla":
	default:
		return fmt.Errorf("baseline %s does not publish to topics (gorilla and %s do)", name, Floor)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for baseline %s: %w (choose another --listen)", name, err)
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	o.Ready(ln.Addr())
	s := &topicService{max: o.MaxMessage, topics: make(map[string]map[*topicConn]struct{})}
	err = httpServer(s).Serve(ln)
	s.sayGoodbye()
	if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("serve baseline %s on %s: %w", name, addr, err)
}

// topicService is gorilla's chat example with its PreparedMessage: a message is framed once, and a
// channel brings it to the pump of each connection that writes.
type topicService struct {
	max int64

	mu     sync.Mutex
	topics map[string]map[*topicConn]struct{}
}

type topicConn struct {
	send chan *websocket.PreparedMessage
	gone chan struct{} // closed when the connection is to end, or has
	end  func()        // closes it, once
}

func (s *topicService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	topic := r.URL.Query().Get("topic")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/publish":
		s.publish(w, r, topic)
	case isChat(r.URL.Path):
		s.subscribe(w, r, topic)
	default:
		http.NotFound(w, r)
	}
}

// subscribe joins before it answers: a client that has its 101 misses nothing.
func (s *topicService) subscribe(w http.ResponseWriter, r *http.Request, topic string) {
	c := &topicConn{send: make(chan *websocket.PreparedMessage, 8), gone: make(chan struct{})}
	c.end = sync.OnceFunc(func() { close(c.gone) })
	s.join(topic, c)
	ws, err := topicUpgrader.Upgrade(w, r, nil)
	if err != nil { // Upgrade has answered
		s.leave(topic, c)
		return
	}
	go c.writePump(ws)
	go func() {
		readAll(ws, s.max)
		s.leave(topic, c)
		c.end()
	}()
}

var topicUpgrader = gorillaUpgrader()

func (s *topicService) join(topic string, c *topicConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topics[topic] == nil {
		s.topics[topic] = make(map[*topicConn]struct{})
	}
	s.topics[topic][c] = struct{}{}
}

func (s *topicService) leave(topic string, c *topicConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if delete(s.topics[topic], c); len(s.topics[topic]) == 0 {
		delete(s.topics, topic)
	}
}

// publish ends a connection whose channel is full, as the chat example does.
func (s *topicService) publish(w http.ResponseWriter, r *http.Request, topic string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.max))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m, err := websocket.NewPreparedMessage(websocket.TextMessage, body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.topics[topic] {
		select {
		case c.send <- m:
		default:
			c.end()
		}
	}
}

func (c *topicConn) writePump(ws *websocket.Conn) {
	defer ws.Close() // which ends readAll
	for {
		select {
		case m := <-c.send:
			if ws.WritePreparedMessage(m) != nil {
				return
			}
		case <-c.gone:
			return
		}
	}
}

// readAll throws away what a client says; the library answers Close.
func readAll(ws *websocket.Conn, limit int64) {
	ws.SetReadLimit(limit)
	for {
		if _, _, err := ws.NextReader(); err != nil {
			return
		}
	}
}

func (s *topicService) sayGoodbye() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conns := range s.topics {
		for c := range conns {
			c.end()
		}
	}
}
