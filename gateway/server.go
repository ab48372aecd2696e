package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"sluice/poller"
)

// Server is a gateway: one listener and one loop a core. Its methods may be called by any goroutine but a loop's.
type Server struct {
	cfg        Config
	origins    origins
	hosts      hosts
	admission  *admission
	refusePath *Refusal
	debug      bool
	metrics    *serverMetrics

	addr      netip.AddrPort
	workers   []*worker
	listeners []*poller.Listener
	loops     sync.WaitGroup
	failed    chan error // a loop's epoll_wait failed

	conns     atomic.Int64 // sockets held, in whatever state
	adopting  atomic.Int32 // batches adopted
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

// New opens the listeners and the loops of a gateway in front of app. Nothing is accepted before Start, though the kernel
// completes connections from now on.
func New(cfg Config, app App) (_ *Server, err error) {
	listeners := cfg.Listeners
	cfg, err = cfg.withDefaults()
	if err != nil {
		for _, ln := range listeners {
			_ = ln.Close()
		}
		return nil, err
	}
	s := &Server{
		cfg: cfg, metrics: newServerMetrics(cfg.MaxConns), listeners: listeners,
		emptied: make(chan struct{}), failed: make(chan error, cfg.Loops),
	}
	defer func() {
		if err != nil {
			s.release()
		}
	}()
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
	if err = s.listen(); err != nil {
		return nil, err
	}
	for range cfg.Loops {
		w, err := newWorker(s, app)
		if err != nil {
			return nil, err
		}
		s.workers = append(s.workers, w)
	}
	s.accepting.Store(int32(len(s.workers)))
	return s, nil
}

// release undoes a New that failed or was never started, or a Start that failed: no loop runs.
func (s *Server) release() {
	for i, ln := range s.listeners {
		if i < len(s.workers) && s.workers[i].acceptor != nil {
			s.workers[i].acceptor.Close() // ln is its own
		} else {
			_ = ln.Close()
		}
	}
	for _, w := range s.workers {
		w.loop.Close()
		_ = w.loop.Run() // lets go of the reactor's descriptors
	}
	s.accepting.Store(0)
	s.checkEmpty()
}

// listen opens the listeners, one a loop, unless it was given them.
func (s *Server) listen() error {
	at := s.cfg.Listen
	for len(s.listeners) < s.cfg.Loops {
		ln, err := poller.Listen(at, poller.ListenOptions{
			ReusePort: s.cfg.Loops > 1 || s.cfg.ReusePort, SocketBuffer: s.cfg.SocketBuffer,
		})
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, ln)
		at = ln.Addr().String() // the port that the kernel chose for the first is the port of all
	}
	s.addr = s.listeners[0].Addr()
	return nil
}

// Start runs the loops, and returns when connections are accepted. Once; with an error the server is closed.
func (s *Server) Start() error {
	if !s.phase.CompareAndSwap(phaseNew, phaseServing) {
		return errors.New("start gateway: it was started or closed before")
	}
	for i, w := range s.workers {
		acceptor, err := w.loop.Serve(s.listeners[i], w.accept)
		if err != nil {
			s.phase.Store(phaseClosed)
			s.release()
			return fmt.Errorf("start gateway: %w", err)
		}
		w.acceptor = acceptor
		if s.cfg.Hold {
			acceptor.Hold()
		}
	}
	for _, w := range s.workers {
		s.loops.Go(func() {
			if err := w.loop.Run(); err != nil {
				w.fail()
				s.failed <- err
			}
		})
	}
	return nil
}

// Failed gives one error for each loop that cannot go on. Its connections are closed, its share of new
// ones is refused by the kernel, and the others go on: drain the Server and end the process.
func (s *Server) Failed() <-chan error { return s.failed }

// Addr is the address listened on, with the port the kernel chose when 0 was asked.
func (s *Server) Addr() netip.AddrPort { return s.addr }

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

// Unready has Ready say that the gateway drains, while it goes on accepting: the time before Drain in
// which load balancers take it out. Any goroutine but a loop's.
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

// full reports whether there is no room for another connection. Once full it stays so until a fiftieth
// of the room is free: a gateway that goes in and out of rotation with each client helps nobody.
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

// Drain stops accepting, has the Handler say its last words on every connection, closes each with 1001 and waits for the peers.
// It returns nil when no connection is left, or what ended ctx before that. Close comes after it in either case.
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
		if s.phase.Swap(phaseClosed) == phaseNew {
			s.release()
			return
		}
		for _, w := range s.workers {
			w.loop.Post(func() {
				w.abort()
				w.loop.Later(w.loop.Close)
			})
		}
	})
	s.loops.Wait()
	s.accepting.Store(0)
	s.checkEmpty() // a Drain may be waiting, or come later
	return nil
}
