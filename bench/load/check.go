package load

import (
	"bytes"
	"fmt"
	"time"

	"sluice/bench/wsclient"
)

// This file checks what the server sends. A connection keeps acked, the session's total as last
// told, and the queue of its messages in flight; the next reply must be acked+1.

// message handles one whole data message.
func (c *Conn) message(p []byte) {
	w := c.w
	if w.spec.Scenario == Fanout {
		c.published(p)
		return
	}
	if w.spec.Scenario == Custom {
		c.customReply(p)
		return
	}
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
		c.bye(n.Total)
	case c.sent.n == 0 && c.flags&asked == 0:
		// Before the first message: a greeting of another protocol, and not a reply.
		w.n.Others++
	case w.spec.NoVerify:
		c.reply(0)
	case n.Kind == wsclient.Counted && w.spec.Scenario != Echo:
		c.count(n.Total)
	case w.spec.Scenario == Echo, w.spec.Scenario == Slow && len(p) == len(w.payload):
		c.echoed(p)
	default:
		c.corrupt(p)
	}
}

// isNotice tells a heartbeat or the like from an echo, whose first byte is a hexadecimal digit or
// the filler.
func isNotice(p []byte) bool { return len(p) > 0 && p[0] == '{' }

// within reports whether a total is possible: all that was acknowledged, and at most what was in
// flight more.
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
		w.example(wrongResume, c.totals(0), total)
	}
	c.acked, c.maybe = total, 0
	if back {
		if resumed {
			w.n.Resumed++
		}
		w.returned(c)
	}
}

func (c *Conn) bye(total uint64) {
	w := c.w
	w.n.Byes++
	if w.phase == phaseAwait {
		w.h.bye.record(w.now() - w.entered)
	}
	if w.spec.NoVerify || w.spec.Scenario == Echo || w.sawEcho {
		return
	}
	if !c.within(total, uint64(c.sent.n)) {
		w.n.ByesWrong++
		w.example(wrongBye, c.totals(uint64(c.sent.n)), total)
	}
}

// totals are the totals that are possible, for an example of one that is not.
func (c *Conn) totals(inFlight uint64) string {
	if most := c.acked + uint64(c.maybe) + inFlight; most != c.acked {
		return fmt.Sprintf("%d to %d", c.acked, most)
	}
	return fmt.Sprint(c.acked)
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
		w.example(wrongTwice, fmt.Sprintf(`{"count":%d}`, expected), n)
	case inFlight == 0 && n <= c.acked+uint64(c.maybe):
		// Too late: its message has been given up and is Missing.
		c.maybe -= uint32(n - c.acked)
		c.acked = n
	case inFlight == 0:
		// Counted and answered, but never sent.
		w.n.Overcount += int64(n - c.acked)
		w.example(wrongOvercount, fmt.Sprintf(`{"count":%d} at most`, c.acked), n)
		c.acked = n
	case n < expected+inFlight:
		c.reply(n - expected)
	default:
		// More than was sent: the server counted something twice. The reply is still one to the
		// oldest message.
		w.n.Overcount += int64(n - expected)
		w.example(wrongOvercount, fmt.Sprintf(`{"count":%d} at most`, c.acked+inFlight), n)
		c.acked = n - 1
		c.reply(0)
	}
}

// seqDigits is how many bytes at the front of a payload carry the message's number, so that an
// echo shows which message it is the echo of.
func seqDigits(payload []byte) int { return min(len(payload), 8) }

const hexDigits = "0123456789abcdef"

// number writes seq into the front of payload, lowest digit last.
func number(payload []byte, seq uint64) {
	for i := seqDigits(payload) - 1; i >= 0; i-- {
		payload[i] = hexDigits[seq&15]
		seq >>= 4
	}
}

// echoOf is the number of the message that p is the echo of; ok is false when it is no echo.
func (w *worker) echoOf(p []byte) (seq uint64, ok bool) {
	k := seqDigits(w.payload)
	if len(p) != len(w.payload) || !bytes.Equal(p[k:], w.payload[k:]) {
		return 0, false
	}
	for _, b := range p[:k] {
		digit := bytes.IndexByte([]byte(hexDigits), b)
		if digit < 0 {
			return 0, false
		}
		seq = seq<<4 | uint64(digit)
	}
	return seq, true
}

// echoed checks one echo.
func (c *Conn) echoed(p []byte) {
	w := c.w
	k := seqDigits(w.payload)
	seq, ok := w.echoOf(p)
	span := uint64(1) << (4 * k)
	ahead := (seq - (c.acked + 1)) & (span - 1)
	switch {
	case !ok:
		c.corrupt(p)
	case k == 0 && c.sent.n == 0:
		c.duplicated(p)
	case ahead < uint64(c.sent.n):
		w.sawEcho = true
		c.reply(ahead)
	case c.sent.n == 0 && ahead < uint64(c.maybe): // too late: its message is Missing
		c.acked += ahead + 1
		c.maybe -= uint32(ahead) + 1
	case span-ahead <= min(c.acked, span/2, 1024):
		c.duplicated(p)
	default:
		c.corrupt(p)
	}
}

// customReply checks one message of the scenario custom.
func (c *Conn) customReply(p []byte) {
	w := c.w
	seq, ok := w.template.match(p, c.number())
	ahead := seq - (c.acked + 1)
	switch {
	case !w.spec.replies():
		w.n.Others++
	case !ok:
		w.n.Others++
		w.example(NotExpected, w.spec.Expect, p)
	case c.sent.n == 0 && (w.template.expect == nil || c.flags&asked == 0 || c.maybe > 0):
		w.n.Others++ // a push or a greeting, or too late
	case seq == 0:
		c.replyTo(0, p)
	case seq <= c.acked:
		c.duplicated(p)
	case ahead < uint64(c.sent.n):
		c.replyTo(ahead, p)
	default:
		c.corrupt(p)
	}
}

// replyTo is reply, for replies that may come when none is due.
func (c *Conn) replyTo(missing uint64, p []byte) {
	if c.sent.n == 0 {
		c.duplicated(p)
		return
	}
	c.reply(missing)
}

// corrupt handles a reply that is none. It stands for the reply to the oldest message, whose
// latency is not recorded.
func (c *Conn) corrupt(p []byte) {
	c.w.n.Corrupt++
	c.w.example(wrongCorrupt, c.expected(), p)
	if c.sent.n > 0 {
		c.settle()
		c.w.answered(c)
	}
}

func (c *Conn) duplicated(p []byte) {
	c.w.n.Duplicated++
	c.w.example(wrongTwice, c.expected(), p)
}

// expected is the next reply, for an example of another one.
func (c *Conn) expected() string {
	w := c.w
	switch {
	case c.sent.n == 0:
		return "nothing"
	case w.spec.Scenario == Echo:
		number(w.payload, c.acked+1)
		return quote(w.payload)
	case w.spec.Scenario == Custom:
		return w.spec.Expect
	}
	return fmt.Sprintf(`{"count":%d}`, c.acked+1)
}

// reply handles the right reply to a message, after `missing` older ones to which none came.
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
	w.traffic.replied = w.readAt
	if w.traffic.timely(w.readAt) {
		w.n.Timely++
	}
	if !w.spec.visits() {
		w.finished(w.readAt)
	}
	w.answered(c)
}

// settle takes the oldest message off the queue, whatever became of it, and gives the closed loop
// its place back.
func (c *Conn) settle() (sentAt time.Duration) {
	w := c.w
	at := c.sent.pop()
	c.acked++
	w.outstanding--
	w.messageOver(c)
	return at
}

// giveUp stops waiting for all that is in flight. Whether the server counted it is not known.
func (c *Conn) giveUp() {
	for c.sent.n > 0 {
		c.sent.pop()
		c.maybe++
		c.w.n.Missing++
		c.w.outstanding--
		c.w.messageOver(c)
	}
}

// beat measures a heartbeat against the expected interval. The first must only not be late:
// servers spread the phases. While all say goodbye none is counted: that keeps both sides so busy
// that it would be the goodbyes which are measured.
func (c *Conn) beat() {
	w := c.w
	if w.phase >= phaseGoodbye {
		return
	}
	w.n.Beats++
	gap, every := w.readAt-c.mark, w.spec.HeartbeatEvery
	c.mark = w.readAt
	if c.flags&beaten != 0 {
		w.h.heartbeat.record((gap - every).Abs())
	}
	c.flags |= beaten
	c.missedBeats(gap)
}

// missedBeats counts the heartbeats that should have come within gap and did not. Up to half an
// interval is jitter.
func (c *Conn) missedBeats(gap time.Duration) {
	w := c.w
	if every := w.spec.HeartbeatEvery; w.spec.Heartbeats == "expect" && gap > every+every/2 {
		w.n.BeatsMissing += int64((gap+every/2)/every) - 1
	}
}
