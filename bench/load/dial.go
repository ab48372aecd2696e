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

	"sluice/bench/wsclient"
	"sluice/poller"
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
	w.n.Attempts++
	c := &Conn{w: w, place: p, pos: -1, mark: w.now()}
	if w.targets[p.target].TLS() {
		c.dialTLS()
		return
	}
	fd, err := poller.Dial(w.source(), w.Addrs[int(p.target)%len(w.Addrs)])
	if err == nil {
		if err = w.loop.RegisterDial(&c.FD, fd, c); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		c.state = dead
		w.reason(why(err))
		w.retry(c.place, 0)
		return
	}
	w.expect(c, handshaking, w.spec.Timeout)
}

// source is the local address of the next connection: each in turn, once for every target, so that targets and sources
// of equal number do not pair up.
func (w *worker) source() netip.AddrPort {
	if len(w.Sources) == 0 {
		return netip.AddrPort{}
	}
	turn := int(w.n.Attempts) / len(w.targets)
	return netip.AddrPortFrom(w.Sources[turn%len(w.Sources)], 0)
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
	w.end(c)
	w.retry(c.place, 0)
}

// refused is a response other than 101.
func (w *worker) refused(c *Conn, r wsclient.Response) {
	w.reason("http " + strconv.Itoa(r.Status))
	w.end(c)
	if r.Status < 500 && r.Status != 408 && r.Status != 429 {
		c.tries = 255 // the same request will not do better
	}
	w.retry(c.place, r.RetryAfter)
}

const maxRetryAfter = 30 * time.Second

// retry has a client try again: after what the server asked for, at most 30 s, or else after 100 ms and twice as
// long each time, at most 2 s, with jitter so that those who failed together do not return together.
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
	r := &retry{w: w, place: p}
	r.Init(r)
	w.loop.Arm(&r.Timer, after+time.Duration(mrand.Int64N(int64(after)/4+1)))
}

// retry is a client between two attempts.
type retry struct {
	poller.Timer
	w *worker
	place
}

// Expire implements poller.Expirer.
func (r *retry) Expire() {
	if r.w.phase.ending() {
		r.w.dialing--
		return
	}
	r.w.dial(r.place)
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
