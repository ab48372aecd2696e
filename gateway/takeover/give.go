package takeover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// helloTimeout is for messages that need no work on the other side.
	helloTimeout = 5 * time.Second

	// beginTimeout is how long the new process may take to open its store and its loops.
	beginTimeout = 60 * time.Second

	// stepTimeout is how long the new process may take for one batch. One that takes longer is
	// ended: nobody could say whose the connections are.
	stepTimeout = 10 * time.Second

	// window is how many batches may be on their way: the old process packs one while the new
	// one unpacks another. More only have clients wait longer: with three, takeovers of 100,000
	// took as long, and the longest wait was 136 to 158 ms and not 71.
	window = 2
)

// Offer is what the old process has to give. Its functions are called by the goroutine of Serve.
type Offer struct {
	Build string // for the other side's log
	App   string // the kind of application; another kind is refused
	Conns func() int

	// Listeners returns copies of the listening sockets, which the caller closes, and their
	// names.
	Listeners func() (names []string, fds []int, err error)

	// Begin begins the handover.
	Begin func(p Peer) Handover

	// Upgrade starts the process that is to take over, and returns when taken is closed, or
	// with an error when that process has ended before. It is asked for by Upgrade (the
	// function, in another process) and by StartUpgrade, once at a time, on a goroutine of its
	// own. Nil: it cannot be.
	Upgrade func(taken <-chan struct{}) error

	Log *slog.Logger

	step      time.Duration // stepTimeout; shorter in a test
	upgrading atomic.Bool
	upgrades  sync.WaitGroup
	giving    sync.Mutex // held while somebody takes over
	moving    atomic.Bool
	once      sync.Once
	takenCh   chan struct{}
}

// taken is closed when a process has taken over.
func (o *Offer) taken() chan struct{} {
	o.once.Do(func() { o.takenCh = make(chan struct{}) })
	return o.takenCh
}

// Moving reports whether connections are on their way to another process: that it takes long is no
// reason to end it then, for those that have arrived would end with it. Any goroutine.
func (o *Offer) Moving() bool { return o.moving.Load() }

// StartUpgrade starts the process that is to take over, and returns when it has, or has failed. Any
// goroutine.
func (o *Offer) StartUpgrade() error {
	if o.Upgrade == nil {
		return errors.New("takeover: this process cannot start another")
	}
	if !o.upgrading.CompareAndSwap(false, true) {
		return errors.New("takeover: an upgrade is under way")
	}
	defer o.upgrading.Store(false)
	err := o.Upgrade(o.taken())
	if err == nil {
		return nil
	}
	// It may have ended in the middle of a takeover, or right behind it: what became of that
	// counts.
	o.giving.Lock()
	defer o.giving.Unlock()
	select {
	case <-o.taken():
		return nil
	default:
		return err
	}
}

// Peer is what the old process knows of the new one.
type Peer struct {
	Send SendChunk

	Live   bool // it takes chunks from now on, and not only at the end
	Beside bool // it accepts from now on, and may ask
}

// SendChunk sends state that belongs to no connection, for Sink.Chunk. What was sent before a
// Parcel comes before it. Any goroutine, until Handover.End; answers to questions also afterwards.
type SendChunk func(name string, data []byte) error

// Handover is a takeover under way, as the old process sees it.
type Handover interface {
	// Next returns the next connections, which are no longer served, or io.EOF when there are
	// no more that can travel.
	Next(ctx context.Context) (*Parcel, error)

	// Chunks sends state that belongs to no connection, after the last Parcel.
	Chunks() error

	// Ask takes a question of the new process about the state with this name. Chunks of this
	// name answer it, then or later, until this process ends. Called by a goroutine of its own,
	// from Begin on, also after End. An error ends a takeover that is under way.
	Ask(name string, question []byte) error

	// End comes last. taken says that the new process has everything: the old one drains what
	// is left and exits. Otherwise it accepts again and goes on with what it still has.
	End(taken bool)
}

// Parcel is at most 253 connections. Settle or Keep is called once; the descriptors are closed by
// whoever made it, then.
type Parcel struct {
	FDs    []int    // in the process's main table
	States [][]byte // one for each; they may be secret

	// Settle says that the new process has them, all but the refused ones: these go on here.
	Settle func(refused []int)
	// Keep says that none of them has left.
	Keep func()
}

// Serve gives everything to the first process that asks for it properly at ln, and then returns
// nil. Attempts that fail are logged, and connections that were not acknowledged go on here. It
// returns an error when ln fails, which closing it does, or when ctx ends.
func (o *Offer) Serve(ctx context.Context, ln *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		conn, err := ln.AcceptUnix()
		if err != nil {
			return err
		}
		if o.serveOne(ctx, conn) {
			o.upgrades.Wait() // whoever asked for it is told before this process ends
			return nil
		}
	}
}

// serveOne answers one peer, and reports whether it has taken over.
func (o *Offer) serveOne(ctx context.Context, conn *net.UnixConn) bool {
	o.giving.Lock()
	defer o.giving.Unlock()
	given, err := o.answer(ctx, conn)
	switch {
	case err == errUpgrading:
	case err == nil:
		o.Log.Info("taken over", "connections", given)
		close(o.taken())
		return true
	default:
		o.Log.Warn("takeover failed, going on", "given", given, "error", err)
	}
	return false
}

// errUpgrading: the peer has asked for an upgrade, which goes on beside.
var errUpgrading = errors.New("takeover: upgrading")

// answer looks at who has connected and what for.
func (o *Offer) answer(ctx context.Context, conn *net.UnixConn) (given int, err error) {
	defer func() {
		if err != nil && err != errUpgrading {
			_ = conn.Close()
		}
	}()
	pid, err := peer(conn)
	if err != nil {
		return 0, err
	}
	l := &link{conn: conn}
	m, err := l.receive(time.Now().Add(helloTimeout))
	if err != nil {
		return 0, fmt.Errorf("no greeting: %w", err)
	}
	defer m.closeAll()
	switch m.kind {
	case kindHello:
		return o.give(ctx, l, pid, m.payload)
	case kindUpgrade:
		o.upgrades.Go(func() {
			defer conn.Close()
			if err := o.StartUpgrade(); err != nil {
				_ = l.send(kindRefuse, []byte(err.Error()), nil, time.Now().Add(helloTimeout))
				return
			}
			_ = l.send(kindReady, nil, nil, time.Now().Add(helloTimeout))
		})
		return 0, errUpgrading
	}
	return 0, unexpected(m)
}

// give is one attempt.
func (o *Offer) give(ctx context.Context, l *link, pid int, greeting []byte) (given int, err error) {
	version, err := o.greet(l, greeting)
	if err != nil {
		return 0, err
	}
	m, err := l.receive(time.Now().Add(beginTimeout))
	if err != nil {
		return 0, fmt.Errorf("the new process (pid %d) did not become ready: %w", pid, err)
	}
	defer m.closeAll()
	if m.kind != kindBegin {
		return 0, unexpected(m)
	}
	step := cmp.Or(o.step, stepTimeout)
	h := o.Begin(Peer{Live: version >= versionLive, Beside: version >= versionBeside,
		Send: func(name string, data []byte) error {
			return l.send(kindChunk, chunk{name, data}.append(nil), nil, time.Now().Add(step))
		},
	})
	s := &sender{
		link: l, pid: pid, handover: h, step: step, beside: version >= versionBeside,
		travelling: map[int]*Parcel{}, room: make(chan struct{}, window), over: make(chan struct{}),
	}
	o.moving.Store(true)
	err = s.run(ctx)
	o.moving.Store(false)
	h.End(err == nil)
	return s.given, err
}

// greet says what there is, and sends the listening sockets.
func (o *Offer) greet(l *link, greeting []byte) (version int, err error) {
	var h hello
	err = h.parse(greeting)
	switch {
	case err != nil:
	case h.oldest > newestVersion || h.newest < oldestVersion:
		err = fmt.Errorf("takeover: it speaks versions %d to %d of the protocol, this one %d to %d", h.oldest,
			h.newest, oldestVersion, newestVersion)
	case h.app != o.App:
		err = fmt.Errorf("takeover: its application is %.40q, this one's %q", h.app, o.App)
	}
	deadline := time.Now().Add(helloTimeout)
	if err != nil {
		_ = l.send(kindRefuse, []byte(err.Error()), nil, deadline)
		return 0, err
	}
	version = min(h.newest, newestVersion)
	w := welcome{version: version, build: o.Build, conns: o.Conns()}
	if err = l.send(kindWelcome, w.append(nil), nil, deadline); err != nil {
		return 0, err
	}
	names, fds, err := o.Listeners()
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		return 0, err
	}
	// More than fit in one message come in several; the last is not full.
	for at := 0; ; at += maxDescriptors {
		end := min(at+maxDescriptors, len(fds))
		if err = l.send(kindListeners, appendStrings(nil, names[at:end]), fds[at:end], deadline); err != nil {
			return 0, err
		}
		if end-at < maxDescriptors {
			return version, nil
		}
	}
}

// sender moves the connections. run sends; acks receives, on a goroutine of its own.
type sender struct {
	link     *link
	pid      int
	handover Handover
	step     time.Duration
	beside   bool // the new process asks, until this one ends
	room     chan struct{}
	over     chan struct{} // closed when acks has ended
	ackErr   error         // why, before over is closed
	ready    bool          // the new process has said so; before over is closed

	mu         sync.Mutex // never held while anything is sent or received
	travelling map[int]*Parcel
	given      int
}

func (s *sender) run(ctx context.Context) (err error) {
	go s.acks()
	err = s.sendAll(ctx)
	if err == nil {
		<-s.over
		if s.ready {
			return nil
		}
		err = s.ackErr
	} else {
		// What the new process has acknowledged before it closed the stream is its own.
		_ = s.link.conn.SetReadDeadline(time.Now().Add(s.step))
		_ = s.link.conn.CloseWrite()
		<-s.over
	}
	if !closedByPeer(s.ackErr) {
		// It is alive, and might yet believe that connections are its own.
		_ = unix.Kill(s.pid, unix.SIGKILL)
		err = fmt.Errorf("%w (the new process, pid %d, was ended)", err, s.pid)
	}
	for _, p := range s.travelling {
		p.Keep()
	}
	return err
}

// sendAll returns when everything is sent and every batch is acknowledged, and done is sent.
func (s *sender) sendAll(ctx context.Context) error {
	for number := 1; ; number++ {
		if err := s.wait(); err != nil {
			return err
		}
		p, err := s.handover.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.travelling[number] = p
		s.mu.Unlock()
		t := batch{number, p.States}
		payload := t.append(make([]byte, 0, t.size()))
		err = s.link.send(kindBatch, payload, p.FDs, time.Now().Add(s.step))
		clear(payload)
		if err != nil {
			return err
		}
	}
	for range window - 1 { // the last ones; wait above took one already
		if err := s.wait(); err != nil {
			return err
		}
	}
	if err := s.handover.Chunks(); err != nil {
		return err
	}
	return s.link.send(kindDone, nil, nil, time.Now().Add(s.step))
}

// wait takes one place of the window.
func (s *sender) wait() error {
	select {
	case s.room <- struct{}{}:
		return nil
	default:
	}
	timeout := time.NewTimer(s.step)
	defer timeout.Stop()
	select {
	case s.room <- struct{}{}:
		return nil
	case <-s.over:
		return s.ackErr
	case <-timeout.C:
		return errors.New("takeover: the new process does not answer")
	}
}

// acks settles what the new process acknowledges, until it is ready or the stream ends, and answers
// its questions beyond that.
func (s *sender) acks() {
	for !s.ready {
		m, err := s.link.receive(time.Time{}) // wait, and run at the end, have the deadlines
		if err == nil {
			m.closeAll()
			err = s.took(m)
		}
		if err != nil {
			s.ackErr = err
			close(s.over)
			return
		}
	}
	close(s.over)
	defer s.link.conn.Close()
	for s.beside {
		m, err := s.link.receive(time.Time{})
		if err != nil {
			return
		}
		m.closeAll()
		if m.kind != kindAsk || s.ask(m) != nil {
			return
		}
	}
}

func (s *sender) ask(m message) error {
	var c chunk
	if err := c.parse(m.payload); err != nil {
		return err
	}
	return s.handover.Ask(c.name, c.data)
}

func (s *sender) took(m message) error {
	switch m.kind {
	case kindReady:
		s.ready = true
		return nil
	case kindAsk:
		return s.ask(m)
	}
	var a ack
	if m.kind != kindAck {
		return unexpected(m)
	}
	if err := a.parse(m.payload); err != nil {
		return err
	}
	s.mu.Lock()
	p := s.travelling[a.number]
	delete(s.travelling, a.number)
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("takeover: an answer to batch %d, which is not on its way", a.number)
	}
	for _, i := range a.refused {
		if i < 0 || i >= len(p.States) {
			p.Keep()
			return fmt.Errorf("takeover: connection %d of %d is refused", i, len(p.States))
		}
	}
	p.Settle(a.refused)
	s.given += len(p.States) - len(a.refused)
	<-s.room
	return nil
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)
}

func unexpected(m message) error {
	if m.kind == kindRefuse {
		return fmt.Errorf("takeover: the other process refuses: %.200s", m.payload)
	}
	return fmt.Errorf("takeover: an unexpected message of kind %d", m.kind)
}
