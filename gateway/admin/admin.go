// Package admin is the operators' address of a gateway: a live page, metrics, health, readiness,
// sessions and profiles. The page is made from the process' own metrics, once a second for all who
// look, and not at all when nobody does: ten pages cost 0.2 % of a core.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"sluice/gateway"
	"sluice/sessions"
)

// Config says what the operators' address shows. The zero value is a gateway that is always ready
// and holds no sessions.
type Config struct {
	// Ready is nil-returning when new connections are welcome; otherwise its text is what /readyz
	// says. It must not block. Any goroutine.
	Ready func() error
	// Store answers /sessions/{id}; nil when the application counts nothing.
	Store sessions.Store
	// Metrics writes what /metrics shows: Server.WriteMetrics. Default: gateway.WriteMetrics, which
	// knows no Server.
	Metrics func(w io.Writer)
	// Series writes the Server's own metrics, without the process': Server.WriteSeries. The page
	// shows them; nil leaves them out.
	Series func(w io.Writer)
	// Token must be shown by whoever asks for anything here, as "Authorization: Bearer TOKEN", or
	// typed into the form that browsers get. Empty: everybody who reaches the address is let in.
	Token string
	// Loops tells how the event loops do, for the page; Server.Loops. Nil leaves them out.
	Loops func() []gateway.LoopSnapshot
	// Lines has the log lines that the page shows; nil for none.
	Lines *Lines
	// Began is when the process started. Default: now.
	Began time.Time
	// Logger is told about requests without the token, at warn, and broken ones, at debug.
	// Default: slog.Default.
	Logger *slog.Logger
}

// lookupTimeout is how long /sessions/{id} waits for the store.
const lookupTimeout = 5 * time.Second

// Admin answers at the operators' address:
//
//	/                a page that shows how the gateway does, live; as text without a browser
//	/events          what the page follows (server-sent events)
//	/metrics         Prometheus text: the gateway, the process and the Go runtime
//	/healthz         200 as long as the process answers
//	/readyz          200 when new connections are welcome, else 503 and the reason
//	/sessions/{id}   the stored count of a session, as JSON
//	/version         what was built, as JSON
//	/debug/pprof/    the profiles of net/http/pprof
//
// Without a Token nothing here is authenticated, so the address must be one that only operators
// reach. It runs on net/http's goroutines and never touches a loop.
type Admin struct {
	cfg     Config
	mux     *http.ServeMux
	guard   guard
	sampler sampler
	feed    feed
	began   time.Time
}

// New makes the handler of the operators' address.
func New(cfg Config) *Admin {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Metrics == nil {
		cfg.Metrics = gateway.WriteMetrics
	}
	a := &Admin{
		cfg: cfg, mux: http.NewServeMux(), guard: guard{cfg.Token}, began: cfg.Began,
		sampler: sampler{loops: cfg.Loops, series: cfg.Series, counts: cfg.Store != nil},
	}
	if a.began.IsZero() {
		a.began = time.Now()
	}
	a.feed.event = a.sampleEvent
	a.HandleFunc("GET /{$}", a.index)
	a.HandleFunc("GET /events", a.events)
	a.HandleFunc("GET /metrics", a.metrics)
	a.HandleFunc("GET /healthz", a.healthz)
	a.HandleFunc("GET /readyz", a.readyz)
	a.HandleFunc("GET /sessions/{id}", a.session)
	a.HandleFunc("GET /version", a.version)
	a.HandleFunc("GET /debug/pprof/", pprof.Index)
	a.HandleFunc("GET /debug/pprof/cmdline", noCmdline)
	a.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	a.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	a.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol) // go tool pprof asks this way
	a.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return a
}

// Handle adds a handler for a pattern of http.ServeMux, behind the same checks as the others. It
// panics, as ServeMux does, on a pattern that conflicts with one that is there. Before the first
// request.
func (a *Admin) Handle(pattern string, h http.Handler) { a.mux.Handle(pattern, h) }

// HandleFunc is Handle for a function.
func (a *Admin) HandleFunc(pattern string, fn func(http.ResponseWriter, *http.Request)) {
	a.mux.HandleFunc(pattern, fn)
}

// ServeHTTP implements http.Handler.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !hostIsOurs(r) {
		http.Error(w, "this host is not served here: use an address or localhost",
			http.StatusMisdirectedRequest)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/sign-in":
		a.signIn(w, r)
	case !a.guard.allows(r, time.Now()):
		a.deny(w, r)
	default:
		a.mux.ServeHTTP(w, r)
	}
}

// Server returns an HTTP server for the address, with bounds on how long a client may take and how
// much it may send. The caller gives it a listener, and closes it.
func (a *Admin) Server() *http.Server {
	return &http.Server{
		Handler:           a,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// Longer than a profile that one asks for by hand; pprof refuses what does not fit in it.
		WriteTimeout:   5 * time.Minute,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(a.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

// MaxConns is how many connections an operators' address should take at once, so that what it holds
// stays within gateway.ReservedDescriptors: pass its listener through netutil.LimitListener.
const MaxConns = 32

// hostIsOurs reports whether a request to a loopback address names an address or localhost. Another
// name is a page's that was made to resolve to this machine (DNS rebinding), and must not read what
// is here.
func hostIsOurs(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !local.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

func (a *Admin) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	a.cfg.Metrics(w)
}

func (a *Admin) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n")
}

func (a *Admin) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := a.ready(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "not ready: %v\n", err)
		return
	}
	io.WriteString(w, "ready\n")
}

// ready is why new connections are not welcome, or nil.
func (a *Admin) ready() error {
	if a.cfg.Ready != nil {
		if err := a.cfg.Ready(); err != nil {
			return err
		}
	}
	if a.cfg.Store != nil {
		return a.cfg.Store.Ready()
	}
	return nil
}

func (a *Admin) session(w http.ResponseWriter, r *http.Request) {
	id, err := sessions.ParseID(r.PathValue("id"))
	if err != nil {
		writeJSON(w, http.StatusBadRequest,
			failure{"malformed session id: want the 36 characters of a UUID"})
		return
	}
	if a.cfg.Store == nil {
		writeJSON(w, http.StatusNotFound, failure{"this gateway keeps no sessions"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookupTimeout)
	defer cancel()
	total, err := a.cfg.Store.Lookup(ctx, id)
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, sessionCount{SessionID: id.String(), Count: total})
	case errors.Is(err, sessions.ErrNotFound):
		writeJSON(w, http.StatusNotFound, failure{"no such session"})
	default:
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, failure{err.Error()})
	}
}

type sessionCount struct {
	SessionID string `json:"session_id"`
	Count     uint64 `json:"count"`
}

type failure struct {
	Error string `json:"error"`
}

func (a *Admin) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, gateway.ReadBuild())
}

// noCmdline stands where net/http/pprof shows the command line, which may hold the password of
// --redis-url.
func noCmdline(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "not shown: it may hold secrets", http.StatusForbidden)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // structs of strings and numbers always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(text, '\n'))
}
