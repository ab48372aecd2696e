package bench

import (
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/poller"
)

// worker is one process's share of the load: one loop and its connections. Everything here belongs to the loop.
type worker struct {
	job
	spec    *Spec
	loop    *poller.Loop
	out     chan<- event
	key     handshakeKey
	targets []*target
	tls     *tls.Config
	tlsGate chan struct{} // bounds the TLS handshakes under way
	payload []byte        // of every message; the number at its front changes

	start   time.Time
	mono    time.Duration // start on CLOCK_MONOTONIC, which all processes share
	readAt  time.Duration // when the read in hand returned
	scratch []byte
	mask    uint32

	n           Counters
	h           hists
	conns       []*Conn // all that are open or closing
	slow        []*Conn // of those, the ones that do not read
	cursor      int     // in conns: whose turn it is
	dialing     int     // clients on their way to open, retries included
	outstanding int     // messages
	visits      int     // under way
	unconfirmed int     // clients that are back and whose total is not confirmed yet
	deadlines   []deadline
	gone        span // from the first to the last connection lost
	sawWelcome  bool
	sawEcho     bool // slow: the server echoes and does not count

	ramp      ramp
	traffic   traffic
	storm     storm
	ending    bool    // saying goodbye to all
	leaving   []*Conn // those that have not been said goodbye to
	pacer     pacer
	burner    burner
	measuring time.Duration // CPU that ownCost has taken
	sweep     every
	report    every
	blast     every
}

// every is a timer that repeats.
type every struct {
	poller.Timer
	loop   *poller.Loop
	period time.Duration
	do     func()
}

func (e *every) begin(loop *poller.Loop, period time.Duration, do func()) {
	e.loop, e.period, e.do = loop, period, do
	e.Init(e)
	loop.Arm(&e.Timer, period)
}

// Expire implements poller.Expirer.
func (e *every) Expire() {
	e.loop.Arm(&e.Timer, e.period)
	e.do()
}

const (
	reportEvery = 250 * time.Millisecond
	sweepEvery  = 100 * time.Millisecond

	// goodbyes is how many connections are ended, or started, in one round, so that the loop reads in between.
	goodbyes = 512
)

func newWorker(j job, out chan<- event) (*worker, error) {
	loop, err := poller.NewLoop(poller.Config{Tick: time.Millisecond})
	if err != nil {
		return nil, err
	}
	w := &worker{
		job: j, spec: &j.Spec, loop: loop, out: out, key: newKey(),
		tls:     &tls.Config{InsecureSkipVerify: j.Spec.Insecure, MinVersion: tls.VersionTLS12},
		tlsGate: make(chan struct{}, 64),
		start:   time.Now(), mono: monotonic(), mask: rand.Uint32() | 1,
		burner: newBurner(j.Spec.ExtraCPU),
	}
	w.n.Reasons, w.n.Closes, w.n.Faults = map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, raw := range j.Spec.Targets {
		t, err := newTarget(raw, w.spec, w.key)
		if err != nil {
			return nil, err
		}
		w.targets = append(w.targets, t)
	}
	w.payload = make([]byte, max(j.Spec.Payload, 0))
	for i := range w.payload {
		w.payload[i] = 'a' + byte(i%26)
	}
	if err := w.pacer.open(w); err != nil {
		return nil, err
	}
	w.ramp.init(w)
	// What a process needs whatever its number of connections is not to count as their memory, so it is there before they are.
	for _, h := range []*hist{&w.h.connect, &w.h.handshake} {
		h.reserve()
		h.reset() // writes to all of its pages
	}
	_ = w.ownCost()
	loop.OnRound(w.endOfRound)
	w.sweep.begin(loop, sweepEvery, w.sweepAll)
	w.report.begin(loop, reportEvery, func() { w.tell("progress") })
	return w, nil
}

// now is the time since the worker was made. It is read from the clock, not once a round: latencies are measured with it.
func (w *worker) now() time.Duration { return time.Since(w.start) }

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// nextMask is a new masking key: xorshift, since the frames have to be valid, not secret.
func (w *worker) nextMask() (m [4]byte) {
	w.mask ^= w.mask << 13
	w.mask ^= w.mask >> 17
	w.mask ^= w.mask << 5
	binary.LittleEndian.PutUint32(m[:], w.mask)
	return m
}

// obey carries out what the parent says.
func (w *worker) obey(c command) {
	switch c.Do {
	case "ramp":
		w.beginRamp(c)
	case "traffic":
		w.beginTraffic(c)
	case "storm":
		w.beginStorm()
	case "close":
		w.beginClosing()
	}
}

// endOfRound does what waits until all that was ready has been read.
func (w *worker) endOfRound() {
	w.refill()
	w.checkRamp()
	w.checkDrained()
	w.checkStorm()
	w.checkClosed()
	if w.burner.endOfRound(w.unitIsDue) {
		w.anotherRound()
	}
}

// anotherRound has the loop come back to endOfRound even if nothing happens.
func (w *worker) anotherRound() { w.loop.Post(func() {}) }

// deadline is a state that a connection must have left by a time. Nearly all are equally long, so they come in order.
type deadline struct {
	c    *Conn
	at   time.Duration
	last state // a connection in a later state is in time
}

func (w *worker) expect(c *Conn, last state, within time.Duration) {
	w.deadlines = append(w.deadlines, deadline{c, w.now() + within, last})
}

// sweepAll ends what has taken too long.
func (w *worker) sweepAll() {
	now := w.now()
	for len(w.deadlines) > 0 {
		d := w.deadlines[0]
		met := d.c.state > d.last || d.c.state == dead
		if !met && d.at > now {
			break
		}
		w.deadlines[0].c = nil
		w.deadlines = w.deadlines[1:]
		switch {
		case met:
		case d.c.state == closing:
			w.left(d.c)
		default:
			w.attemptFailed(d.c, errTimeout)
		}
	}
	if len(w.deadlines) == 0 {
		w.deadlines = nil // a storm's worth of them is not kept
	}
	w.sweepTraffic(now)
}

// opened puts a connection into service.
func (w *worker) opened(c *Conn) {
	w.n.Opened++
	w.n.Open++
	w.dialing--
	c.tries = 0
	c.pos = int32(len(w.conns))
	w.conns = append(w.conns, c)
	if c.flags&initial != 0 {
		c.flags &^= initial
		w.n.Ramped++
	}
	switch {
	case w.ending:
		c.leave()
	case c.flags&slow != 0:
		w.slow = append(w.slow, c)
	case c.flags&visiting != 0:
		w.visitorOpened(c)
	case c.flags&returning != 0 && w.sawWelcome:
		c.flags |= awaited
		w.unconfirmed++
	}
}

// confirmed takes c off the clients whose welcome is waited for.
func (w *worker) confirmed(c *Conn) {
	if c.flags&awaited != 0 {
		c.flags &^= awaited
		w.unconfirmed--
	}
}

// end closes the socket of c and writes off what was in flight on it. Its place stays valid for a return.
func (w *worker) end(c *Conn) {
	if c.state == open || c.state == closing {
		w.n.Open--
		w.confirmed(c)
		last := len(w.conns) - 1
		w.conns[c.pos] = w.conns[last]
		w.conns[c.pos].pos = c.pos
		w.conns[last] = nil
		w.conns = w.conns[:last]
	}
	c.state = dead
	if c.Loop() != nil { // over TLS it has none before the handshake is done
		c.Close()
	}
	for c.sent.n > 0 {
		c.sent.pop()
		c.maybe++
		w.outstanding--
		w.n.Unanswered++
		w.messageOver(c)
	}
	c.x = nil
}

// closedByServer is the end of a connection that should have been open: by the server's Close with code, or 1006 when there was none.
func (w *worker) closedByServer(c *Conn, code int) {
	count(w.n.Closes, strconv.Itoa(code), "others")
	w.lost(c, code)
}

func (w *worker) lost(c *Conn, code int) {
	now := w.now()
	w.gone.over(span{w.mono + now, w.mono + now})
	switch {
	case c.flags&slow != 0:
		w.n.SlowCut++
	case !slices.Contains(w.spec.ExpectClose, code):
		w.n.Lost++
		c.missedBeats(now - c.mark)
	}
	w.end(c)
	if w.spec.Reconnect && !w.ending && c.flags&slow == 0 {
		w.comeBack(c.place)
	} else if c.flags&visiting != 0 {
		w.visitOver(nil)
	}
}

// left is the end of a connection that we closed.
func (w *worker) left(c *Conn) {
	w.end(c)
	if !w.ending && c.flags&visiting != 0 {
		w.comeBack(c.place)
	}
}

var (
	closeNormal   = ws.NewCloseFrameBody(ws.StatusNormalClosure, "")
	closeProtocol = ws.NewCloseFrameBody(ws.StatusProtocolError, "")
)

// leave closes c the clean way: a Close, and then the server's answer to it.
func (c *Conn) leave() {
	c.sendFrame(ws.OpClose, closeNormal)
	if c.state != dead {
		c.state = closing
		c.w.expect(c, closing, c.w.spec.Timeout)
	}
}

// beginClosing ends the run: every client says goodbye.
func (w *worker) beginClosing() {
	if w.ending {
		return
	}
	w.traffic = traffic{}
	w.ramp.stop()
	w.tell("closing")
	w.ending = true
	now := w.now()
	for _, c := range w.conns {
		if c.state == open && c.flags&slow == 0 {
			c.missedBeats(now - c.mark)
		}
	}
	w.leaving = slices.Clone(w.conns)
	for _, d := range slices.Clone(w.deadlines) { // who is on the way never arrives
		if d.c.state < open {
			w.end(d.c)
		}
	}
}

// checkClosed ends the worker after its last connection.
func (w *worker) checkClosed() {
	if !w.ending {
		return
	}
	for range min(goodbyes, len(w.leaving)) {
		c := w.leaving[0]
		w.leaving = w.leaving[1:]
		switch {
		case c.state != open:
		case c.flags&slow != 0:
			c.Abort()
			w.end(c)
		default:
			c.leave()
		}
	}
	if len(w.leaving) > 0 {
		w.anotherRound()
	} else if len(w.conns) == 0 {
		w.tell("result")
		w.ending = false
		w.loop.Close()
	}
}

// reason counts why an attempt failed.
func (w *worker) reason(why string) { count(w.n.Reasons, why, "other reasons") }

// fault counts what a server may not do.
func (w *worker) fault(what string) { count(w.n.Faults, what, "other faults") }

// kinds bounds how many keys are told apart: they come from the other side.
const kinds = 64

func count(m map[string]int64, key, others string) {
	if _, known := m[key]; !known && len(m) >= kinds {
		key = others
	}
	m[key]++
}
