package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"sluice/gateway"
	"sluice/gateway/takeover"
	"sluice/poller"
	"sluice/sessions"
)

// takeoverConfig is what has to do with replacing a running gateway.
type takeoverConfig struct {
	Takeover  string `group:"stop" placeholder:"PATH" help:"Unix socket at which the next process takes the connections of this one over, and at which this one looks for the process before it. SIGHUP and 'sluice upgrade' start the next one."`
	ReusePort bool   `group:"net" help:"Let other gateways of this user listen on the same port; the kernel spreads clients over all of them."`
}

// The names of listening sockets on their way to the next process.
const (
	listenerPublic  = "public"
	listenerTLS     = "tls"
	listenerAdmin   = "admin"
	listenerControl = "control"
)

// The names of chunks.
const (
	chunkSessions = "sessions"
	chunkTopics   = "topics"
	chunkControl  = "control"
)

// kindOfApp is what the next process must be too: its applications could not read the states of the
// connections otherwise.
func (s *server) kindOfApp() string {
	if s.cfg.App == "count" {
		return "count in " + s.cfg.SessionStore
	}
	return s.cfg.App
}

// connect looks for a process to take over from. nil: there is none.
func (s *server) connect() error {
	if s.cfg.Takeover == "" {
		return nil
	}
	t, err := takeover.Connect(s.cfg.Takeover, gateway.ReadBuild().String(), s.kindOfApp())
	switch {
	case errors.Is(err, takeover.ErrNobody):
		return nil
	case err != nil:
		return fmt.Errorf("%w (set --takeover, or stop that process)", err)
	}
	s.taker = t
	s.log.Info("taking over", "from", t.Build, "connections", t.Conns)
	return nil
}

// inherit has the gateway serve the sockets of the process before.
func (s *server) inherit(cfg *gateway.Config) error {
	if s.taker == nil {
		var err error
		cfg.Listeners, err = s.activated.listeners(listenerPublic, s.listenOptions(), s.capacity.loops)
		return err
	}
	cfg.Hold = true
	for {
		fd, ok := s.taker.Listener(listenerPublic)
		if !ok {
			break
		}
		ln, err := poller.InheritListener(fd)
		if err != nil {
			return err
		}
		cfg.Listeners = append(cfg.Listeners, ln)
	}
	return nil
}

// listen opens an address, unless the process before or systemd has it open.
func (s *server) listen(name, address string) (net.Listener, error) {
	if s.taker != nil {
		if fd, ok := s.taker.Listener(name); ok {
			f := os.NewFile(uintptr(fd), name)
			defer f.Close()
			return net.FileListener(f)
		}
	} else if files := s.activated[name]; len(files) > 0 {
		return net.FileListener(files[0]) // a copy
	}
	return net.Listen("tcp", address)
}

// take takes the connections over, and accepts from then on.
func (s *server) take() error {
	if s.taker == nil {
		return nil
	}
	s.role(sessions.Taking)
	if s.services != nil {
		if s.taker.Live {
			s.services.hub.Take(s.taker.Beside)
		} else {
			s.services.hub.Freeze()
		}
	}
	return s.taker.Run(context.Background(), sink{s}, s.log)
}

// role tells the session store, if there is one, which side of a takeover this process is.
func (s *server) role(r sessions.Role) {
	if s.store != nil {
		s.store.Handover(r)
	}
}

// sink is the server as its connections come.
type sink struct{ *server }

// Adopt implements takeover.Sink.
func (s sink) Adopt(fds []int, states [][]byte) (refused []int, commit, discard func()) {
	a := s.gateway.Adopt(fds, states)
	return a.Refused, a.Commit, a.Discard
}

// Chunk implements takeover.Sink.
func (s sink) Chunk(name string, data []byte) error {
	switch {
	case name == chunkSessions && s.store != nil:
		return s.store.Import(data)
	case name == chunkTopics && s.services != nil:
		return s.services.hub.Import(data)
	case name == chunkControl && s.services != nil:
		return s.services.app.CarryOut(data)
	}
	return fmt.Errorf("state of an unknown kind, %.40q", name)
}

// Begin implements takeover.Sink.
func (s sink) Begin(conns int) { s.gateway.AcceptBeside(conns) }

// Accept implements takeover.Sink.
func (s sink) Accept() error {
	if s.services != nil {
		s.services.hub.Thaw()
	}
	s.gateway.Accept()
	return nil
}

// Alone implements takeover.Sink.
func (s sink) Alone() { s.role(sessions.Taken) }

// ask is sessions.MemoryConfig.Ask.
func (s *server) ask() func(question []byte) error {
	if s.taker == nil || !s.taker.Beside {
		return nil
	}
	return func(question []byte) error { return s.taker.Ask(chunkSessions, question) }
}

// offer has the next process take over from this one. taken gets a value when it has.
func (s *server) offer(taken chan<- struct{}) error {
	if s.cfg.Takeover == "" {
		return nil
	}
	ln, err := takeover.Listen(s.cfg.Takeover)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopOffer = cancel
	o := &takeover.Offer{
		Build: gateway.ReadBuild().String(), App: s.kindOfApp(), Log: s.log,
		Conns:     s.gateway.Connections,
		Listeners: s.listenerFDs,
		Begin:     s.beginHandover,
	}
	o.Upgrade = func(taken <-chan struct{}) error { return s.upgrade(taken, o.Moving) }
	s.offered <- o
	go func() {
		if o.Serve(ctx, ln) == nil {
			taken <- struct{}{}
		}
	}()
	return nil
}

// listenerFDs are copies of all listening sockets, with their names.
func (s *server) listenerFDs() (names []string, fds []int, err error) {
	if fds, err = s.gateway.ListenerFDs(); err != nil {
		return names, fds, err
	}
	for range fds {
		names = append(names, listenerPublic)
	}
	encrypted, err := s.gateway.TLSListenerFDs()
	for _, fd := range encrypted {
		names, fds = append(names, listenerTLS), append(fds, fd)
	}
	if err != nil {
		return names, fds, err
	}
	for name, ln := range map[string]net.Listener{listenerAdmin: s.adminListener, listenerControl: s.controlListener} {
		if ln == nil {
			continue
		}
		raw, err := ln.(*net.TCPListener).SyscallConn()
		if err != nil {
			return names, fds, err
		}
		// Not File, which would make the socket a blocking one, in this process too.
		var fd int
		var failed error
		err = raw.Control(func(sysfd uintptr) { fd, failed = unix.FcntlInt(sysfd, unix.F_DUPFD_CLOEXEC, 0) })
		if err = errors.Join(err, failed); err != nil {
			return names, fds, err
		}
		names, fds = append(names, name), append(fds, fd)
	}
	return names, fds, nil
}

// handover is the server as its connections leave.
type handover struct {
	*server
	h    *gateway.Handover
	send takeover.SendChunk
}

// beginHandover has what is published go to both processes from now on, or wait when the new one is
// of a version that cannot take it.
func (s *server) beginHandover(p takeover.Peer) takeover.Handover {
	h := &handover{s, s.gateway.Handover(p.Beside), p.Send} // requests wait from here on
	s.role(sessions.Giving)
	switch {
	case s.services == nil:
	case p.Live:
		s.services.hub.Give(h.sendTopics, p.Beside)
		if s.services.control != nil {
			s.services.control.Give(func(item []byte) error { return p.Send(chunkControl, item) })
		}
	default:
		s.services.hub.Freeze()
	}
	return h
}

func (h *handover) sendTopics(chunk []byte) error { return h.send(chunkTopics, chunk) }

// Next implements takeover.Handover.
func (h *handover) Next(ctx context.Context) (*takeover.Parcel, error) {
	b, err := h.h.Next(ctx)
	if err != nil {
		return nil, err
	}
	if h.services != nil {
		if err := h.services.hub.Relayed(); err != nil {
			b.Keep()
			return nil, err
		}
	}
	return &takeover.Parcel{FDs: b.FDs, States: b.States, Settle: b.Settle, Keep: b.Keep}, nil
}

// Chunks implements takeover.Handover.
func (h *handover) Chunks() (err error) {
	if h.store != nil {
		h.store.Export(func(chunk []byte) bool {
			err = h.send(chunkSessions, chunk)
			return err == nil
		})
	}
	if err == nil && h.services != nil {
		if err = h.services.hub.Cut(); err != nil {
			return err
		}
		if h.services.control != nil {
			h.services.control.Pause()
		}
		err = h.services.hub.Export(h.sendTopics)
	}
	return err
}

// Ask implements takeover.Handover.
func (h *handover) Ask(name string, question []byte) error {
	if name != chunkSessions || h.store == nil {
		return fmt.Errorf("a question of an unknown kind, %.40q", name)
	}
	return h.store.Answer(question, func(chunk []byte) error { return h.send(chunkSessions, chunk) })
}

// End implements takeover.Handover.
func (h *handover) End(taken bool) {
	h.h.End(taken)
	if taken {
		h.server.left.Store(h)
		if h.adminListener != nil {
			_ = h.adminListener.Close() // who asks now asks for the new process
		}
		// What is left here is drained. Its sessions are the other process', and so are its topics.
		if h.services != nil {
			h.services.hub.Forget()
			h.services.forward(h.controlListener)
		}
		return
	}
	h.role(sessions.Serving)
	if h.services != nil {
		h.services.hub.Thaw()
		if h.services.control != nil {
			h.services.control.Resume()
		}
	}
}

// last sends what clients leave behind that could not travel and have been drained.
func (h *handover) last() {
	if h != nil && h.store != nil {
		h.store.Export(func(chunk []byte) bool { return h.send(chunkSessions, chunk) == nil })
	}
}

// upgradeTimeout is how long the next process may take until it begins to take over.
const upgradeTimeout = 2 * time.Minute

// upgrade starts the binary that is on disk now, with this process' own arguments, and waits until
// it has taken over. moving says that it is at it: package takeover sees to it that it goes on.
func (s *server) upgrade(taken <-chan struct{}, moving func() bool) error {
	if os.Getpid() == 1 {
		return errors.New("this is process 1, and the container would end with it: start the next one yourself, with the same --takeover")
	}
	next := exec.Command(s.binary, os.Args[1:]...)
	next.Stdout, next.Stderr = os.Stdout, os.Stderr
	if err := next.Start(); err != nil {
		return err
	}
	s.log.Info("upgrade: next process started", "binary", s.binary, "pid", next.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- next.Wait() }()
	timeout := time.NewTicker(upgradeTimeout)
	defer timeout.Stop()
	for {
		select {
		case <-taken:
			// systemd follows the process that says it is the main one now.
			notify(fmt.Sprintf("MAINPID=%d", next.Process.Pid))
			return nil
		case err := <-ended:
			if err == nil {
				err = errors.New("exit status 0")
			}
			return fmt.Errorf("%s ended before it had taken over: %w (its own log says why)", s.binary, err)
		case <-timeout.C:
			if moving() {
				continue
			}
			_ = next.Process.Kill()
			return fmt.Errorf("%s did not take over within %v, and was ended", s.binary, upgradeTimeout)
		}
	}
}

// hangup is SIGHUP: the process replaces itself.
func (s *server) hangup() {
	if s.cfg.Takeover == "" {
		s.log.Warn("SIGHUP ignored: the next process needs a way to take the connections over (set --takeover)")
		return
	}
	go func() {
		o := <-s.offered // this process may not be ready yet itself
		s.offered <- o
		if err := o.StartUpgrade(); err != nil {
			upgradesFailed.Inc()
			s.log.Error("upgrade failed, going on as before", "error", err)
		}
	}()
}

// upgradeWait is how long sluice upgrade waits for a gateway to listen.
const upgradeWait = 2 * time.Second

// upgradeCommand is sluice upgrade.
type upgradeCommand struct {
	Takeover string   `required:"" env:"SLUICE_TAKEOVER" placeholder:"PATH" help:"The --takeover of the gateway."`
	Timeout  duration `default:"10m" placeholder:"TIME" help:"How long to wait; it goes on without you."`
}

// run asks the gateway to replace itself, and returns the exit status.
func (c *upgradeCommand) run(stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.Timeout))
	defer cancel()
	began := time.Now()
	err := takeover.Upgrade(ctx, c.Takeover)
	// Between one process and the next there is a moment in which nobody listens.
	for errors.Is(err, takeover.ErrNobody) && time.Since(began) < upgradeWait {
		time.Sleep(100 * time.Millisecond)
		err = takeover.Upgrade(ctx, c.Takeover)
	}
	if err != nil {
		if errors.Is(err, takeover.ErrNobody) {
			err = fmt.Errorf("no gateway listens at %s", c.Takeover)
		}
		fmt.Fprintf(stderr, "sluice: upgrade: %v\n", err)
		return exitFailed
	}
	fmt.Fprintf(stdout, "upgraded in %.1f s\n", time.Since(began).Seconds())
	return exitClean
}
