package gateway

import (
	"container/list"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"sluice/gateway/client"
	"sluice/gateway/deflate"
	"sluice/poller"
)

// worker is one loop with its connections. All of it belongs to the loop.
type worker struct {
	server  *Server
	cfg     *Config
	metrics *serverMetrics
	loop    *poller.Loop
	handler Handler
	log     *slog.Logger

	// Server.Change replaces these.
	origins   *origins
	hosts     hosts
	admission *admission
	debug     bool // spares the arguments of debug lines

	listeners    []*poller.Listener // until the server starts; then
	acceptors    []*poller.Acceptor
	tlsListeners []*poller.Listener // those of Config.TLSListen; then
	tlsAcceptors []*poller.Acceptor // which are among the acceptors too
	accepts      bool               // unless too many sockets wait to be passed on
	overflow     overflow
	openings     openings
	held         atomic.Int64 // connections, and sockets on their way here; any goroutine
	conns        []*Conn
	random       *rand.Rand
	draining     bool
	aborted      bool    // the loop is about to end
	holding      bool    // connections are on their way to another process, and requests wait
	unserved     []*Conn // while holding: those that had no request yet, or have since come

	corked      *Conn  // whose output collects in scratch
	scratch     []byte // one write for all replies of an event
	sealed      []byte // and what a transport makes of it
	closeReason []byte // of the Close frame whose Leave is on the stack
	asked       *Conn  // whose Handler.Open is on the stack: upgrader.out is its response
	upgrader    upgrader
	request     Request

	beat   []byte        // the heartbeat of this tick
	beatOf time.Duration // the tick that beat was encoded for

	refusals   [refusalReasons]refusalLogged
	barred     [barriers]refusalLogged
	share      int             // bytes that the connections may hold in Buffers together
	stalls     map[*Conn]stall // peers that do not read, while the kernel takes what they are sent
	frameCount uint            // frames decoded, of all connections
	longTurns  longTurns

	messageRate client.Rate

	tlsHandshakes list.List // *Conn, those under way, in the order in which they began
	tlsKeys       tlsKeys   // of the compact record layer
	tlsPlain      []byte    // what crypto/tls has decrypted

	codec      deflate.Codec
	plain      []byte // the message in hand,
	compressed []byte // and compressed
	inflated   int    // bytes that the messages of this turn have inflated to

	inputs  []*input  // pools
	outputs []*output //

	totals    loopTotals
	published publishedTotals
}

// newWorker prepares loop, on the loop.
func newWorker(s *Server, loop *poller.Loop, app App) *worker {
	w := &worker{
		server: s, cfg: &s.cfg, metrics: s.metrics, loop: loop,
		origins: &s.origins, hosts: s.hosts, admission: s.admission,
		log: s.cfg.Logger, debug: s.debug,
		random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
		beatOf: -1,
	}
	rate := s.cfg.Clients.MessageRate
	w.messageRate = client.PerSecond(rate, rate)
	w.handler = app.ForLoop(loop.Post)
	w.share = max(s.cfg.MaxBuffered/s.cfg.Loops, 4*max(s.cfg.MaxMessage, s.cfg.MaxQueue))
	w.openings.most = w.leastOpenings()
	w.tlsKeys.init(loop, s.cfg.Loops)
	loop.OnRound(w.shed)
	loop.OnRound(w.carry)
	loop.OnRound(func() {
		w.longTurns = longTurns{last: w.longTurns.now}
		w.totals.conns, w.totals.buffered = len(w.conns), loop.Buffers.Held()
		w.published.publish(w.totals)
	})
	loop.OnEnd(func(err error) {
		if err != nil {
			w.fail()
		}
	})
	return w
}

// tick is the wheel's resolution: as long as it takes for perTick heartbeats of a full loop to be
// due, but no more than a hundredth of the heartbeat and 200 ms. Heartbeats that fall into one tick
// cost one wake-up, and their Pongs come back together. With 53 loops on two cores, where a wake-up
// is dear, one costs 19 us with 18 in a tick and 13 with 125; with 6 loops it is 12 at 18 in a tick
// already, and more only keep messages waiting.
func tick(cfg *Config) time.Duration {
	const (
		perTick  = 128
		coarsest = 200 * time.Millisecond
	)
	if cfg.Heartbeat <= 0 {
		return coarsest
	}
	conns := max(cfg.MaxConns/cfg.Loops, 1)
	gathered := time.Duration(float64(cfg.Heartbeat) * perTick / float64(conns))
	return max(min(gathered, cfg.Heartbeat/100, coarsest), time.Millisecond)
}

// newSocket is what a listener has accepted.
type newSocket struct {
	sysfd int
	tls   bool // it came to Config.TLSListen
}

// accept and acceptTLS are called with what the listeners accept.
func (w *worker) accept(sysfd int)    { w.arrived(newSocket{sysfd: sysfd}) }
func (w *worker) acceptTLS(sysfd int) { w.arrived(newSocket{sysfd, true}) }

// arrived takes a new socket over, or passes it on when this loop is full.
func (w *worker) arrived(s newSocket) {
	w.server.conns.Add(1)
	if w.server.taken() > int64(w.cfg.MaxConns+refusalRoom) {
		w.turnAway(s)
		return
	}
	if held := w.held.Add(1); w.goesOn(held) && w.passOn(s) {
		w.held.Add(-1)
		return
	}
	w.connect(s)
}

// connect makes a connection of a socket that is counted already.
func (w *worker) connect(s newSocket) {
	sysfd := s.sysfd
	if w.aborted {
		_ = unix.Close(sysfd)
		w.uncount()
		return
	}
	c := &Conn{w: w}
	if why := c.arrive(sysfd); why != nothing {
		w.uncount()
		w.bar(sysfd, why)
		return
	}
	c.summarize()
	if err := w.loop.Register(&c.fd, sysfd, (*events)(c)); err != nil {
		c.uncount()
		w.uncount()
		w.metrics.failed[failedRegister].Inc()
		w.log.Error("register connection", "error", err)
		_ = unix.Close(sysfd)
		return
	}
	c.timer.Init((*events)(c))
	c.index = int32(len(w.conns))
	w.conns = append(w.conns, c)
	if w.holding {
		w.unserved = append(w.unserved, c)
	}
	c.seen = w.loop.Now()
	if s.tls {
		c.startTLS()
	}
	if w.draining {
		c.refuse(refuseDraining, "", false)
		return
	}
	c.setState(handshaking)
}

// uncount gives back a place among the connections.
func (w *worker) uncount() {
	w.held.Add(-1)
	w.server.left()
}

// turnAway tells the client of a socket that has no place here, and of which nothing has been read,
// that there is no room.
func (w *worker) turnAway(s newSocket) {
	w.server.left()
	w.metrics.refused[refusedFull].Inc()
	if !s.tls { // whose client could not read it
		// Or close would be a reset, which destroys the answer.
		_, _ = unix.Read(s.sysfd, w.loop.ReadBuf())
		_, _ = unix.Write(s.sysfd, RefuseFull.append(nil, ""))
	}
	_ = unix.Close(s.sysfd)
}

// refusalRoom is how many connections over MaxConns are let in to be told 503 properly, after their
// request has been read.
const refusalRoom = 128

func (w *worker) remove(c *Conn) {
	last := w.conns[len(w.conns)-1]
	w.conns[c.index] = last
	last.index = c.index
	w.conns[len(w.conns)-1] = nil
	w.conns = w.conns[:len(w.conns)-1]
	w.uncount()
}

// cork buffers c's output until uncork, which is given what cork returns: the connection that was
// corked before. What that one has written so far leaves first.
func (w *worker) cork(c *Conn) (outer *Conn) {
	outer = w.corked
	if outer == c {
		return c
	}
	if outer != nil {
		outer.flush()
	}
	w.corked = c
	return outer
}

// uncork writes what has collected since cork. A nested one leaves that to the outermost.
func (w *worker) uncork(c, outer *Conn) {
	if outer == c {
		return
	}
	c.flush()
	w.corked = outer
	w.scratch = spare(w.scratch)
	c.settle()
}

func (w *worker) newOutput() *output {
	if n := len(w.outputs); n > 0 {
		o := w.outputs[n-1]
		w.outputs = w.outputs[:n-1]
		return o
	}
	return new(output)
}

// heartbeat is the text frame with the time and the Ping of this tick, encoded once for all
// connections.
func (w *worker) heartbeat() []byte {
	if now := w.loop.Now(); w.beatOf != now {
		w.beatOf = now
		var payload [64]byte
		p := append(payload[:0], `{"ts":"`...)
		// Read anew: the loop's own clock follows neither a step of the system's nor a suspension.
		p = time.Now().UTC().AppendFormat(p, "2006-01-02T15:04:05.000Z07:00")
		p = append(p, `"}`...)
		w.beat = w.beat[:0]
		if !w.cfg.PingOnly {
			w.beat = appendFrame(w.beat, ws.OpText, p)
		}
		if !w.cfg.NoPing {
			w.beat = appendFrame(w.beat, ws.OpPing, nil)
		}
	}
	return w.beat
}

// tellFirst is how many goodbyes there are, while both are due, for each Close frame that is
// answered to one: a client that has been told goes elsewhere, and need not wait for others to be
// gone.
const tellFirst = 8

// drain gives every connection its turn to leave, spread over DrainSpread.
func (w *worker) drain() {
	if w.draining {
		return // Close has overtaken it
	}
	w.draining = true
	// Those that the kernel has completed are told 503, not reset. The acceptor takes them in
	// bursts.
	for _, a := range w.acceptors {
		for before := -1; before < len(w.conns); {
			before = len(w.conns)
			a.Readable()
		}
	}
	w.closeListeners()
	w.loop.FavorTimers(tellFirst)
	for i := len(w.conns) - 1; i >= 0; i-- { // backwards: refusing may remove the connection in hand
		switch c := w.conns[i]; c.state {
		case handshaking:
			c.refuse(refuseDraining, "", false)
		case open:
			c.beatAt = 0
			c.deadline = w.loop.Now() + 1
			if spread := w.cfg.DrainSpread; spread > 0 {
				c.deadline += time.Duration(w.random.Int64N(int64(spread)))
			}
			c.rearm()
		}
	}
	w.server.stopped()
}

// abort cuts all connections off.
func (w *worker) abort() {
	w.draining, w.aborted = true, true
	w.closeListeners()
	w.dropOverflow()
	for len(w.conns) > 0 {
		w.conns[len(w.conns)-1].end(goneReset)
	}
}

// fail lets go of everything after the loop has failed: nothing would ever report it again.
func (w *worker) fail() {
	accepting := !w.draining
	w.abort()
	if accepting {
		w.server.stopped()
	}
}

// clipped makes what a client sent short enough for a log line; slog's handlers quote it.
func clipped(b []byte) string {
	const limit = 128
	if len(b) > limit {
		return string(b[:limit]) + "…"
	}
	return string(b)
}

// refusalLogged is what a loop has logged of one reason to refuse.
type refusalLogged struct {
	logged  bool
	at      time.Duration // when the last line was written
	skipped int           // refusals since
}

// refusalLogEvery is how often a loop logs a refusal of the same reason.
const refusalLogEvery = 10 * time.Second

// logRefusal writes the first refusal of a reason, and then one in refusalLogEvery, so that an
// operator sees who is refused and why, and a flood of them costs next to nothing.
func (c *Conn) logRefusal(r *Refusal, requestID string) {
	w := c.w
	last := &w.refusals[r.reason]
	if last.logged && w.loop.Now()-last.at < refusalLogEvery {
		last.skipped++
		return
	}
	w.log.Info("refused", "reason", r.reason.String(), "status", r.status,
		"client", c.RemoteAddr().String(), "request_id", requestID, "since_last", last.skipped+1)
	*last = refusalLogged{logged: true, at: w.loop.Now()}
}
