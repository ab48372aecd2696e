package topics

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/gobwas/ws"

	"sluice/sessions"
)

// SourceConfig is a Redis where something else publishes to topics. Zero values are the defaults,
// but for URL, Prefix and Decode.
type SourceConfig struct {
	// URL is that of the server, as in RedisConfig. Of a cluster any server will do: publications
	// that are not sharded reach them all.
	URL string
	// Prefix begins the names of channels; what follows is the topic.
	Prefix string
	// Decode reads a publication, whose memory the payload may share. ok is false when it is
	// nothing for clients. It is called by one goroutine at a time, and must not block.
	Decode func(text string) (m Message, ok bool, err error)
	// Deadline and ProbeInterval are as in RedisConfig. The probe is published too, in a channel of
	// this process' own below Prefix.
	Deadline, ProbeInterval time.Duration
}

// openSource listens at a source: a broker with one feed, and without senders and histories.
func openSource(h *Hub, cfg SourceConfig) (*redisBroker, error) {
	if cfg.Prefix == "" || cfg.Decode == nil {
		return nil, errors.New("topics: a source needs a Prefix and a Decode")
	}
	redis, err := RedisConfig{URL: cfg.URL, Prefix: cfg.Prefix, Deadline: cfg.Deadline,
		ProbeInterval: cfg.ProbeInterval}.withDefaults()
	if err != nil {
		return nil, err
	}
	option, err := sessions.ParseRedisURL(cfg.URL, redis.Deadline)
	if err != nil {
		return nil, fmt.Errorf("URL of a source of publications: %w (want the like of "+
			"redis://user:password@host:6379)", err)
	}
	option.ForceSingleClient = true
	b, err := connect(h, redis, option)
	if err != nil {
		return nil, fmt.Errorf("open the source of publications at %v: %w", option.InitAddress, err)
	}
	b.source = &cfg
	b.feeds = []*feed{newFeed(b, 0)}
	b.start()
	return b, nil
}

// decode checks and encodes what came; nil is nothing for clients.
func (c *SourceConfig) decode(text string, most int) (*message, error) {
	m, ok, err := c.Decode(text)
	if err != nil || !ok {
		return nil, err
	}
	m.Op = cmp.Or(m.Op, ws.OpText)
	if err := checkPayload(m.Op, m.Payload, most); err != nil {
		return nil, err
	}
	return encode(m), nil
}
