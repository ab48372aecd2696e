package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"golang.org/x/time/rate"

	"sluice/gateway"
	"sluice/gateway/topics"
)

// ControlConfig sets up the control address. Zero values are the defaults.
type ControlConfig struct {
	// Hub is published to. It must be there.
	Hub *topics.Hub
	// App has the connections that can be named one by one; nil when another application runs.
	App *App
	// Key is what callers must show, themselves or as the signature of a JWT. Without one everybody
	// who reaches the address may publish: only loopback is that private.
	Key []byte
	// Rate bounds the items published in a second, over all callers; beyond it they are told 429.
	// Default 20,000; negative: no bound.
	Rate int
	// MaxBody bounds a request's body, in bytes. Default 1,000,000.
	MaxBody int64
	// MaxItems bounds the items of one request. Default 1,000.
	MaxItems int
	// Logger is told of requests that break, at debug. Default: slog.Default.
	Logger *slog.Logger
}

// Control is the address at which services publish to clients:
//
//	POST /publish/                   {"items": […]}: GRIP items, as Pushpin takes them;
//	                                 "connection" in place of "channel" names one connection
//	POST /publish?topic=T            the body is the message; &type=binary when it is not text
//	POST /connections/{id}/send      the body is the message; ?type=binary
//	POST /connections/{id}/close     ?code=1000&reason=TEXT
//	GET  /connections/{id}           what this node knows of it
//	GET  /topics                     ?pattern=room-*&limit=100: this node's topics and subscribers
//
// Answers are JSON; "subscribers" counts those of this node. Messages are on their way when the
// answer comes. It runs on net/http's goroutines and never touches a loop.
type Control struct {
	cfg       ControlConfig
	guard     guard
	limiter   *rate.Limiter
	sequencer *sequencer
	mux       *http.ServeMux
	handoff   handoff
}

// NewControl makes the handler of the control address.
func NewControl(cfg ControlConfig) *Control {
	if cfg.Rate == 0 {
		cfg.Rate = 20_000
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 1_000_000
	}
	if cfg.MaxItems == 0 {
		cfg.MaxItems = 1_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Control{cfg: cfg, guard: guard{cfg.Key}, mux: http.NewServeMux()}
	c.sequencer = newSequencer(func(it item) { _, _ = c.toTopic(it) })
	limit := rate.Limit(cfg.Rate)
	if cfg.Rate < 0 {
		limit = rate.Inf
	}
	c.limiter = rate.NewLimiter(limit, max(cfg.Rate, cfg.MaxItems))
	c.mux.HandleFunc("GET /{$}",
		func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "Sluice control\n") })
	c.mux.HandleFunc("POST /publish", c.publish)
	c.mux.HandleFunc("POST /publish/{$}", c.publish)
	c.mux.HandleFunc("GET /topics", c.topics)
	c.mux.HandleFunc("GET /connections/{id}", c.connection)
	c.mux.HandleFunc("POST /connections/{id}/send", c.sendTo)
	c.mux.HandleFunc("POST /connections/{id}/close", c.closeOne)
	return c
}

// Server returns an HTTP server for the address, with bounds on how long a caller may take. The
// caller of this gives it a listener, and closes it and then the Control.
func (c *Control) Server() *http.Server {
	return &http.Server{
		Handler:           c,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(c.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// Close lets go of items that wait for the ones before them.
func (c *Control) Close() { c.sequencer.close() }

// ServeHTTP implements http.Handler.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if status, err := c.guard.check(r); err != nil {
		if status == http.StatusUnauthorized {
			h.Set("WWW-Authenticate", `Bearer realm="sluice control"`)
		}
		controlRequests["denied"].Inc()
		c.write(w, status, controlAnswer{Message: http.StatusText(status), Error: err.Error()})
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, c.cfg.MaxBody)
	if err := c.handoff.serve(w, r, c.mux); err != nil {
		c.failRead(w, err)
	}
}

type controlAnswer struct {
	Message     string       `json:"message"`
	Subscribers *int         `json:"subscribers,omitempty"`
	Items       []itemAnswer `json:"items,omitempty"`
	Error       string       `json:"error,omitempty"`
}

type itemAnswer struct {
	Topic       string `json:"channel,omitempty"`
	Connection  string `json:"connection,omitempty"`
	Subscribers int    `json:"subscribers"`
	Error       string `json:"error,omitempty"`
}

// publish answers both forms of POST /publish.
func (c *Control) publish(w http.ResponseWriter, r *http.Request) {
	body := bodyOf(r)
	var items []item
	var err error
	query := r.URL.Query()
	if topic := query.Get("topic"); topic != "" {
		var it item
		it, err = rawItem(query.Get("type"), body)
		it.topic = topic
		items = []item{it}
	} else {
		items, err = parseItems(body, c.cfg.MaxItems)
	}
	if err != nil {
		c.fail(w, http.StatusBadRequest, err)
		return
	}
	if !c.limit(w, len(items)) {
		return
	}
	c.carryOut(w, r, items)
}

// rawItem is a message whose body is its content.
func rawItem(kind string, body []byte) (it item, err error) {
	it = item{action: publishSend, op: ws.OpText, content: body}
	switch kind {
	case "", "text":
		if !utf8.Valid(body) {
			return it, errors.New("the body is not UTF-8; type=binary sends it as it is")
		}
	case "binary":
		it.op = ws.OpBinary
	default:
		return it, fmt.Errorf("%q is not a type of message (want text or binary)", kind)
	}
	return it, nil
}

// limit takes n items from the rate, or answers 429.
func (c *Control) limit(w http.ResponseWriter, n int) bool {
	now := time.Now()
	if c.limiter.AllowN(now, n) {
		return true
	}
	seconds := 1.0
	if limit := float64(c.limiter.Limit()); limit > 0 {
		seconds = math.Ceil((float64(n) - c.limiter.TokensAt(now)) / limit)
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(max(seconds, 1))))
	controlRequests["limited"].Inc()
	c.write(w, http.StatusTooManyRequests,
		controlAnswer{Message: "Too Many Requests", Error: "more items a second than are allowed"})
	return false
}

// carryOut publishes items. One that fails does not keep the others from their subscribers; the
// answer says which.
func (c *Control) carryOut(w http.ResponseWriter, r *http.Request, items []item) {
	if err := c.cfg.Hub.CanPublish(); err != nil { // the broker: what is taken now would be lost
		c.fail(w, http.StatusServiceUnavailable, err)
		return
	}
	answer := controlAnswer{Message: "Published", Items: make([]itemAnswer, len(items))}
	total, status := 0, http.StatusOK
	for i, it := range items {
		a := &answer.Items[i]
		a.Topic, a.Connection = it.topic, it.connection
		n, err := c.one(r.Context(), it)
		if err != nil {
			a.Error, answer.Message, status = err.Error(), "Not all were published", statusOf(err)
		}
		a.Subscribers = n
		total += n
	}
	answer.Subscribers = &total
	c.answer(w, status, answer)
}

// one publishes one item, in its turn, and returns how many of this node it is for.
func (c *Control) one(ctx context.Context, it item) (subscribers int, err error) {
	if it.connection != "" {
		if err := c.toConnection(ctx, it); err != nil {
			return 0, err
		}
		return 1, nil
	}
	if err := topics.CheckName(it.topic); err != nil {
		return 0, err
	}
	if it.action == publishNothing {
		return 0, nil
	}
	c.sequencer.add(it, func(next item) {
		n, e := c.toTopic(next)
		if subscribers += n; e != nil {
			err = e
		}
	})
	return subscribers, err
}

// toTopic publishes to the subscribers of a topic. It does not block.
func (c *Control) toTopic(it item) (subscribers int, err error) {
	hub := c.cfg.Hub
	subscribers = hub.Subscribers(it.topic)
	switch {
	case it.action == publishSend && !it.op.IsControl():
		err = hub.Publish(it.topic, topics.Message{Op: it.op, Payload: it.content})
	case it.action == publishClose:
		err = hub.Publish(it.topic,
			topics.Message{Op: ws.OpClose, Payload: closeBody(it.code, []byte(it.reason))})
	default: // these are for connections of this node
		toMembers(hub, it)
		c.handoff.pass(it) // some of which may have gone to another process
	}
	return subscribers, err
}

// toMembers carries an item out on every subscriber of this process.
func toMembers(hub *topics.Hub, it item) {
	hub.Members(it.topic, func(conn *gateway.Conn) bool {
		conn.Cork(func() { carryOutOn(conn, it) })
		return true
	}, func() {})
}

// carryOutOn does to one connection what an item says. On its loop.
func carryOutOn(conn *gateway.Conn, it item) {
	switch it.action {
	case publishSend:
		_ = conn.Send(it.op, it.content) // it fails when the connection is closing
	case publishClose:
		conn.Close(it.code, it.reason)
	case publishRefresh:
		if s, ok := conn.Data.(*session); ok {
			s.refreshNow()
		}
	}
}

// statusOf is the status for an item that failed.
func statusOf(err error) int {
	switch {
	case errors.Is(err, topics.ErrName), errors.Is(err, errConnectionID):
		return http.StatusBadRequest
	case errors.Is(err, errNoConnection):
		return http.StatusNotFound
	case errors.Is(err, topics.ErrTooBig):
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusServiceUnavailable
}

// topics lists topics.
func (c *Control) topics(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit := 1000
	if text := query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 100_000 {
			c.fail(w, http.StatusBadRequest, fmt.Errorf("limit=%q: want 1 to 100000", text))
			return
		}
		limit = n
	}
	list := c.cfg.Hub.Topics(query.Get("pattern"), limit)
	if list == nil {
		list = []topics.Info{}
	}
	c.write(w, http.StatusOK,
		map[string]any{"topics": list, "subscriptions": c.cfg.Hub.Subscriptions()})
}

func (c *Control) answer(w http.ResponseWriter, status int, a controlAnswer) {
	result := "ok"
	switch {
	case status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		result = "failed"
	case status >= 400:
		result = "invalid"
	}
	controlRequests[result].Inc()
	c.write(w, status, a)
}

func (c *Control) fail(w http.ResponseWriter, status int, err error) {
	c.answer(w, status, controlAnswer{Message: http.StatusText(status), Error: err.Error()})
}

func (c *Control) failRead(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		status = http.StatusRequestEntityTooLarge
	}
	c.fail(w, status, err)
}

func (c *Control) write(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of strings and numbers always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n'))
}
