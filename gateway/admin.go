package gateway

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
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"sluice/sessions"
)

// AdminConfig says what the admin address shows. The zero value is a gateway that is always ready and
// holds no sessions.
type AdminConfig struct {
	// Ready is nil-returning when new connections are welcome; otherwise its text is what /readyz says.
	// It must not block. Any goroutine.
	Ready func() error
	// Store answers /sessions/{id}; nil when the application counts nothing.
	Store sessions.Store
	// Logger is told about broken requests, at debug. Default: slog.Default.
	Logger *slog.Logger
}

// adminLookupTimeout is how long /sessions/{id} waits for the store.
const adminLookupTimeout = 5 * time.Second

// NewAdmin returns the handler of the admin address:
//
//	/metrics         Prometheus text: the gateway, the process and the Go runtime
//	/healthz         200 as long as the process answers
//	/readyz          200 when new connections are welcome, else 503 and the reason
//	/sessions/{id}   the stored count of a session, as JSON
//	/version         what was built, as JSON
//	/debug/pprof/    the profiles of net/http/pprof
//
// Nothing here is authenticated, so the address must be one that only operators reach. The handler runs on
// net/http's goroutines and never touches a loop.
func NewAdmin(cfg AdminConfig) http.Handler {
	a := &admin{AdminConfig: cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.index)
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.HandleFunc("GET /healthz", a.healthz)
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /sessions/{id}", a.session)
	mux.HandleFunc("GET /version", a.version)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", noCmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol) // go tool pprof asks this way
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if !hostIsOurs(r) {
			http.Error(w, "this host is not served here: use an address or localhost", http.StatusMisdirectedRequest)
			return
		}
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
}

// NewAdminServer returns the HTTP server for NewAdmin's handler, with bounds on how long a client may take
// and how much it may send. The caller gives it a listener, and closes it.
func NewAdminServer(cfg AdminConfig) *http.Server {
	log := cfg.Logger
	if log == nil {
		log = slog.Default()
	}
	return &http.Server{
		Handler:           NewAdmin(cfg),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		// Longer than any profile or trace that one asks for by hand; pprof refuses what does not fit in it.
		WriteTimeout:   5 * time.Minute,
		IdleTimeout:    time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// AdminConns is how many connections an admin address should take at once, so that what it holds stays
// within ReservedDescriptors: pass its listener through netutil.LimitListener.
const AdminConns = 32

// hostIsOurs reports whether a request to a loopback address names an address or localhost. Another name
// is a page's that was made to resolve to this machine (DNS rebinding), and must not read what is here.
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

type admin struct{ AdminConfig }

func (a *admin) index(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "sluice "+ReadBuild().String()+"\n\n"+
		"/metrics\n/healthz\n/readyz\n/sessions/{id}\n/version\n/debug/pprof/\n")
}

func (a *admin) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	WriteMetrics(w)
}

func (a *admin) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n")
}

func (a *admin) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var err error
	if a.Ready != nil {
		err = a.Ready()
	}
	if err == nil && a.Store != nil {
		err = a.Store.Ready()
	}
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "not ready: %v\n", err)
		return
	}
	io.WriteString(w, "ready\n")
}

func (a *admin) session(w http.ResponseWriter, r *http.Request) {
	id, err := sessions.ParseID(r.PathValue("id"))
	if err != nil {
		writeJSON(w, http.StatusBadRequest, adminError{"malformed session id: want the 36 characters of a UUID"})
		return
	}
	if a.Store == nil {
		writeJSON(w, http.StatusNotFound, adminError{"this gateway keeps no sessions"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminLookupTimeout)
	defer cancel()
	total, err := a.Store.Lookup(ctx, id)
	switch {
	case err == nil:
		writeJSON(w, http.StatusOK, adminSession{SessionID: id.String(), Count: total})
	case errors.Is(err, sessions.ErrNotFound):
		writeJSON(w, http.StatusNotFound, adminError{"no such session"})
	default:
		w.Header().Set("Retry-After", "1")
		writeJSON(w, http.StatusServiceUnavailable, adminError{err.Error()})
	}
}

type adminSession struct {
	SessionID string `json:"session_id"`
	Count     uint64 `json:"count"`
}

type adminError struct {
	Error string `json:"error"`
}

func (a *admin) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, ReadBuild())
}

// noCmdline stands where net/http/pprof shows the command line, which may hold the password of --redis-url.
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

// Build says what this binary was built from.
type Build struct {
	Version  string `json:"version"`            // the module's version, or "devel"
	Go       string `json:"go"`                 // the toolchain, for example "go1.26.0"
	Commit   string `json:"commit"`             // the revision, or "unknown" for a build outside of a checkout
	Modified bool   `json:"modified,omitempty"` // the checkout had changes that the commit does not have
}

// ReadBuild reads what the Go toolchain stamped into the binary.
func ReadBuild() Build {
	b := Build{Version: "devel", Go: runtime.Version(), Commit: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is the build in one line.
func (b Build) String() string {
	commit := b.Commit
	if len(commit) > 12 {
		commit = commit[:12]
	}
	if b.Modified {
		commit += ", modified"
	}
	return fmt.Sprintf("%s (commit %s) %s %s/%s", b.Version, commit, b.Go, runtime.GOOS, runtime.GOARCH)
}
