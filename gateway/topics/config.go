package topics

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// SlowPolicy is what happens to a subscriber that is so slow that the messages which it has not
// been sent yet are no longer kept.
type SlowPolicy uint8

const (
	// SlowClose closes the connection with 1013: reconnect, and recover from the history.
	SlowClose SlowPolicy = iota
	// SlowLatest goes on with the latest message; the subscriber is not told.
	SlowLatest
	// SlowDrop goes on with the oldest message that is kept, after a gap marker (see Config.Gap).
	SlowDrop

	slowPolicies
)

var slowNames = [slowPolicies]string{"close", "latest", "drop"}

// String is the policy's name in settings and metrics.
func (p SlowPolicy) String() string {
	if p < slowPolicies {
		return slowNames[p]
	}
	return fmt.Sprintf("SlowPolicy(%d)", uint8(p))
}

// ParseSlowPolicy reads close, latest or drop.
func ParseSlowPolicy(s string) (SlowPolicy, error) {
	for p, name := range slowNames {
		if s == name {
			return SlowPolicy(p), nil
		}
	}
	return 0, fmt.Errorf("%q is not a policy for slow subscribers (want close, latest or drop)", s)
}

// SlowRule sets the policy of the topics whose names match Pattern (see Match).
type SlowRule struct {
	Pattern string
	Policy  SlowPolicy
}

// HistoryRule keeps the last Size messages of each topic whose name matches Pattern, each for TTL.
type HistoryRule struct {
	Pattern string
	Size    int
	TTL     time.Duration
}

// MaxHistorySize is the largest Size of a HistoryRule: a history is read in one piece.
const MaxHistorySize = 10_000

// Config sets up a Hub. Zero values are the defaults.
type Config struct {
	// Slow are the policies for slow subscribers; the first that matches holds. A topic that none
	// matches has SlowClose.
	Slow []SlowRule

	// History says which topics keep messages for subscribers that come back; the first that
	// matches holds. A topic that none matches keeps none.
	History []HistoryRule

	// Redis carries publications between the processes that share it, and keeps histories. Without
	// it topics end at this process. A Hub with it is made by New and ended by Close.
	Redis *RedisConfig

	// Sources are other Redis servers, or the same one, where something that is no Hub publishes to
	// topics in a format of its own. Each process listens for itself: what comes is not published
	// again.
	Sources []SourceConfig

	// MaxTopics bounds the topics with subscribers or a history in this process. Beyond it
	// Subscribe fails with ErrFull, and Publish to a topic that would be new for its history too.
	// Default 100,000.
	MaxTopics int

	// MaxPerConn bounds the topics that one connection is subscribed to (ErrTooMany). Default 100.
	MaxPerConn int

	// MaxSubscriptions bounds the subscriptions of all connections (ErrFull). Default 10,000,000.
	MaxSubscriptions int

	// MaxPayload bounds one message (ErrTooBig), in bytes. Default 64 KiB.
	MaxPayload int

	// RetainMessages and RetainBytes bound what one topic keeps on one loop for subscribers whose
	// sockets are full. What they have not taken when it is exceeded is lost to them: see
	// SlowPolicy. Default 256 messages and 1 MiB.
	RetainMessages int
	RetainBytes    int

	// MaxRetained bounds, in bytes, what all topics together keep for slow subscribers. Default 64
	// MiB.
	MaxRetained int

	// MaxBacklog bounds the messages of one topic that are accepted and wait for their turn on a
	// loop, and MaxPending the bytes of all topics that do, counted once for each loop. Beyond
	// either, Publish fails with ErrBusy. Default 1,024 and 64 MiB.
	MaxBacklog int
	MaxPending int

	// MaxHistory bounds the bytes of all histories in this process; beyond it the history that was
	// written to least recently is dropped whole. Default 64 MiB. Redis has its own bound
	// (maxmemory).
	MaxHistory int

	// Gap makes the text that a subscriber is sent when messages of the topic are lost to it;
	// missed is their number, 0 when it is not known. It is called on loops and elsewhere and must
	// not block. Default {"type":"gap","topic":"…","missed":N}. A nil slice sends nothing.
	Gap func(topic string, missed uint64) []byte

	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	for _, f := range []struct {
		field *int
		name  string
		value int
	}{
		{&c.MaxTopics, "MaxTopics", 100_000},
		{&c.MaxPerConn, "MaxPerConn", 100},
		{&c.MaxSubscriptions, "MaxSubscriptions", 10_000_000},
		{&c.MaxPayload, "MaxPayload", 64 << 10},
		{&c.RetainMessages, "RetainMessages", 256},
		{&c.RetainBytes, "RetainBytes", 1 << 20},
		{&c.MaxRetained, "MaxRetained", 64 << 20},
		{&c.MaxBacklog, "MaxBacklog", 1024},
		{&c.MaxPending, "MaxPending", 64 << 20},
		{&c.MaxHistory, "MaxHistory", 64 << 20},
	} {
		if *f.field < 0 {
			return c, fmt.Errorf("topics: %s is %d, must be at least 1", f.name, *f.field)
		}
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	// Sequence numbers of 32 bits are compared by their difference.
	if c.MaxBacklog > 1<<24 || c.RetainMessages > 1<<24 {
		return c, errors.New("topics: MaxBacklog and RetainMessages must be at most 16,777,216")
	}
	for _, r := range c.Slow {
		if r.Pattern == "" || r.Policy >= slowPolicies {
			return c, fmt.Errorf("topics: slow rule %q=%v: want a pattern and a policy", r.Pattern, r.Policy)
		}
	}
	for _, r := range c.History {
		if r.Pattern == "" || r.Size < 1 || r.Size > MaxHistorySize || r.TTL < time.Second {
			return c, fmt.Errorf("topics: history rule %q=%d,%v: "+
				"want a pattern, 1 to %d messages and at least 1s",
				r.Pattern, r.Size, r.TTL, MaxHistorySize)
		}
	}
	if c.Gap == nil {
		c.Gap = gapMarker
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, nil
}

// rules are what the configuration says of one name.
type rules struct {
	slow    SlowPolicy
	history HistoryRule // Size 0: none
}

func (c *Config) rulesFor(name string) (r rules) {
	for _, s := range c.Slow {
		if Match(s.Pattern, name) {
			r.slow = s.Policy
			break
		}
	}
	for _, h := range c.History {
		if Match(h.Pattern, name) {
			r.history = h
			break
		}
	}
	return r
}
