package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"sluice/gateway/backend"
	"sluice/gateway/topics"
)

// backendConfig is the settings of --app backend and of what publishes to its clients.
type backendConfig struct {
	BackendURL            string   `group:"backend" name:"backend-url" placeholder:"URL" help:"Service that gets what clients say, as http://host:port/path/; it serves the paths below its own."`
	Route                 []string `group:"backend" sep:"," placeholder:"PATTERN=URL" help:"Another service for some paths, as /chat/=http://host:port; the longest pattern wins. Separated by commas or given again."`
	BackendKey            string   `group:"backend" placeholder:"KEY" help:"Signs requests (Grip-Sig, and webhook-signature over the body): text, base64:… or whsec_…. A variable keeps it out of the process list."`
	BackendTimeout        duration `group:"backend" default:"10s" placeholder:"TIME" help:"How long a service may take for its whole answer."`
	BackendConnectTimeout duration `group:"backend" default:"1s" placeholder:"TIME" help:"How long a connection to a service may take."`
	BackendHold           duration `group:"backend" default:"30s" placeholder:"TIME" help:"How long messages wait for a service that cannot be reached before their clients are closed with 1013."`
	BackendRequests       count    `group:"backend" default:"256" placeholder:"N" help:"Requests in flight to each service; more wait."`
	BackendPending        size     `group:"backend" default:"64KiB" placeholder:"SIZE" help:"What one client may have waiting while its request is in flight; then it is not read from."`
	BackendQueue          size     `group:"backend" default:"64MiB" placeholder:"SIZE" help:"What all clients may have waiting and in flight; beyond it they are closed with 1013."`

	Control     string `group:"control" default:"off" placeholder:"ADDRESS" help:"Address at which services publish (POST /publish/, /connections/ID/send), as 127.0.0.1:5561. 'off' for none."`
	ControlKey  string `group:"control" placeholder:"KEY" help:"What publishers show as Bearer, itself or as the signature of a JWT; required beyond loopback. Forms as --backend-key."`
	ControlRate count  `group:"control" default:"20000" placeholder:"N" help:"Items that may be published in a second; 0 for no limit."`
}

// controlOff says that there is no control address.
func (c *backendConfig) controlOff() bool { return c.Control == "" || c.Control == "off" }

// routes are --backend-url and --route, read.
func (c *backendConfig) routes() (routes []backend.Route, wrongFlag string, err error) {
	if c.BackendURL != "" {
		r, err := backend.ParseRoute(c.BackendURL)
		if err == nil && strings.HasPrefix(c.BackendURL, "/") {
			err = errors.New("want a URL; patterns belong into --route")
		}
		if err != nil {
			return nil, "backend-url", err
		}
		routes = append(routes, r)
	}
	for _, text := range c.Route {
		r, err := backend.ParseRoute(text)
		if err == nil && slices.ContainsFunc(routes, func(other backend.Route) bool { return other.Pattern == r.Pattern }) {
			err = fmt.Errorf("the paths %s go to two services", r.Pattern)
		}
		if err != nil {
			return nil, "route", err
		}
		routes = append(routes, r)
	}
	return routes, "", nil
}

// checkBackend judges the settings of --app backend, and refuses them for other applications.
func (c *config) checkBackend(wrong func(flag, format string, args ...any) error) error {
	routes, flag, err := c.routes()
	if err != nil {
		return wrong(flag, "%v", err)
	}
	for _, key := range []struct{ flag, value string }{{"backend-key", c.BackendKey}, {"control-key", c.ControlKey}} {
		if _, err := backend.ParseKey(key.value); err != nil {
			return wrong(key.flag, "%v", err)
		}
	}
	if c.BackendRequests < 1 || c.BackendRequests > 10_000 {
		return wrong("backend-requests", "%d is out of range (want 1 to 10000)", c.BackendRequests)
	}
	if c.BackendPending < 1<<10 || c.BackendPending > 1<<30 {
		return wrong("backend-pending", "%v is out of range (want 1KiB to 1GiB)", c.BackendPending)
	}
	if c.BackendQueue < 64<<10 {
		return wrong("backend-queue", "%v is too small (want 64KiB or more)", c.BackendQueue)
	}
	if c.App != "backend" {
		switch {
		case c.BackendURL != "":
			return wrong("backend-url", "--app %s has no service behind it (set --app backend)", c.App)
		case len(c.Route) > 0:
			return wrong("route", "--app %s has no service behind it (set --app backend)", c.App)
		case !c.controlOff():
			return wrong("control", "--app %s has no topics to publish to (set --app backend)", c.App)
		}
		return nil
	}
	if len(routes) == 0 {
		return wrong("app", "backend needs --backend-url or --route, for example --backend-url http://127.0.0.1:9000/ws/")
	}
	return c.checkControl(wrong)
}

// checkControl insists on a key where others than this machine reach the address.
func (c *config) checkControl(wrong func(flag, format string, args ...any) error) error {
	if c.controlOff() {
		return nil
	}
	if err := checkAddress(c.Control); err != nil {
		return wrong("control", "%v (or off)", err)
	}
	if (c.Control == c.Listen || c.Control == c.Admin) && !strings.HasSuffix(c.Control, ":0") {
		return wrong("control", "%s is another address of this gateway too; give it another port", c.Control)
	}
	host, _, _ := net.SplitHostPort(c.Control)
	if ip, err := netip.ParseAddr(host); c.ControlKey == "" && host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return wrong("control", "%s can be reached from elsewhere, so it needs --control-key", c.Control)
	}
	return nil
}

// reservedFiles is how many descriptors the services take beside the clients.
func (c *config) reservedFiles() uint64 {
	if c.App != "backend" {
		return 0
	}
	routes, _, _ := c.routes()
	return uint64(len(routes)) * uint64(c.BackendRequests)
}

// services is the application behind --app backend, with its topics and the control address.
type services struct {
	hub     *topics.Hub
	app     *backend.App
	control *backend.Control
	server  *http.Server // of the control address; nil without one

	publishers atomic.Int64 // connections to the control address
	forwarding bool         // another process answers them
}

// openServices makes the application. Its control address is opened by serveControl.
func (s *server) openServices() (*services, error) {
	routes, _, err := s.cfg.routes()
	if err != nil {
		return nil, err
	}
	topicsCfg, err := s.topicsConfig()
	if err != nil {
		return nil, err
	}
	hub, err := topics.New(topicsCfg)
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(s.cfg.BackendTimeout)
	app, err := backend.New(backend.Config{
		Routes:         routes,
		Key:            key(s.cfg.BackendKey),
		ConnectTimeout: time.Duration(s.cfg.BackendConnectTimeout),
		Timeout:        timeout,
		// The client is to be told that the service was too slow, before the gateway says so of
		// itself.
		OpenTimeout: min(timeout, time.Duration(s.cfg.HandshakeTimeout)*9/10),
		Hold:        time.Duration(s.cfg.BackendHold),
		MaxRequests: int(s.cfg.BackendRequests),
		MaxPending:  int(s.cfg.BackendPending),
		MaxBuffered: int(s.cfg.BackendQueue),
		Logger:      s.log,
	}, hub)
	if err != nil {
		return nil, errors.Join(err, hub.Close())
	}
	return &services{hub: hub, app: app}, nil
}

// key is a secret that check has read before.
func key(text string) []byte {
	if text == "" {
		return nil
	}
	k, err := backend.ParseKey(text)
	if err != nil {
		panic(err)
	}
	return k
}

// serveControl serves the control address.
func (s *server) serveControl(ln net.Listener) {
	limit := int(s.cfg.ControlRate)
	if limit == 0 {
		limit = -1
	}
	v := s.services
	v.control = backend.NewControl(backend.ControlConfig{Hub: v.hub, App: v.app, Key: key(s.cfg.ControlKey), Rate: limit, Logger: s.log})
	v.server = v.control.Server()
	v.server.Addr = ln.Addr().String() // what it got, when it asked for port 0
	v.server.ConnState = v.count
	go func() {
		err := v.server.Serve(ln)
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.log.Error("control address stopped", "error", err)
		}
	}()
}

// count counts the connections of publishers.
func (v *services) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		v.publishers.Add(1)
	case http.StateClosed, http.StateHijacked:
		v.publishers.Add(-1)
	}
}

// forward leaves the control address to the process that has taken over, which answers from now on
// those too that are connected here.
func (v *services) forward(ln net.Listener) {
	if v.control == nil {
		return
	}
	_ = ln.Close()
	v.forwarding = true
	v.control.Forward(&url.URL{Scheme: "http", Host: ln.Addr().String()})
}

// awaitPublishers gives publishers time to connect anew, which each answer that is forwarded asks
// them to do. To close what is idle before would hit one that publishes at this moment, which it
// would not dare to repeat.
func (v *services) awaitPublishers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, publishersLeave)
	defer cancel()
	for v.publishers.Load() > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// controlAnswers is how long requests to the control address may take to end with the process, and
// publishersLeave how long publishers keep the connections that another process' answers come by.
const (
	controlAnswers  = time.Second
	publishersLeave = 5 * time.Second
)

// shutdown tells the services of the connections that have ended, until ctx is done.
func (v *services) shutdown(ctx context.Context) error {
	if v.server != nil {
		if v.forwarding {
			v.awaitPublishers(ctx)
		}
		// Who publishes just now gets the answer; who did not get that far finds the connection
		// closed.
		answers, cancel := context.WithTimeout(ctx, controlAnswers)
		_ = v.server.Shutdown(answers)
		cancel()
		v.server.Close()
		v.control.Close()
	}
	untold := v.app.Shutdown(ctx)
	err := v.hub.Close()
	if untold > 0 {
		err = errors.Join(err, fmt.Errorf("%d ends of connections were not told to their services", untold))
	}
	return err
}
