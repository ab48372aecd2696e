package backend

import (
	"net/http"

	"sluice/gateway"
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
	if err := s.lane.loop.topics.Subscribe(s.conn, c.channel); err != nil {
		controlsIgnored.Inc()
		s.lane.target.log.Debug("no subscription", "connection", s.id.String(), "topic", c.channel, "error", err)
	}
}

func (s *session) unsubscribe(channel string) { s.lane.loop.topics.Unsubscribe(s.conn, channel) }

func (s *session) topics() []string { return s.lane.loop.topics.Subscribed(s.conn) }
