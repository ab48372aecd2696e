package load

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/gobwas/ws"

	"sluice/bench/reactor"
)

// worker is one loop's share of the load, with its connections. Loop only.
type worker struct {
	*plan
	index   int // among the workers
	loop    *reactor.Loop
	payload []byte                // of every message; the number at its front changes
	message []byte                // custom: the message made from the template
	wrong   map[string]WrongReply // the first of each kind

	readAt  time.Duration // when the read in hand returned
	scratch []byte
	mask    uint32

	phase   phase
	entered time.Duration // when the phase began
	ramp    ramp
	traffic traffic
	storm   storm
	tls     tlsGate
	leaving []*Conn // trim, goodbye: connections that are still to be closed
	keep    int     // trim: connections that are kept

	n           Counters
	h           recorders
	conns       []*Conn // all that are open or closing
	slow        []*Conn // of those, the ones that do not read
	cursor      int     // in conns: whose turn it is
	dialing     int     // clients on their way to open, retries included
	retrying    int     // of those, the ones that wait before their next attempt
	outstanding int     // messages
	visits      int     // under way
	units       int64   // fanout: publications in all
	unconfirmed int     // clients that are back and whose total is not confirmed yet
	deadlines   []deadline
	gone        span // from the first to the last connection lost
	sawWelcome  bool
	sawEcho     bool // slow: the server echoes and does not count

	begun  []begun       // messages whose rest is still to be sent, oldest first
	rests  reactor.Timer // of begun
	pacer  reactor.Timer // of the traffic
	sweep  every
	report every
	blast  every
}

// every is a timer that repeats.
type every struct {
	reactor.Timer
	begun bool
}

func (e *every) begin(l *reactor.Loop, period time.Duration, do func()) {
	e.begun = true
	e.Do = func() {
		l.Arm(&e.Timer, l.Now()+period)
		do()
	}
	l.Arm(&e.Timer, l.Now()+period)
}

const (
	reportEvery = 250 * time.Millisecond
	sweepEvery  = 100 * time.Millisecond

	// perRound is how many connections are ended, or started, in one round, so that the loop reads
	// in between.
	perRound = 512
)

// startWorker starts a loop and its worker. Any goroutine but those of loops.
func startWorker(p *plan, index int, ownTable bool) (*worker, error) {
	w := &worker{plan: p, index: index, n: newCounters(), wrong: map[string]WrongReply{},
		mask: rand.Uint32() | 1, h: newRecorders(p.latencies), payload: payloadOf(&p.spec)}
	w.pacer.Do = w.pace
	w.rests.Do = w.sendRests
	w.ramp.timer.Do = w.startClients
	_, err := reactor.Start(reactor.Options{OwnTable: ownTable, Start: p.start},
		func(l *reactor.Loop) error {
			w.loop = l
			l.OnRound(w.endOfRound)
			w.sweep.begin(l, sweepEvery, w.sweepAll)
			w.report.begin(l, reportEvery, func() { w.tell(event{Kind: "progress"}) })
			return nil
		})
	if err != nil {
		return nil, err
	}
	go func() {
		if err := w.loop.Wait(); err != nil {
			p.events <- event{Kind: "failed", worker: index, err: err}
		}
	}()
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
	if c.state == connecting && w.targets[c.target].TLS() {
		w.leaveTLSGate()
	}
	c.state = dead
	w.loop.CloseSocket(&c.Socket)
	for c.sent.n > 0 {
		c.sent.pop()
		c.maybe++
		w.outstanding--
		w.n.Unanswered++
		w.messageOver(c)
	}
	if c.x != nil && c.x.tls != nil {
		_ = c.x.tls.wire.Close()
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
	w.gone.over(span{now, now})
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
