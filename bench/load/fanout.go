package load

import (
	"bytes"
	"encoding/binary"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// In the scenario fanout clients only listen. Each is in one of Spec.Topics topics, which its URL
// names (?topic=bench-3), and the parent publishes over HTTP (publisher.go). A publication begins
// with its number within its topic and the time at which it was due, so that every subscriber
// checks for itself what is missing, came twice or out of order, and how late it was.

// publicationHead is a number and a time, of 16 hexadecimal digits each.
const publicationHead = 32

// topicName is the topic with this index.
func topicName(topic int) string { return "bench-" + strconv.Itoa(topic) }

// topicTarget is the URL of a target for clients of a topic.
func topicTarget(raw string, topic int) string {
	join := "?"
	if strings.Contains(raw, "?") {
		join = "&"
	}
	return raw + join + "topic=" + url.QueryEscape(topicName(topic))
}

// publications is how many of units publications, dealt to the topics in turn, are of one topic.
func publications(units int64, topics, topic int) int64 {
	return (units - int64(topic) + int64(topics) - 1) / int64(topics)
}

// appendPublication appends publication seq of a topic, due at a time of plan.now. filler is a
// payload whose front it replaces.
func appendPublication(b []byte, seq uint64, due time.Duration, filler []byte) []byte {
	at := len(b)
	b = append(b, filler...)
	putHex(b[at:at+16], seq)
	putHex(b[at+16:at+publicationHead], uint64(due))
	return b
}

func putHex(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = hexDigits[n&15]
		n >>= 4
	}
}

// readPublication is the reverse; ok is false when p is something else.
func readPublication(p, filler []byte) (seq uint64, due time.Duration, ok bool) {
	if len(p) != len(filler) || !bytes.Equal(p[publicationHead:], filler[publicationHead:]) {
		return 0, 0, false
	}
	seq, ok1 := readHex(p[:16])
	at, ok2 := readHex(p[16:publicationHead])
	return seq, time.Duration(at), ok1 && ok2
}

func readHex(b []byte) (n uint64, ok bool) {
	for _, digit := range b {
		v := strings.IndexByte(hexDigits, digit)
		if v < 0 {
			return 0, false
		}
		n = n<<4 | uint64(v)
	}
	return n, true
}

// beginFanout has every subscriber wait for what will be published to its topic.
func (w *worker) beginFanout(units int64) {
	w.units = units
	for _, c := range w.conns {
		if c.state == open {
			due := int(c.due())
			w.n.Sent += int64(due)
			w.outstanding += due
			c.flags |= asked
		}
	}
}

// due is how many publications c is to get.
func (c *Conn) due() uint64 {
	w := c.w
	topic := int(c.target) / len(w.spec.Targets)
	return uint64(publications(w.units, w.spec.Topics, topic))
}

// seen are the last 64 publications that c has got, the lowest bit for number acked. It is where
// other scenarios have the second half of the session's id.
func (c *Conn) seen() uint64         { return binary.LittleEndian.Uint64(c.id[8:]) }
func (c *Conn) setSeen(bits uint64)  { binary.LittleEndian.PutUint64(c.id[8:], bits) }
func (c *Conn) isSubscriber() bool   { return c.w.spec.Scenario == Fanout && c.flags&asked != 0 }
func (c *Conn) undelivered() (n int) { return int(c.due() - c.acked) }

// published checks one message of the scenario fanout.
func (c *Conn) published(p []byte) {
	w := c.w
	seq, due, ok := readPublication(p, w.payload)
	switch {
	case !ok && bytes.HasPrefix(p, []byte(`{"type":"gap"`)):
		w.n.Gaps++
	case !ok && bytes.HasPrefix(p, []byte(`{"ts":`)):
		c.beat()
	case !ok && len(p) == len(w.payload):
		w.n.Corrupt++
		w.example(wrongCorrupt, "a publication", p)
	case !ok || c.flags&asked == 0:
		w.n.Others++ // a greeting, or publications of somebody else
	case seq == 0 || seq > c.due():
		w.n.Overcount++
		w.example(wrongOvercount, strconv.FormatUint(c.due(), 10)+" at most", seq)
	case seq > c.acked:
		c.delivered(seq, due)
	default:
		c.deliveredLate(seq, due)
	}
}

// delivered takes in a publication behind those that have come.
func (c *Conn) delivered(seq uint64, due time.Duration) {
	w := c.w
	ahead := seq - c.acked
	w.n.Missing += int64(ahead - 1)
	w.outstanding -= int(ahead)
	c.setSeen(c.seen()<<min(ahead, 64) | 1)
	c.acked = seq
	c.arrived(due)
}

// deliveredLate takes in one that is out of order, or came before.
func (c *Conn) deliveredLate(seq uint64, due time.Duration) {
	w := c.w
	bit := uint64(1) << min(c.acked-seq, 63)
	if c.acked-seq > 63 || c.seen()&bit != 0 {
		w.n.Duplicated++
		w.example(wrongTwice, strconv.FormatUint(c.acked+1, 10), seq)
		return
	}
	c.setSeen(c.seen() | bit)
	w.n.Missing--
	w.n.Reordered++
	w.example(wrongOrder, strconv.FormatUint(c.acked+1, 10), seq)
	c.arrived(due)
}

func (c *Conn) arrived(due time.Duration) {
	w := c.w
	w.n.Replies++
	w.h.message.record(w.readAt - due)
	if w.traffic.timely(w.readAt) {
		w.n.Timely++
	}
	w.finished(w.readAt)
}

// giveUpFanout stops waiting for publications that have not come.
func (w *worker) giveUpFanout() {
	for _, c := range w.conns {
		if c.isSubscriber() {
			n := c.undelivered()
			w.n.Missing += int64(n)
			w.outstanding -= n
			c.acked = c.due()
		}
	}
}

// lostSubscriber writes off what a connection that has ended was still to get.
func (c *Conn) lostSubscriber() {
	if w := c.w; c.isSubscriber() {
		n := c.undelivered()
		w.n.Unanswered += int64(n)
		w.outstanding -= n
		c.flags &^= asked
	}
}
