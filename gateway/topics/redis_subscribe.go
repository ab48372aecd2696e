package topics

import (
	"context"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// idles reports whether nobody has wanted the topic for a second.
func (c *channel) idles() bool {
	return !c.wanted && !c.track.syncing && time.Since(c.idle) > time.Second
}

// settle brings the subscriptions to what is wanted.
func (f *feed) settle(link int, client rueidis.DedicatedClient) error {
	f.mu.Lock()
	var add, drop []string
	for _, name := range f.changed {
		switch c := f.channels[name]; {
		case c == nil:
		case c.wanted && c.asked != link:
			c.asked = link
			add = append(add, f.prefix+name)
		case c.idles() && c.asked == link:
			c.asked, c.live, c.before = 0, 0, false
			c.track = track{}
			drop = append(drop, f.prefix+name)
		}
	}
	f.changed = f.changed[:0]
	if f.cut.channel != "" && f.cut.asked != link {
		f.cut.asked = link
		add = append(add, f.cut.channel)
	}
	f.mu.Unlock()
	if len(drop) > 0 {
		if err := f.unsubscribe(client, drop); err != nil {
			return err
		}
	}
	return f.subscribe(client, add)
}

// subscribeAtMost is how many channels one command names.
const subscribeAtMost = 500

func (f *feed) subscribe(client rueidis.DedicatedClient, channels []string) error {
	return f.inPieces(client, channels, func(piece []string) rueidis.Completed {
		if f.b.sharded {
			return client.B().Ssubscribe().Channel(piece...).Build()
		}
		return client.B().Subscribe().Channel(piece...).Build()
	})
}

func (f *feed) unsubscribe(client rueidis.DedicatedClient, channels []string) error {
	return f.inPieces(client, channels, func(piece []string) rueidis.Completed {
		if f.b.sharded {
			return client.B().Sunsubscribe().Channel(piece...).Build()
		}
		return client.B().Unsubscribe().Channel(piece...).Build()
	})
}

func (f *feed) inPieces(client rueidis.DedicatedClient, channels []string,
	command func([]string) rueidis.Completed) error {
	for len(channels) > 0 {
		n := min(len(channels), subscribeAtMost)
		ctx, cancel := context.WithTimeout(f.b.ctx, f.b.cfg.Deadline)
		err := client.Do(ctx, command(channels[:n])).Error()
		cancel()
		if err != nil {
			return err
		}
		channels = channels[n:]
	}
	return nil
}

// subscription is called when Redis confirms, or ends, a subscription.
func (f *feed) subscription(link int, s rueidis.PubSubSubscription) {
	ended := strings.HasSuffix(s.Kind, "unsubscribe")
	f.mu.Lock()
	if link != f.link {
		f.mu.Unlock()
		return
	}
	f.heard = time.Now()
	if s.Channel == f.probing {
		up := !ended && f.down != nil
		if up {
			f.down = nil
		}
		f.mu.Unlock()
		if up {
			feedsDown.Add(-1)
			f.b.log.Info("broker connected", "channels", f.prefix, "partition", f.part)
		}
		if ended {
			f.reconnect()
		}
		return
	}
	if f.cut.due {
		f.look()
	}
	if s.Channel == f.cut.channel && !ended {
		f.cut.live = link
		f.mu.Unlock()
		return
	}
	c := f.channels[strings.TrimPrefix(s.Channel, f.prefix)]
	switch {
	case c == nil || ended && c.asked != link:
		f.mu.Unlock()
	case ended: // not by us: a slot moves to another server
		f.mu.Unlock()
		f.reconnect()
	default:
		again := c.before
		c.live, c.before = link, false
		if c.rule.Size > 0 || len(c.await) > 0 {
			f.sync(c)
		}
		tell := again && c.rule.Size == 0
		f.mu.Unlock()
		if tell {
			f.gap(c, 0, 0)
		}
	}
}
