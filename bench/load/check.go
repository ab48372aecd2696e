package load

import (
	"bytes"
	"time"

	"sluice/bench/wsclient"
)

// This file judges what the server says. A connection knows `acked`, the session's total as last told, and its queue of
// messages in flight; the next reply must be acked+1.

// message handles one whole data message.
func (c *Conn) message(p []byte) {
	w := c.w
	if w.spec.Scenario == Echo && !w.spec.NoVerify && c.sent.n > 0 && len(p) == len(w.payload) && !isNotice(p) {
		c.echoed(p)
		return
	}
	n := wsclient.ParseNotice(p)
	switch {
	case n.Kind == wsclient.Welcome:
		c.welcomed(n)
	case n.Kind == wsclient.Beat:
		c.beat()
	case n.Kind == wsclient.Bye:
		w.n.Byes++
		if !w.spec.NoVerify && w.spec.Scenario != Echo && !w.sawEcho && !c.within(n.Total, uint64(c.sent.n)) {
			w.n.ByesWrong++
		}
	case c.sent.n == 0 && c.flags&asked == 0:
		// Before the first message: a greeting in a protocol that is not ours, and not a reply to anything.
	case w.spec.NoVerify:
		c.reply(0)
	case n.Kind == wsclient.Counted && w.spec.Scenario != Echo:
		c.count(n.Total)
	case w.spec.Scenario == Echo, w.spec.Scenario == Slow && len(p) == len(w.payload):
		c.echoed(p)
	default:
		c.corrupt()
	}
}

// isNotice tells a heartbeat or the like from an echo, whose first byte is a hexadecimal digit or the filler.
func isNotice(p []byte) bool { return len(p) > 0 && p[0] == '{' }

// within reports whether a total is possible: all that was acknowledged, and at most what was in flight more.
func (c *Conn) within(total, inFlight uint64) bool {
	return total >= c.acked && total <= c.acked+uint64(c.maybe)+inFlight
}

// welcomed checks the total with which a session starts or comes back.
func (c *Conn) welcomed(n wsclient.Notice) {
	w := c.w
	w.n.Welcomes++
	w.sawWelcome = true
	if id, ok := wsclient.ParseSessionID(n.ID); ok {
		c.keepID(id)
	}
	c.confirm(n.Total, n.Resumed)
}

// confirm ends the uncertainty of a return: what was in flight was counted or not.
func (c *Conn) confirm(total uint64, resumed bool) {
	w := c.w
	back := c.flags&returning != 0
	if !w.spec.NoVerify && !c.within(total, 0) {
		w.n.ResumeWrong++
	}
	c.acked, c.maybe = total, 0
	if back {
		if resumed {
			w.n.Resumed++
		}
		w.returned(c)
	}
}

// count checks one {"count":N}.
func (c *Conn) count(n uint64) {
	w := c.w
	if c.flags&returning != 0 {
		// A server without a welcome frame: the first count tells where the session stands.
		c.confirm(n-1, n > 1)
	}
	expected := c.acked + 1
	inFlight := uint64(c.sent.n)
	switch {
	case n < expected:
		w.n.Duplicated++
	case inFlight == 0 && n <= c.acked+uint64(c.maybe):
		// Too late: it has been given up and is Missing.
		c.maybe -= uint32(n - c.acked)
		c.acked = n
	case inFlight == 0:
		// Counted and answered, but never sent.
		w.n.Overcount += int64(n - c.acked)
		c.acked = n
	case n < expected+inFlight:
		c.reply(n - expected)
	default:
		// More than was sent: the server counted something twice. The reply is still one to the oldest message.
		w.n.Overcount += int64(n - expected)
		c.acked = n - 1
		c.reply(0)
	}
}

// seqDigits is how many bytes at the front of a payload carry the message's number, so that an echo shows which
// message it is the echo of.
func seqDigits(payload []byte) int { return min(len(payload), 8) }

const hexDigits = "0123456789abcdef"

// number writes seq into the front of payload, lowest digit last.
func number(payload []byte, seq uint64) {
	for i := seqDigits(payload) - 1; i >= 0; i-- {
		payload[i] = hexDigits[seq&15]
		seq >>= 4
	}
}

// echoed checks one echo.
func (c *Conn) echoed(p []byte) {
	w := c.w
	k := seqDigits(w.payload)
	got, ok := uint64(0), len(p) == len(w.payload) && bytes.Equal(p[k:], w.payload[k:])
	for i := 0; i < k && ok; i++ {
		digit := bytes.IndexByte([]byte(hexDigits), p[i])
		ok = digit >= 0
		got = got<<4 | uint64(digit)
	}
	span := uint64(1) << (4 * k)
	ahead := (got - (c.acked + 1)) & (span - 1)
	switch {
	case !ok:
		c.corrupt()
	case k == 0 && c.sent.n == 0:
		w.n.Duplicated++
	case ahead < uint64(c.sent.n):
		w.sawEcho = true
		c.reply(ahead)
	case c.sent.n == 0 && ahead < uint64(c.maybe): // too late: it has been given up and is Missing
		c.acked += ahead + 1
		c.maybe -= uint32(ahead) + 1
	case span-ahead <= min(c.acked, span/2, 1024):
		w.n.Duplicated++
	default:
		c.corrupt()
	}
}

// corrupt is an answer that is none. It stands for the reply to the oldest message, whose latency is not recorded.
func (c *Conn) corrupt() {
	c.w.n.Corrupt++
	if c.sent.n > 0 {
		c.settle()
		c.w.answered(c)
	}
}

// reply is the right reply to a message, after `missing` older ones to which none came.
func (c *Conn) reply(missing uint64) {
	w := c.w
	if c.sent.n == 0 {
		w.n.Duplicated++
		return
	}
	for ; missing > 0; missing-- {
		w.n.Missing++
		c.settle()
	}
	latency := w.readAt - c.settle()
	w.n.Replies++
	w.h.message.record(latency)
	w.answered(c)
}

// settle takes the oldest message off the queue, whatever became of it, and gives the closed loop its place back.
func (c *Conn) settle() (sentAt time.Duration) {
	w := c.w
	at := c.sent.pop()
	c.acked++
	w.outstanding--
	w.messageOver(c)
	return at
}

// giveUp is the end of waiting for all that is in flight. Whether the server counted it is not known.
func (c *Conn) giveUp() {
	for c.sent.n > 0 {
		c.sent.pop()
		c.maybe++
		c.w.n.Missing++
		c.w.outstanding--
		c.w.messageOver(c)
	}
}

// beat measures a heartbeat against the expected interval. The first is only checked not to come late: servers
// spread the phases.
func (c *Conn) beat() {
	w := c.w
	w.n.Beats++
	gap, every := w.readAt-c.mark, w.spec.HeartbeatEvery
	c.mark = w.readAt
	if c.flags&beaten != 0 {
		w.h.heartbeat.record((gap - every).Abs())
	}
	c.flags |= beaten
	c.missedBeats(gap)
}

// missedBeats counts the heartbeats that should have come within gap and did not. Half an interval of grace: less is jitter.
func (c *Conn) missedBeats(gap time.Duration) {
	w := c.w
	if every := w.spec.HeartbeatEvery; w.spec.Heartbeats == "expect" && gap > every+every/2 {
		w.n.BeatsMissing += int64((gap+every/2)/every) - 1
	}
}
