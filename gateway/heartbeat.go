package gateway

import (
	"math"
	"time"

	"github.com/gobwas/ws"
)

// deadAt is when a peer that stays silent counts as dead: it owes a Pong for each heartbeat's Ping,
// and one may be late. 0: never, for nothing is asked of it.
func (c *Conn) deadAt() time.Duration {
	if c.w.cfg.NoPing {
		return 0
	}
	return c.seen + c.w.cfg.Heartbeat*5/2
}

// dead reports whether the peer has been silent for too long.
func (c *Conn) dead(now time.Duration) bool {
	at := c.deadAt()
	return at != 0 && now >= at
}

// startHeartbeat gives the connection its own phase, so that the heartbeats of connections that
// came together do not stay together.
func (c *Conn) startHeartbeat() {
	if interval := c.w.cfg.Heartbeat; interval > 0 {
		c.beatAt = c.w.loop.Now() + 1 + time.Duration(c.w.random.Int64N(int64(interval)))
	}
}

// heartbeat sends the loop's heartbeat, encoded once for all that are due in this tick.
func (c *Conn) heartbeat() {
	now := c.w.loop.Now()
	c.watchUnread()
	c.send(c.w.heartbeat())
	if !c.w.cfg.NoPing {
		c.owed += min(1, math.MaxUint8-c.owed)
	}
	c.w.totals.heartbeats++
	c.w.totals.messagesSent++
	c.rare.sentMessage()
	for c.beatAt += c.w.cfg.Heartbeat; c.beatAt <= now; c.beatAt += c.w.cfg.Heartbeat {
		// A loop that was kept from running sends one heartbeat and not all that it missed, and
		// keeps the phase.
	}
}

// ping sends a Ping of its own, whose Pong is expected.
func (c *Conn) ping() {
	c.sendFrame(ws.OpPing, nil)
	c.owed += min(1, math.MaxUint8-c.owed)
}

// forgiveSilence: don't count silence while we weren't reading or pinging. After SIGSTOP, or when
// the machine slept, every client would look dead.
func (c *Conn) forgiveSilence(now time.Duration) {
	if c.blocked() || now >= c.beatAt+c.w.cfg.Heartbeat/2 {
		c.seen = max(c.seen, now)
	}
}

func (c *Conn) dropDead() {
	c.w.metrics.failed[failedDeadPeer].Inc()
	c.end(goneReset)
}

// WakeAfter has the Handler's Wake (see Waker) called once, after d. A second call replaces the
// first; d <= 0 cancels.
func (c *Conn) WakeAfter(d time.Duration) {
	c.wakeAt = 0
	if d > 0 {
		c.wakeAt = c.w.loop.Now() + d
	}
	if c.state == open {
		c.rearm()
	}
}
