package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/net/netutil"

	"sluice/gateway"
	"sluice/gateway/accesslog"
	"sluice/gateway/admin"
	counting "sluice/gateway/count"
	"sluice/gateway/takeover"
	"sluice/gateway/tlsserver"
	"sluice/poller"
	"sluice/sessions"
)

// started is when the program began, for the time it takes to become ready.
var started = time.Now()

// server is one gateway process: it opens, waits for signals, and drains.
type server struct {
	cfg     config
	inForce *inForce
	log     *slog.Logger
	level   *slog.LevelVar // of log
	kept    *admin.Lines   // the last lines of log, for the operators' page
	signals <-chan os.Signal

	capacity capacity
	files    uint64 // the limit of open files

	store    sessions.Store // nil when the application counts nothing
	services *services      // nil unless it has services behind it
	gate     *gate          // nil unless clients must show tokens
	access   atomic.Pointer[accesslog.Log]
	gateway  *gateway.Server
	tls      *tlsserver.Server // nil without --tls-listen
	admin    *http.Server      // nil without an admin address

	adminListener, controlListener net.Listener // nil without

	binary    string                   // the file to start the next process from
	activated activated                // sockets that systemd has opened
	taker     *takeover.Taker          // the process before; nil when there was none
	offered   chan *takeover.Offer     // gets one when the next process can take over
	stopOffer func()                   // nil without
	left      atomic.Pointer[handover] // the takeover that has succeeded
}

// notify tells systemd, when it has started the process. A process that was taken over does not say
// that it stops: the service goes on in the next one.
func notify(state string) { _, _ = daemon.SdNotify(false, state) }

// lastLines is how long the end of the process waits for whoever reads the log.
const lastLines = time.Second

// serve runs a gateway until a signal ends it, and returns the exit status.
func serve(cfg config, from originOf, set *inForce, signals <-chan os.Signal, stderr io.Writer) int {
	tuneGC()
	// A log that nobody reads any more must not kill the process, least of all with the first line
	// of its drain.
	signal.Ignore(syscall.SIGPIPE)
	lines := newLineQueue(stderr)
	kept := new(admin.Lines)
	log, held, level := newLogger(lines, cfg.LogLevel, cfg.LogFormat, kept.Handler())
	lines.start(func(n int) {
		log.Warn("log lines lost: standard error did not take them", "lines", n)
	})
	defer lines.close(lastLines)
	defer held.flush(context.Background())
	slog.SetDefault(log)
	poller.SetLogger(log)

	s := &server{
		cfg: cfg, inForce: set, log: log, level: level, kept: kept, signals: signals,
		offered: make(chan *takeover.Offer, 1),
	}
	// Now: the name that the kernel keeps says "(deleted)" once the file has been replaced.
	s.binary, _ = os.Executable()
	var err error
	if s.files, err = raiseFiles(); err != nil {
		log.Warn("keeping the limit of open files", "limit", s.files, "error", err)
	}
	s.capacity, err = fit(&cfg, runtime.GOMAXPROCS(0), s.files, cfg.reservedFiles(), poller.ReserveTables)
	if err != nil {
		fmt.Fprintf(stderr, "sluice: %s: %v\n", from.place("max-conns"), err)
		return exitUsage
	}
	tuneProcs(s.capacity.loops, cfg.SessionStore)
	for _, name := range from.strange {
		log.Warn("unknown environment variable", "name", name, "known", "see sluice serve --help")
	}
	if cfg.RedisURL != "" && cfg.SessionStore != "redis" && cfg.App == "count" {
		log.Warn("sessions are kept in memory, though Redis is named", "set", "--session-store redis")
	}
	s.logStart()
	status := s.run()
	log.Info("exit", "status", status)
	return status
}

func (s *server) logStart() {
	attrs := []any{
		"version", gateway.ReadBuild().String(), "pid", os.Getpid(),
		"listen", s.cfg.Listen, "admin", s.cfg.Admin, "app", s.cfg.App,
		"loops", s.capacity.loops, "own_tables", s.capacity.own, "open_files", s.files,
		"max_conns", s.capacity.conns, "max_conns_per_loop", s.capacity.perLoop,
		"max_message", s.cfg.MaxMessage.String(), "max_queue", s.cfg.MaxQueue.String(),
		"max_buffered", size(s.maxBuffered()).String(),
		"heartbeat", s.cfg.Heartbeat.String(), "session_store", s.cfg.SessionStore,
	}
	if s.cfg.SessionStore == "redis" {
		masked, _ := maskPassword(s.cfg.RedisURL)
		attrs = append(attrs, "redis", masked)
	}
	if routes, _, _ := s.cfg.routes(); s.cfg.App == "backend" {
		for _, r := range routes {
			attrs = append(attrs, "route", r.Pattern+"="+r.URL)
		}
	}
	if s.cfg.BrokerURL != "" {
		masked, _ := maskPassword(s.cfg.BrokerURL)
		attrs = append(attrs, "broker", masked)
	}
	for _, url := range s.cfg.ChannelsLayer {
		masked, _ := maskPassword(url)
		attrs = append(attrs, "channels_layer", masked)
	}
	s.log.Info("start", attrs...)
}

// drainSlack is how much longer than --drain-timeout a drain may take to report before it counts as
// stuck.
const drainSlack = time.Second

// run is the life of the process: open, ready, a signal, drain.
func (s *server) run() (status int) {
	reloads := make(chan struct{}, 1)
	stops := s.stops(reloads)
	opened := make(chan error, 1)
	go func() { opened <- s.open() }()
	select {
	case err := <-opened:
		if err != nil {
			s.log.Error("cannot start", "error", err)
			return exitFailed
		}
	case sig := <-stops: // the store may be slow to answer
		s.log.Info("stopped before ready", "signal", sig.String())
		return exitClean
	}
	gateway.SetStartup(time.Since(started))
	s.log.Info("ready", s.addresses("seconds", time.Since(started).Seconds())...)
	notify(daemon.SdNotifyReady)

	go s.reloads(reloads)
	taken := make(chan struct{}, 1)
	if err := s.offer(taken); err != nil {
		s.log.Error("the next process cannot take over from this one", "error", err)
	}
	cause, drain := slog.String("cause", "loop failed"), s.drain
	select {
	case <-taken:
		cause, drain = slog.String("cause", "taken over"), s.finish
	case sig := <-stops:
		cause = slog.String("signal", sig.String())
		notify(daemon.SdNotifyStopping)
	case err := <-s.gateway.Failed():
		// Whatever starts gateways starts another; this one would serve only a part of its clients.
		s.log.Error("a loop failed, ending", "error", err)
		status = exitFailed
	}
	s.log.Info("drain", cause, "delay", s.cfg.DrainDelay.String(),
		"timeout", s.cfg.DrainTimeout.String(), "spread", s.cfg.DrainSpread.String())
	drained := make(chan error, 1)
	if s.stopOffer != nil {
		s.stopOffer()
	}
	go func() { drained <- drain() }()
	select {
	case err := <-drained:
		if err != nil {
			s.log.Error("drain was not clean", "error", err)
			return exitFailed
		}
		return status
	case sig := <-stops:
		s.log.Warn("second signal: ending at once", "signal", sig.String())
		return exitCut
	case <-time.After(time.Duration(s.cfg.DrainDelay) + time.Duration(s.cfg.DrainTimeout) + drainSlack):
		s.log.Error("drain did not end")
		return exitFailed
	}
}

// stops passes on the signals that ask for the end, two at most: no more are ever looked at.
// SIGUSR2 goes to reload, which has room for one: the settings are read after the last signal.
func (s *server) stops(reload chan<- struct{}) <-chan os.Signal {
	stops := make(chan os.Signal, 2)
	go func() {
		for sig := range s.signals {
			if sig == syscall.SIGUSR1 {
				if l := s.access.Load(); l != nil {
					l.Reopen()
				}
				continue
			}
			if sig == syscall.SIGHUP {
				s.hangup()
				continue
			}
			if sig == syscall.SIGUSR2 {
				select {
				case reload <- struct{}{}:
				default:
				}
				continue
			}
			select {
			case stops <- sig:
			default:
			}
		}
	}()
	return stops
}

// open does what can fail, the store first: a client that gets through must find its session.
func (s *server) open() (err error) {
	if s.activated, err = activate(); err != nil {
		return err
	}
	defer s.activated.close() // what is in use is a copy
	if err := s.connect(); err != nil {
		return err
	}
	defer func() {
		if err != nil && s.taker != nil {
			s.taker.Close() // nothing has moved, or Run has said so
		}
	}()
	if s.cfg.App == "count" {
		if s.store, err = openStore(s.cfg, s.ask(), s.log); err != nil {
			return err
		}
	}
	if s.taker == nil && !s.cfg.ReusePort {
		if len(s.activated[listenerPublic]) == 0 {
			if err := unshared(s.cfg.Listen, "--listen"); err != nil {
				return err
			}
		}
		if s.cfg.TLSListen != "" && len(s.activated[listenerTLS]) == 0 {
			if err := unshared(s.cfg.TLSListen, "--tls-listen"); err != nil {
				return err
			}
		}
	}
	if s.cfg.App == "backend" {
		if s.services, err = s.openServices(); err != nil {
			return err
		}
	}
	access, err := s.openAccessLog()
	if err != nil {
		return err
	}
	s.access.Store(access)
	app := s.app()
	if s.gate, err = s.openGate(app); err != nil {
		return err
	}
	if s.gate != nil {
		app = s.gate.app
	}
	cfg := s.gatewayConfig()
	if s.tls, err = s.openTLS(); err != nil {
		return err
	}
	cfg.TLS, cfg.TLSListen = s.tls, s.cfg.TLSListen
	if err = errors.Join(s.inherit(&cfg), s.inheritTLS(&cfg)); err != nil {
		return err
	}
	if s.gateway, err = gateway.New(cfg, app); err != nil {
		return err
	}
	if !s.cfg.adminOff() {
		if s.adminListener, err = s.listen(listenerAdmin, s.cfg.Admin); err != nil {
			return fmt.Errorf("%w (set --admin)", err)
		}
	}
	if s.services != nil && !s.cfg.controlOff() {
		if s.controlListener, err = s.listen(listenerControl, s.cfg.Control); err != nil {
			return fmt.Errorf("%w (set --control)", err)
		}
	}
	if err = s.gateway.Start(); err != nil {
		return err
	}
	if err = s.take(); err != nil {
		return err
	}
	if s.adminListener != nil {
		s.serveAdmin(s.adminListener)
	}
	if s.controlListener != nil {
		s.serveControl(s.controlListener)
	}
	return nil
}

// unshared says whether another process listens on addr. The gateway would not notice: its loops
// share the port by SO_REUSEPORT, and so a second gateway of the same user would take half of the
// first one's clients.
func unshared(addr, flag string) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%w (set %s)", err, flag)
	}
	return ln.Close()
}

func (s *server) gatewayConfig() gateway.Config {
	cfg := gateway.Config{
		Listen:           s.cfg.Listen,
		Loops:            s.capacity.loops,
		MaxConns:         s.capacity.conns,
		MaxConnsPerLoop:  s.capacity.perLoop,
		OwnTables:        s.capacity.own,
		MaxMessage:       int(s.cfg.MaxMessage),
		MaxFragments:     int(s.cfg.MaxFragments),
		MessageTimeout:   time.Duration(s.cfg.MessageTimeout),
		MaxHandshake:     int(s.cfg.MaxHeader),
		MaxBuffered:      s.maxBuffered(),
		MaxQueue:         int(s.cfg.MaxQueue),
		SocketBuffer:     socketBuffer(s.cfg.SocketBuffer),
		Heartbeat:        offIsNegative(s.cfg.Heartbeat),
		NoPing:           !s.cfg.HeartbeatPing,
		HandshakeTimeout: time.Duration(s.cfg.HandshakeTimeout),
		CloseTimeout:     s.cfg.closeTimeout(),
		DrainSpread:      offIsNegative(s.cfg.DrainSpread),
		AllowedOrigins:   s.cfg.AllowedOrigins,
		AllowedHosts:     s.cfg.AllowedHosts,
		Compression:      s.cfg.Compression,
		CompressFrom:     int(s.cfg.CompressFrom),
		Clients:          s.cfg.clients(),
		ReusePort:        s.cfg.ReusePort,
		Logger:           s.log,
	}
	if l := s.access.Load(); l != nil {
		cfg.Ended, cfg.EndedSample = l.Ended, int(s.cfg.AccessLogSample)
	}
	if s.store != nil {
		cfg.ReadyCheck = s.store.Ready
	}
	if s.services != nil {
		cfg.ReadyCheck = s.services.hub.Ready
		cfg.AnyPath = true  // the routes decide
		cfg.PingOnly = true // services say themselves what their clients are sent
		cfg.Yields = true   // their answers come to goroutines
	}
	cfg.ReadyCheck = s.gate.ready(cfg.ReadyCheck)
	return cfg
}

// maxBuffered is --max-buffered, or what the memory that the process may use leaves for it.
func (s *server) maxBuffered() int {
	if s.cfg.MaxBuffered != 0 {
		return int(s.cfg.MaxBuffered)
	}
	return defaultBuffered(debug.SetMemoryLimit(-1), os.DirFS("/sys/fs/cgroup"))
}

// offIsNegative: 0 turns something off for users, and stands for the default in a Config.
func offIsNegative(d duration) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}

// socketBuffer: as offIsNegative.
func socketBuffer(n size) int {
	if n == 0 {
		return -1
	}
	return int(n)
}

func (s *server) app() gateway.App {
	switch {
	case s.services != nil:
		return s.services.app
	case s.store == nil:
		return gateway.Echo{}
	}
	keys, _ := s.cfg.sessionKeys() // checked with the configuration
	return counting.App{
		Store:          s.store,
		Keys:           keys,
		SessionTTL:     time.Duration(s.cfg.SessionTTL),
		NoWelcome:      !s.cfg.Welcome,
		NewSessionRate: int(s.cfg.NewSessionRate),
	}
}

func (s *server) serveAdmin(ln net.Listener) {
	a, ok := ln.Addr().(*net.TCPAddr)
	if ok && !a.IP.IsLoopback() && s.cfg.AdminToken == "" {
		s.log.Warn("the admin address is not loopback and has no --admin-token: "+
			"whoever reaches it reads sessions and profiles", "admin", a.String())
	}
	handler := admin.New(admin.Config{
		Ready: s.gateway.Ready, Store: s.store, Token: s.cfg.AdminToken, Lines: s.kept, Began: started,
		Metrics: s.gateway.WriteMetrics, Series: s.gateway.WriteSeries, Loops: s.gateway.Loops, Logger: s.log,
	})
	handler.HandleFunc("GET /config", s.serveSettings)
	s.admin = handler.Server()
	s.admin.Addr = ln.Addr().String() // what it got, when it asked for port 0
	go func() {
		err := s.admin.Serve(netutil.LimitListener(ln, admin.MaxConns))
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.log.Error("admin address stopped", "error", err)
		}
	}()
}

// addresses are the log attributes that say where the gateway listens.
func (s *server) addresses(more ...any) []any {
	attrs := []any{"listen", s.gateway.Addr().String()}
	if s.tls != nil {
		attrs = append(attrs, "tls_listen", s.gateway.TLSAddr().String(), "tls_records", s.cfg.TLSRecords)
	}
	if s.admin != nil {
		attrs = append(attrs, "admin", s.admin.Addr)
	}
	if s.services != nil && s.services.server != nil {
		attrs = append(attrs, "control", s.services.server.Addr)
	}
	return append(attrs, more...)
}

// drain tells every client, and lets what they sent be stored. The admin address answers until the
// end.
func (s *server) drain() error {
	s.gateway.Unready()
	time.Sleep(time.Duration(s.cfg.DrainDelay)) // a second signal ends the process meanwhile
	return s.finish()
}

// finish is drain for a process whose clients load balancers do not have to be told of.
func (s *server) finish() error {
	began := time.Now()
	whole, cancel := context.WithTimeout(context.Background(), time.Duration(s.cfg.DrainTimeout))
	defer cancel()
	forPeers, cancel := context.WithTimeout(whole, s.cfg.peersTime())
	defer cancel()
	err := s.gateway.Drain(forPeers)
	// This cuts off those that are left, which hands their messages to the store.
	err = errors.Join(err, s.gateway.Close())
	if s.tls != nil {
		s.tls.Close()
	}
	s.gate.close()
	if l := s.access.Load(); l != nil {
		err = errors.Join(err, l.Close(lastLines))
	}
	if s.store != nil {
		s.left.Load().last()
		err = errors.Join(err, s.store.Close(whole))
	}
	if s.services != nil {
		err = errors.Join(err, s.services.shutdown(whole))
	}
	took := time.Since(began)
	gateway.SetShutdown(took)
	s.log.Info("drained", "seconds", took.Seconds())
	if s.admin != nil {
		s.admin.Close()
	}
	return err
}
