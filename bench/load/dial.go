package load

import (
	"errors"
	"io"
	mrand "math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"sluice/bench/reactor"
	"sluice/bench/wsclient"
)

// comeBack connects a client anew, to its session when the scenario has them.
func (w *worker) comeBack(p place) {
	p.flags &= initial | visiting
	if w.spec.returns() {
		p.flags |= returning
		if p.id == (wsclient.SessionID{}) {
			w.fault("no session id from the server to come back to")
		}
	} else {
		p.acked, p.maybe = 0, 0
	}
	w.dialing++
	w.dial(p)
}

// dial makes one attempt for the client at p.
func (w *worker) dial(p place) {
	if w.targets[p.target].TLS() && !w.tls.enter(p) {
		return
	}
	w.n.Attempts++
	c := &Conn{w: w, place: p, pos: -1, mark: w.now()}
	err := w.loop.Dial(&c.Socket, c, w.source(), w.addrs[int(p.target)%len(w.addrs)])
	if err == nil {
		w.n.DialNS += int64(w.now() - c.mark)
		err = c.firstWrite()
	}
	if err != nil {
		w.attemptFailed(c, err)
		return
	}
	w.expect(c, handshaking, w.spec.Timeout)
}

// firstWrite sends the request, if the connection is there already, as it is over the loopback
// interface. Otherwise Writable comes when it is there, or has failed.
func (c *Conn) firstWrite() error {
	w := c.w
	if w.targets[c.target].TLS() || c.flags&slow != 0 {
		return w.loop.Watch(&c.Socket, true)
	}
	request := c.request()
	n, err := c.Write(request)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return w.loop.Watch(&c.Socket, true)
	case err != nil:
		return err
	}
	now := w.now()
	w.h.connect.record(now - c.mark)
	c.state, c.mark = handshaking, now
	w.n.BytesOut += int64(len(request))
	if n < len(request) {
		c.need().out = append([]byte(nil), request[n:]...)
	}
	return w.loop.Watch(&c.Socket, n < len(request))
}

// source is the local address of the next connection: each in turn, once for every target, so that
// targets and sources of equal number do not pair up.
func (w *worker) source() netip.Addr {
	if len(w.sources) == 0 {
		return netip.Addr{}
	}
	turn := int(w.n.Attempts) / len(w.targets)
	return w.sources[turn%len(w.sources)]
}

// Reasons why a handshake was not one.
var (
	errTimeout     = os.ErrDeadlineExceeded
	errAccept      = errors.New("handshake: wrong Sec-WebSocket-Accept")
	errSubprotocol = errors.New("handshake: subprotocol not accepted")
	errExtension   = errors.New("handshake: extension that was not asked for")
)

// attemptFailed ends an attempt that did not get as far as 101, and has the client try again.
func (w *worker) attemptFailed(c *Conn, err error) {
	w.reason(why(err))
	w.ramp.pace.failed++
	w.end(c)
	w.retry(c.place, 0)
}

// refused is a response other than 101.
func (w *worker) refused(c *Conn, r wsclient.Response) {
	w.reason("http " + strconv.Itoa(r.Status))
	w.ramp.pace.failed++
	w.end(c)
	if r.Status < 500 && r.Status != 408 && r.Status != 429 {
		c.tries = 255 // the same request will not do better
	}
	w.retry(c.place, r.RetryAfter)
}

const maxRetryAfter = 30 * time.Second

// retry has a client try again: after what the server asked for, at most 30 s, or else after 100 ms
// and twice as long each time, at most 2 s, with jitter so that those who failed together do not
// return together. In a ramp that adapts it then waits for its turn.
func (w *worker) retry(p place, after time.Duration) {
	if int(p.tries) >= max(w.spec.Retries, 0) || w.phase.ending() {
		w.dialing--
		if w.phase.ending() {
			return
		}
		w.n.Abandoned++
		if p.flags&visiting != 0 {
			w.visitOver(nil)
		}
		return
	}
	p.tries++
	if after == 0 {
		after = min(100*time.Millisecond<<min(p.tries-1, 10), 2*time.Second)
	}
	after = min(after, maxRetryAfter)
	w.retrying++
	again := &reactor.Timer{Do: func() {
		switch {
		case w.phase.ending():
			w.retrying--
			w.dialing--
		case w.phase == phaseRamp && w.ramp.adapts():
			w.ramp.waiting = append(w.ramp.waiting, p)
		default:
			w.retrying--
			w.dial(p)
		}
	}}
	w.loop.Arm(again, w.now()+after+time.Duration(mrand.Int64N(int64(after)/4+1)))
}

// why names an error for the table of reasons.
func why(err error) string {
	var errno unix.Errno
	switch {
	case errors.Is(err, errTimeout):
		return "timeout"
	case errors.Is(err, io.EOF):
		return "closed during the handshake"
	case !errors.As(err, &errno):
		return err.Error()
	}
	switch errno {
	case unix.ECONNREFUSED:
		return "connection refused"
	case unix.ECONNRESET, unix.EPIPE:
		return "connection reset"
	case unix.ETIMEDOUT:
		return "timeout"
	case unix.EADDRNOTAVAIL, unix.EADDRINUSE:
		return "no local port left (give more --source addresses)"
	case unix.EMFILE, unix.ENFILE:
		return "no descriptor left"
	case unix.ENETUNREACH, unix.EHOSTUNREACH:
		return "unreachable"
	}
	return errno.Error()
}
