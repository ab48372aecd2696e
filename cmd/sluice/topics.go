package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"sluice/gateway/backend"
	"sluice/gateway/topics"
)

// topicsConfig is the settings of topics, which --app backend subscribes its clients to.
type topicsConfig struct {
	SlowPolicy    []string `group:"topics" sep:"," default:"close" placeholder:"[PATTERN=]NAME" help:"What happens to a subscriber that is too slow: close (1013), latest (goes on with the latest message) or drop (goes on with what is kept, and is told of the gap); for the topics that match a pattern (* stands for anything), or all. The first that matches holds."`
	TopicHistory  []string `group:"topics" sep:"," placeholder:"[PATTERN=]SIZE,TTL" help:"How many messages topics keep, and for how long, for subscribers that come back, as room-*=100,5m; the first pattern that matches holds. None by default."`
	BrokerURL     string   `group:"topics" name:"broker-url" placeholder:"URL" help:"Redis through which gateways share their topics: redis://user:password@host:port, or rediss:// for TLS; for a cluster one of its servers. Without it topics end at this process."`
	BrokerPrefix  string   `group:"topics" default:"sluice:topic:" placeholder:"TEXT" help:"What the broker's channels and keys begin with; gateways with the same prefix share their topics."`
	ChannelsLayer []string `group:"topics" name:"channels-layer" sep:"," placeholder:"URL,…" help:"Redis where a Django Channels deployment publishes with channels_redis' RedisPubSubChannelLayer, each of its hosts: group_send reaches the clients of the topic of that name."`
	ChannelsName  string   `group:"topics" name:"channels-prefix" default:"asgi" placeholder:"TEXT" help:"The prefix of that layer."`
	MaxTopics     count    `group:"topics" default:"100000" placeholder:"N" help:"Topics that have subscribers or keep messages at once."`
	TopicsPerConn count    `group:"topics" default:"100" placeholder:"N" help:"Topics that one connection may be subscribed to."`
	TopicRetain   count    `group:"topics" default:"256" placeholder:"N" help:"Messages of a topic that are kept for subscribers whose sockets are full, 1MiB at most; see --slow-policy."`
	MaxPublish    size     `group:"topics" default:"64KiB" placeholder:"SIZE" help:"Longest message that may be published."`
}

// slowRules reads --slow-policy.
func (c *topicsConfig) slowRules() (rules []topics.SlowRule, err error) {
	for _, text := range c.SlowPolicy {
		pattern, name := cutPattern(text)
		p, err := topics.ParseSlowPolicy(name)
		if err != nil {
			return nil, err
		}
		if pattern == "" {
			return nil, fmt.Errorf("%q has no pattern before the = (want * for all topics)", text)
		}
		rules = append(rules, topics.SlowRule{Pattern: pattern, Policy: p})
	}
	return rules, nil
}

// historyRules reads --topic-history, in which a comma parts rules as well as SIZE and TTL.
func (c *topicsConfig) historyRules() (rules []topics.HistoryRule, err error) {
	const want = "want [PATTERN=]SIZE,TTL, for example room-*=100,5m"
	if len(c.TopicHistory)%2 != 0 {
		return nil, fmt.Errorf("%q is not a size and a time, or several (%s)", strings.Join(c.TopicHistory, ","), want)
	}
	for i := 0; i < len(c.TopicHistory); i += 2 {
		text := c.TopicHistory[i] + "," + c.TopicHistory[i+1]
		pattern, number := cutPattern(c.TopicHistory[i])
		size, err := strconv.Atoi(number)
		if err != nil || size < 1 || size > topics.MaxHistorySize {
			return nil, fmt.Errorf("%q: %q is not a number of messages from 1 to %d (%s)", text, number, topics.MaxHistorySize, want)
		}
		ttl, err := time.ParseDuration(c.TopicHistory[i+1])
		if err != nil || ttl < time.Second || ttl > longest {
			return nil, fmt.Errorf("%q: %q is not a time of a second to a year (%s)", text, c.TopicHistory[i+1], want)
		}
		if pattern == "" {
			return nil, fmt.Errorf("%q has no pattern before the = (want * for all topics)", text)
		}
		rules = append(rules, topics.HistoryRule{Pattern: pattern, Size: size, TTL: ttl})
	}
	return rules, nil
}

// cutPattern parts PATTERN=VALUE at the last =; without one the pattern is that of all topics.
func cutPattern(text string) (pattern, value string) {
	if i := strings.LastIndexByte(text, '='); i >= 0 {
		return text[:i], text[i+1:]
	}
	return "*", text
}

// checkTopics judges the settings of topics, and refuses them for applications that have none.
func (c *config) checkTopics(wrong func(flag, format string, args ...any) error) error {
	if _, err := c.slowRules(); err != nil {
		return wrong("slow-policy", "%v", err)
	}
	if _, err := c.historyRules(); err != nil {
		return wrong("topic-history", "%v", err)
	}
	for _, n := range []struct {
		flag        string
		value, most count
	}{{"max-topics", c.MaxTopics, 10_000_000}, {"topics-per-conn", c.TopicsPerConn, 10_000}, {"topic-retain", c.TopicRetain, 1_000_000}} {
		if n.value < 1 || n.value > n.most {
			return wrong(n.flag, "%d is out of range (want 1 to %d)", n.value, n.most)
		}
	}
	if c.MaxPublish < 125 || c.MaxPublish > 64<<20 {
		return wrong("max-publish", "%v is out of range (want 125 bytes to 64MiB)", c.MaxPublish)
	}
	if strings.ContainsAny(c.BrokerPrefix, "{}") {
		return wrong("broker-prefix", "%q has braces, with which a Redis Cluster chooses the server", c.BrokerPrefix)
	}
	if c.BrokerURL != "" {
		if err := checkRedisURL(c.BrokerURL); err != nil {
			return wrong("broker-url", "%v", err)
		}
	}
	for _, url := range c.ChannelsLayer {
		if err := checkRedisURL(url); err != nil {
			return wrong("channels-layer", "%v", err)
		}
	}
	if c.App != "backend" {
		switch {
		case len(c.ChannelsLayer) > 0:
			return wrong("channels-layer", "--app %s has no topics (set --app backend)", c.App)
		case c.BrokerURL != "":
			return wrong("broker-url", "--app %s has no topics (set --app backend)", c.App)
		case len(c.TopicHistory) > 0:
			return wrong("topic-history", "--app %s has no topics (set --app backend)", c.App)
		}
	}
	return nil
}

// checkRedisURL leaves the finer points to the client.
func checkRedisURL(text string) error {
	u, err := url.Parse(text)
	// The error of url.Parse quotes the URL with its password, so it is not passed on.
	if err != nil || u.Scheme != "redis" && u.Scheme != "rediss" && u.Scheme != "unix" || u.Scheme != "unix" && u.Host == "" {
		return errors.New("not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)")
	}
	return nil
}

// topicsConfig is the settings as the hub takes them; check has read them before.
func (s *server) topicsConfig() (topics.Config, error) {
	c := &s.cfg
	slow, err := c.slowRules()
	if err != nil {
		return topics.Config{}, err
	}
	history, err := c.historyRules()
	if err != nil {
		return topics.Config{}, err
	}
	cfg := topics.Config{
		Slow:           slow,
		History:        history,
		MaxTopics:      int(c.MaxTopics),
		MaxPerConn:     int(c.TopicsPerConn),
		RetainMessages: int(c.TopicRetain),
		MaxPayload:     int(c.MaxPublish),
		Logger:         s.log,
	}
	if c.BrokerURL != "" {
		cfg.Redis = &topics.RedisConfig{URL: c.BrokerURL, Prefix: c.BrokerPrefix}
	}
	for _, url := range c.ChannelsLayer {
		cfg.Sources = append(cfg.Sources, backend.ChannelsLayer(url, c.ChannelsName))
	}
	return cfg, nil
}
