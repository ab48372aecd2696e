package load

import (
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/bench/procfs"
	"sluice/bench/wsclient"
	"sluice/poller"
)

// worker is one process's share of the load: one loop and its connections. Loop only.
type worker struct {
	job
	spec    *Spec
	loop    *poller.Loop
	out     chan<- event
	key     wsclient.Key
	targets []*wsclient.Target
	tls     *tls.Config
	tlsGate chan struct{} // bounds the TLS handshakes under way
	payload []byte        // of every message; the number at its front changes

	template *template             // custom: of messages and replies
	message  []byte                // custom: the message made from it
	wrong    map[string]WrongReply // the first of each kind

	start   time.Time
	mono    time.Duration // start on CLOCK_MONOTONIC, which all processes share
	readAt  time.Duration // when the read in hand returned
	scratch []byte
	mask    uint32

	phase   phase
	entered time.Duration // when the phase began
	ramp    ramp
	traffic traffic
	storm   storm
	leaving []*Conn // trim, goodbye: connections that are still to be closed
	keep    int     // trim: connections that are kept

	n           Counters
	h           hists
	conns       []*Conn // all that are open or closing
	slow        []*Conn // of those, the ones that do not read
	cursor      int     // in conns: whose turn it is
	dialing     int     // clients on their way to open, retries included
	outstanding int     // messages
	visits      int     // under way
	units       int64   // fanout: publications in all
	unconfirmed int     // clients that are back and whose total is not confirmed yet
	deadlines   []deadline
	gone        span // from the first to the last connection lost
	sawWelcome  bool
	sawEcho     bool // slow: the server echoes and does not count

	pacer     pacer
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

	// perRound is how many connections are ended, or started, in one round, so that the loop reads
	// in between.
	perRound = 512
)

func newWorker(j job, out chan<- event) (*worker, error) {
	loop, err := poller.NewLoop(poller.Config{Tick: time.Millisecond})
	if err != nil {
		return nil, err
	}
	w := &worker{
		job: j, spec: &j.Spec, loop: loop, out: out, key: wsclient.NewKey(), n: newCounters(), wrong: map[string]WrongReply{},
		tls:     &tls.Config{InsecureSkipVerify: j.Spec.Insecure, MinVersion: tls.VersionTLS12},
		tlsGate: make(chan struct{}, 64),
		start:   time.Now(), mono: monotonic(), mask: rand.Uint32() | 1,
	}
	for _, raw := range j.Spec.urls() {
		t, err := wsclient.NewTarget(raw, w.key, w.spec.Headers, w.spec.Subprotocol)
		if err != nil {
			return nil, err
		}
		w.targets = append(w.targets, t)
	}
	if w.template, err = newTemplate(w.spec); err != nil {
		return nil, err
	}
	w.payload = payloadOf(&j.Spec)
	if err := w.pacer.open(w); err != nil {
		return nil, err
	}
	w.ramp.init(w)
	// Touch now what a process needs whatever its number of connections, so that it does not count
	// as their memory.
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

// payloadOf is the filler of a message.
func payloadOf(s *Spec) []byte {
	p := make([]byte, max(s.Payload, 0))
	for i := range p {
		p[i] = 'a' + byte(i%26)
	}
	return p
}

// urls is where clients connect to, each in turn: the targets, in fanout once for each topic.
func (s *Spec) urls() []string {
	if s.Scenario != Fanout {
		return s.Targets
	}
	urls := make([]string, 0, s.Topics*len(s.Targets))
	for topic := range s.Topics {
		for _, raw := range s.Targets {
			urls = append(urls, topicTarget(raw, topic))
		}
	}
	return urls
}

// now is the time since the worker was made. It reads the clock each time: latencies are measured
// with it.
func (w *worker) now() time.Duration { return time.Since(w.start) }

func monotonic() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// cost is what a worker's process has used so far.
type cost struct {
	CPU  float64 // seconds
	Anon int64   // bytes
	Heap int64   // bytes of live Go heap
}

// ownCost leaves out the CPU that measuring takes, which is not part of the load.
func (w *worker) ownCost() *cost {
	used := processCPU() - w.measuring
	debug.FreeOSMemory() // or the kernel counts free pages as ours
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c := &cost{CPU: used.Seconds(), Heap: int64(m.HeapAlloc), Anon: procfs.Anonymous(os.Getpid())}
	w.measuring = processCPU() - used
	return c
}

func processCPU() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

// nextMask is a new masking key: xorshift, because frames have to be valid, not secret.
func (w *worker) nextMask() (m [4]byte) {
	w.mask ^= w.mask << 13
	w.mask ^= w.mask >> 17
	w.mask ^= w.mask << 5
	binary.LittleEndian.PutUint32(m[:], w.mask)
	return m
}

// deadline is a time by which a connection must have left a state. Nearly all deadlines are
// equally far away, so they come in order.
type deadline struct {
	c    *Conn
	at   time.Duration
	last state // a connection in a later state has met it
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
		w.deadlines = nil // free the memory of a storm
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
	case w.phase.ending():
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

// confirmed takes c off the clients whose welcome is awaited.
func (w *worker) confirmed(c *Conn) {
	if c.flags&awaited != 0 {
		c.flags &^= awaited
		w.unconfirmed--
	}
}

// end closes the socket of c and writes off what was in flight on it. Its place stays valid for a
// return.
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
	c.lostSubscriber()
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

// closedByServer ends a connection that the server closed with code, or without a Close frame
// (1006), when it should have been open.
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
	if w.spec.Reconnect && !w.phase.ending() && c.flags&slow == 0 {
		w.comeBack(c.place)
	} else if c.flags&visiting != 0 {
		w.visitOver(nil)
	}
}

// left ends a connection that we closed.
func (w *worker) left(c *Conn) {
	w.end(c)
	if !w.phase.ending() && c.flags&visiting != 0 {
		w.comeBack(c.place)
	}
}

var (
	closeNormal   = ws.NewCloseFrameBody(ws.StatusNormalClosure, "")
	closeProtocol = ws.NewCloseFrameBody(ws.StatusProtocolError, "")
)

// leave closes c cleanly: it sends Close and waits for the server's.
func (c *Conn) leave() {
	c.sendFrame(ws.OpClose, closeNormal)
	if c.state != dead {
		c.state = closing
		c.w.expect(c, closing, c.w.spec.Timeout)
	}
}

// reason counts why an attempt failed.
func (w *worker) reason(why string) { count(w.n.Reasons, why, "other reasons") }

// fault counts what a server may not do.
func (w *worker) fault(what string) { count(w.n.Faults, what, "other faults") }
