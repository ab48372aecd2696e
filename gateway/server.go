package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sluice/poller"
)

// Server is a gateway: some loops, each with its listener. Its methods may be called by any
// goroutine but a loop's.
type Server struct {
	cfg        Config
	origins    origins
	hosts      hosts
	admission  *admission
	refusePath *Refusal
	debug      bool
	metrics    *serverMetrics

	addr     netip.AddrPort
	tlsAddr  netip.AddrPort
	workers  []*worker
	loops    sync.WaitGroup
	carriers sync.WaitGroup // of sockets on their way to another loop; they end with the loops
	failed   chan error     // a loop's epoll_wait failed

	conns     atomic.Int64 // sockets held, in whatever state
	coming    atomic.Int64 // that another process has yet to hand over; see AcceptBeside
	passing   atomic.Int64 // those of them that are on their way from a loop to another
	oneEar    atomic.Bool  // not every loop has a listener
	accepting atomic.Int32 // loops that still accept: while there are any, no connection now says nothing about the next moment
	phase     atomic.Int32
	unready   atomic.Bool   // Unready was called
	wasFull   atomic.Bool   // see full
	emptied   chan struct{} // closed when no loop accepts and the last connection has left
	emptyOne  sync.Once
	endOne    sync.Once
}

const (
	phaseNew int32 = iota
	phaseServing
	phaseDraining
	phaseClosed
)

// New opens the listeners and the loops of a gateway in front of app. Nothing is accepted before
// Start, though the kernel completes connections from now on. Close ends it, also when Start
// was never called.
func New(cfg Config, app App) (_ *Server, err error) {
	given, givenTLS := cfg.Listeners, cfg.TLSListeners
	defer func() {
		if err != nil {
			for _, ln := range slices.Concat(given, givenTLS) {
				_ = ln.Close()
			}
		}
	}()
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, metrics: newServerMetrics(cfg.MaxConns),
		emptied: make(chan struct{}), failed: make(chan error, cfg.Loops),
	}
	if s.origins, err = newOrigins(cfg.AllowedOrigins); err != nil {
		return nil, fmt.Errorf("gateway: AllowedOrigins: %w", err)
	}
	if s.hosts, err = newHosts(cfg.AllowedHosts); err != nil {
		return nil, fmt.Errorf("gateway: AllowedHosts: %w", err)
	}
	if s.admission, err = newAdmission(&s.cfg.Clients); err != nil {
		return nil, err
	}
	s.refusePath = newRefusal(http.StatusNotFound, refusedPath, "no such path: WebSockets are at "+strings.Join(cfg.Paths, ", "), "")
	s.debug = cfg.Logger.Enabled(context.Background(), slog.LevelDebug)
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	s.metrics.describe(s)
	if cfg.TLS != nil {
		s.metrics.describeTLS(cfg.TLS)
	}
	if err = s.openLoops(app, len(given) == 0, cfg.TLS != nil && len(givenTLS) == 0); err != nil {
		return nil, err
	}
	for i := 0; len(given) > 0; i++ {
		w := s.workers[i%len(s.workers)]
		if err = w.inherit(given[0], &w.listeners); err != nil {
			return nil, err
		}
		s.addr = given[0].Addr()
		given = given[1:]
	}
	for i := 0; len(givenTLS) > 0; i++ {
		w := s.workers[i%len(s.workers)]
		if err = w.inherit(givenTLS[0], &w.tlsListeners); err != nil {
			return nil, err
		}
		s.tlsAddr = givenTLS[0].Addr()
		givenTLS = givenTLS[1:]
	}
	return s, nil
}

// openLoops starts the loops, each with listeners of its own if they listen.
func (s *Server) openLoops(app App, listen, listenTLS bool) error {
	if s.cfg.OwnTables {
		if err := poller.ReserveTables(s.cfg.Loops); err != nil {
			return fmt.Errorf("gateway: OwnTables: %w", err)
		}
	}
	cfg := poller.Config{
		Tick: tick(&s.cfg), Metrics: s.metrics.loops, OwnTable: s.cfg.OwnTables,
		Yields: s.cfg.Yields || s.cfg.Loops > runtime.GOMAXPROCS(0),
	}
	at, atTLS := s.cfg.Listen, s.cfg.TLSListen
	for i := range s.cfg.Loops {
		cfg.Phase = cfg.Tick * time.Duration(i) / time.Duration(s.cfg.Loops) // not all beat at once
		var w *worker
		loop, err := poller.Start(cfg, func(loop *poller.Loop) error {
			w = newWorker(s, loop, app)
			var err error
			if listen {
				err = w.listen(at, &w.listeners)
			}
			if listenTLS && err == nil {
				err = w.listen(atTLS, &w.tlsListeners)
			}
			return err
		})
		if err != nil {
			return err
		}
		s.workers = append(s.workers, w)
		s.accepting.Add(1)
		s.loops.Go(func() {
			if err := loop.Wait(); err != nil {
				s.failed <- err
			}
		})
		if listen {
			s.addr = w.listeners[0].Addr()
			at = s.addr.String() // the port that the kernel chose for the first is the port of all
		}
		if listenTLS {
			s.tlsAddr = w.tlsListeners[0].Addr()
			atTLS = s.tlsAddr.String()
		}
	}
	return nil
}

// Start has the loops accept, and returns when they do. Once; with an error the server is closed.
func (s *Server) Start() error {
	if !s.phase.CompareAndSwap(phaseNew, phaseServing) {
		return errors.New("start gateway: it was started or closed before")
	}
	for _, w := range s.workers {
		var err error
		if !w.loop.Do(func() { err = w.serve() }) {
			err = poller.ErrLoopEnded
		}
		if err != nil {
			_ = s.Close()
			return fmt.Errorf("start gateway: %w", err)
		}
	}
	if !s.cfg.Hold {
		s.Accept()
	}
	return nil
}

// Failed gives one error for each loop that cannot go on. Its connections are closed, its share of
// new ones is refused by the kernel, and the others go on: drain the Server and end the process.
func (s *Server) Failed() <-chan error { return s.failed }

// Addr is the address listened on, with the port the kernel chose when 0 was asked.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// TLSAddr is Addr for Config.TLSListen; not valid without one.
func (s *Server) TLSAddr() netip.AddrPort { return s.tlsAddr }

// Config is the configuration in force, defaults filled in.
func (s *Server) Config() Config { return s.cfg }

// Connections is the number of sockets held, in whatever state.
func (s *Server) Connections() int { return int(s.conns.Load()) }

var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining")
	errFull     = errors.New("full")
)

// Ready is nil when new connections are welcome. It does not block, and loops may call it too.
func (s *Server) Ready() error { return s.ready(0) }

// Unready has Ready say that the gateway drains, while it goes on accepting: the time before Drain
// in which load balancers take it out. Any goroutine but a loop's.
func (s *Server) Unready() { s.unready.Store(true) }

// ready is Ready; own is how many of the connections held ask it and leave at once.
func (s *Server) ready(own int64) error {
	if s.unready.Load() {
		return errDraining
	}
	switch s.phase.Load() {
	case phaseNew:
		return errStarting
	case phaseServing:
		if s.full(own) {
			return errFull
		}
		if s.cfg.ReadyCheck != nil {
			return s.cfg.ReadyCheck()
		}
		return nil
	}
	return errDraining
}

// full reports whether there is no room for another connection. Once full it stays so until a
// fiftieth of the room is free: a gateway that goes in and out of rotation with each client helps
// nobody.
func (s *Server) full(own int64) bool {
	held, most := s.conns.Load()-own, int64(s.cfg.MaxConns)
	switch {
	case held >= most:
		s.wasFull.Store(true)
	case held < most-most/50:
		s.wasFull.Store(false)
	}
	return s.wasFull.Load()
}

// Drain stops accepting, has the Handler say its last words on every connection, closes each with
// 1001 and waits for the peers. It returns nil when no connection is left, or what ended ctx before
// that. Close comes after it in either case.
func (s *Server) Drain(ctx context.Context) error {
	if s.phase.Load() == phaseNew {
		return nil // nothing was ever accepted
	}
	if s.phase.CompareAndSwap(phaseServing, phaseDraining) {
		for _, w := range s.workers {
			w.loop.Post(w.drain)
		}
	}
	select {
	case <-s.emptied:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %d connections left: %w", s.Connections(), ctx.Err())
	}
}

// taken is how many places are: those of sockets held, and those kept for others that are to come.
func (s *Server) taken() int64 { return s.conns.Load() + max(s.coming.Load(), 0) }

// left is called by loops when a connection is gone.
func (s *Server) left() {
	s.conns.Add(-1)
	s.checkEmpty()
}

// stopped is called by loops when they accept no more.
func (s *Server) stopped() {
	s.accepting.Add(-1)
	s.checkEmpty()
}

func (s *Server) checkEmpty() {
	if s.accepting.Load() == 0 && s.conns.Load() == 0 {
		s.emptyOne.Do(func() { close(s.emptied) })
	}
}

// Close cuts off what connections are left and ends the loops. It returns when they have ended.
func (s *Server) Close() error {
	s.endOne.Do(func() {
		s.phase.Store(phaseClosed)
		for _, w := range s.workers {
			w.loop.Post(func() {
				w.abort()
				w.loop.Later(w.loop.Close)
			})
		}
	})
	s.loops.Wait()
	s.carriers.Wait()
	s.accepting.Store(0)
	s.checkEmpty() // a Drain may be waiting, or come later
	return nil
}
