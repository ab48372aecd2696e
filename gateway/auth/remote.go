package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// RemoteConfig sets up Remote.
type RemoteConfig struct {
	// URL is where the key set is: https, or http on this machine. Whoever can change what is read
	// there can let in anybody.
	URL string

	// Algorithm is that of the keys; others in the set are left out.
	Algorithm Algorithm

	// Every is how often the set is read. Too long leaves a key that was withdrawn in use for that
	// time; a new key is found by the first token that names it. Default 5 minutes.
	Every time.Duration

	// Timeout bounds one request. Default 5 s.
	Timeout time.Duration

	// Logger gets a line when keys cannot be read. Default slog.Default().
	Logger *slog.Logger

	client *http.Client // of tests
	soon   time.Duration
}

const (
	mostSet = 1 << 20 // bytes of a key set

	// soonest is the least time between two readings, whoever asks for them: tokens with invented
	// key ids must not turn the gateway against the server that has the keys.
	soonest = 10 * time.Second
)

// Remote reads keys from a URL again and again. While it cannot, the last keys stand.
type Remote struct {
	cfg   RemoteConfig
	keys  atomic.Pointer[Keys]
	read  atomic.Int64 // when keys were last read, Unix nanoseconds; 0 before
	tried atomic.Int64 // when reading was last begun
	busy  atomic.Bool  // reading, or asked to

	ask  chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// CheckURL returns why keys must not be read from a URL, or nil.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.Fragment != "" {
		return fmt.Errorf("%q is not a URL to read keys from (want https://…)", text)
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return fmt.Errorf("%q: keys that come over http could be anybody's (want https://…)", text)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// NewRemote begins to read keys; it does not wait for them.
func NewRemote(cfg RemoteConfig) (*Remote, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Minute
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.soon == 0 {
		cfg.soon = soonest
	}
	if cfg.client == nil {
		cfg.client = &http.Client{
			Transport: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
				IdleConnTimeout: 30 * time.Second, MaxIdleConns: 1, ForceAttemptHTTP2: true,
			},
			CheckRedirect: func(req *http.Request, via []*http.Request) error {
				if len(via) > 3 {
					return errors.New("too many redirects")
				}
				return CheckURL(req.URL.String())
			},
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Remote{cfg: cfg, ask: make(chan struct{}, 1), stop: stop}
	r.busy.Store(true)
	r.done.Go(func() { r.run(ctx) })
	return r, nil
}

// Close stops reading.
func (r *Remote) Close() {
	r.stop()
	r.done.Wait()
	r.cfg.client.CloseIdleConnections()
}

// Keys are the last that were read, nil before the first time. Any goroutine.
func (r *Remote) Keys() *Keys { return r.keys.Load() }

// Ready is nil when there are keys to check tokens with.
func (r *Remote) Ready() error {
	if r.keys.Load() == nil {
		return errors.New("no keys for tokens yet")
	}
	return nil
}

// missed has the keys read again, for a token whose key is not among them, unless that was done a
// moment ago. It reports whether the key may be known soon.
func (r *Remote) missed() bool {
	if r.busy.Load() {
		return true
	}
	if time.Since(time.Unix(0, r.tried.Load())) < r.cfg.soon || !r.busy.CompareAndSwap(false, true) {
		return false
	}
	select {
	case r.ask <- struct{}{}:
	default:
	}
	return true
}

func (r *Remote) run(ctx context.Context) {
	for {
		r.busy.Store(true)
		r.tried.Store(time.Now().UnixNano())
		keys, err := r.fetch(ctx)
		wait := r.cfg.Every
		switch {
		case err == nil:
			r.keys.Store(keys)
			r.read.Store(time.Now().UnixNano())
			keyReads[0].Inc()
		case ctx.Err() != nil:
			return
		default:
			keyReads[1].Inc()
			r.cfg.Logger.Warn("keys for tokens cannot be read; the last ones stand",
				"url", r.cfg.URL, "error", err, "have_keys", r.keys.Load() != nil)
			wait = min(wait, r.cfg.soon)
		}
		r.busy.Store(false)
		wait += rand.N(wait/10 + 1) // gateways that were started together do not ask together
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.ask:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// fetch reads the key set once.
func (r *Remote) fetch(ctx context.Context) (*Keys, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	answer, err := r.cfg.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, mostSet+1))
	if err != nil {
		return nil, err
	}
	if len(text) > mostSet {
		return nil, fmt.Errorf("the answer is longer than %d bytes", mostSet)
	}
	return ParseJWKS(r.cfg.Algorithm, text)
}
