package load

import (
	"time"

	"github.com/gobwas/ws"

	"sluice/bench/wsclient"
)

// begun is a message whose first fragment is sent.
type begun struct {
	c  *Conn
	at time.Duration // when the rest is due
}

// inMessage reports whether c has begun a message and not ended it.
func (c *Conn) inMessage() bool { return c.x != nil && c.x.rest != nil }

// beginMessage sends the first half of a message as a fragment. The rest follows after
// Spec.FragmentPause.
func (c *Conn) beginMessage(p []byte) {
	w := c.w
	half := len(p) / 2
	c.need().rest = append(make([]byte, 0, len(p)-half+1), p[half:]...) // not nil, also when empty
	w.scratch = wsclient.AppendFragment(w.scratch[:0], ws.OpText, p[:half], w.nextMask())
	c.write(w.scratch)
	w.begun = append(w.begun, begun{c, w.now() + w.spec.FragmentPause})
	if len(w.begun) == 1 {
		w.loop.Arm(&w.rests, w.begun[0].at)
	}
}

// sendRests ends the messages that are due, and sets its timer to the next.
func (w *worker) sendRests() {
	for now := w.now(); len(w.begun) > 0; w.begun = w.begun[1:] {
		b := w.begun[0]
		if b.at > now {
			w.loop.Arm(&w.rests, b.at)
			return
		}
		w.begun[0].c = nil
		if c := b.c; c.state == open && c.inMessage() {
			rest := c.x.rest
			c.x.rest = nil
			c.sendFrame(ws.OpContinuation, rest)
			c.tidy()
		}
	}
	w.begun = nil
}
