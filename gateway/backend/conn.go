package backend

import (
	"encoding/json"
	"net/http"

	"github.com/gobwas/ws"

	"sluice/gateway"
	"sluice/gateway/topics"
)

// answerRefusal is a backend's answer that is no OPEN, as the client gets it.
func answerRefusal(a *answer) *gateway.Refusal {
	if a.status < 200 || a.status > 599 {
		return refuseBroken
	}
	body := a.body[:min(len(a.body), maxRefusalBody)]
	if a.status == http.StatusNoContent || a.status == http.StatusNotModified {
		body = nil
	}
	return gateway.NewResponse(a.status, responseLines(a.header, false), string(body))
}

func (s *session) subscribe(c control) {
	var err error
	if c.since == nil {
		err = s.lane.loop.topics.Subscribe(s.conn, c.channel)
	} else {
		// What the client kept of an earlier connection may be anything: that is no position to
		// recover from.
		since, _ := topics.ParsePosition(*c.since)
		err = s.lane.loop.topics.SubscribeFrom(s.conn, c.channel, since, func(r topics.Recovery) {
			_ = s.conn.Send(ws.OpText, subscribed(c.channel, r)) // it fails when the connection is closing
		})
	}
	if err != nil {
		controlsIgnored.Inc()
		s.lane.target.log.Debug("no subscription", "connection", s.id.String(), "topic", c.channel,
			"error", err)
	}
}

// subscribed is what the client is told of a subscription with a position, before anything of the
// topic.
func subscribed(topic string, r topics.Recovery) []byte {
	text, err := json.Marshal(struct {
		Type      string `json:"type"`
		Topic     string `json:"topic"`
		Position  string `json:"position"`
		Recovered bool   `json:"recovered"`
		Messages  int    `json:"messages"`
	}{"subscribed", topic, r.Position.String(), r.Recovered, r.Messages})
	if err != nil {
		panic(err) // not reachable: all of it has an encoding
	}
	return text
}

func (s *session) unsubscribe(channel string) { s.lane.loop.topics.Unsubscribe(s.conn, channel) }

func (s *session) topics() []string { return s.lane.loop.topics.Subscribed(s.conn) }
