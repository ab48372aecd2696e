package auth

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"sluice/gateway"
)

// Config sets up an App.
type Config struct {
	// Algorithm is what tokens are signed with. Required.
	Algorithm Algorithm

	// Keys, or Remote, have the keys. One of them is required.
	Keys   *Keys
	Remote *Remote

	// Issuer, unless empty, is what iss must be.
	Issuer string

	// Audience, unless empty, has what aud must name at least one of. Without it a token that the
	// issuer made for another service lets its holder in here too.
	Audience []string

	// Cookie is the name of a cookie that may have the token; "" for none. Browsers send cookies
	// with requests of any page, so it is the policy on origins that keeps other pages out: allow
	// no origin that is not to be trusted (gateway.Config.AllowedOrigins).
	Cookie string

	// Spread is how long before its token's end a connection may be ended at most, and a tenth of
	// its remaining life at most, so that clients whose tokens were made together do not come back
	// together. Default 1 minute; negative: none.
	Spread time.Duration

	// Verifiers is how many goroutines check RSA and elliptic-curve signatures. More than there are
	// cores take time from the loops. Default half of the cores, at least one.
	Verifiers int

	// MaxWaiting is how many tokens may wait for them; beyond it handshakes get 503. Default 1024.
	MaxWaiting int

	now func() time.Time
}

// App lets those through to another application who have a valid token.
type App struct {
	cfg      Config
	inner    gateway.App
	verifier *verifier

	jobs    chan job // nil when tokens are checked on the loops
	workers sync.WaitGroup
	closing sync.Once
}

// job is a token to check, and what to do with the answer on the goroutine that has checked it.
type job struct {
	token  string
	answer func(Claims, verdict)
}

// New wraps inner. Close it after the gateway.
func New(cfg Config, inner gateway.App) (*App, error) {
	switch cfg.Algorithm {
	case HS256, RS256, ES256, EdDSA:
	default:
		return nil, errors.New("auth: Algorithm must be HS256, RS256, ES256 or EdDSA")
	}
	if (cfg.Keys == nil) == (cfg.Remote == nil) {
		return nil, errors.New("auth: want either Keys or Remote")
	}
	if cfg.Spread == 0 {
		cfg.Spread = time.Minute
	}
	if cfg.Verifiers == 0 {
		cfg.Verifiers = max(runtime.NumCPU()/2, 1)
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 1024
	}
	if cfg.now == nil {
		cfg.now = time.Now
	}
	a := &App{cfg: cfg, inner: inner, verifier: newVerifier(&cfg)}
	if cfg.Algorithm != HS256 {
		a.jobs = make(chan job, cfg.MaxWaiting)
		for range cfg.Verifiers {
			a.workers.Go(func() {
				for j := range a.jobs {
					j.answer(a.verifier.verify(j.token))
				}
			})
		}
	}
	return a, nil
}

// Close ends the goroutines. Call it when the gateway is closed: no handshake may follow.
func (a *App) Close() {
	a.closing.Do(func() {
		if a.jobs != nil {
			close(a.jobs)
		}
	})
	a.workers.Wait()
}

// ForLoop implements gateway.App.
func (a *App) ForLoop(post func(fn func()) bool) gateway.Handler {
	l := &loop{app: a, inner: a.inner.ForLoop(post)}
	l.waker, _ = l.inner.(gateway.Waker)
	if mover, ok := l.inner.(gateway.Mover); ok {
		return &movingLoop{l, mover}
	}
	return l
}

// movingLoop is a loop whose connections can go on in another process. That one has them as the
// inner application's: who they are, and until when, is the gateway's to pass on.
type movingLoop struct {
	*loop
	gateway.Mover
}

// CanMove implements gateway.Mover: a connection whose token is being checked cannot.
func (l *movingLoop) CanMove(c *gateway.Conn, last bool) bool {
	_, unseen := c.Data.(stranger)
	return !unseen && l.Mover.CanMove(c, last)
}

// loop is App on one loop.
type loop struct {
	app   *App
	inner gateway.Handler
	waker gateway.Waker // inner, if it is one
}

// stranger is Conn.Data of a connection that the inner application has not seen.
type stranger struct{}

var (
	refusals = func() (r [verdicts]*gateway.Refusal) {
		for v := range verdict(verdicts) {
			text := "the token is not valid: " + v.String()
			r[v] = gateway.NewRefusal(http.StatusUnauthorized, text, challenge(v))
		}
		unavailable := func(text string) *gateway.Refusal {
			return gateway.NewRefusal(http.StatusServiceUnavailable, text, "Retry-After: 1\r\n")
		}
		r[missing] = gateway.NewRefusal(http.StatusUnauthorized, "a token is required",
			challenge(missing))
		r[unknownKey] = unavailable("the key of the token is being looked for")
		r[noKeys] = unavailable("there are no keys to check tokens with yet")
		r[busy] = unavailable("too many tokens wait to be checked")
		return r
	}()

	reasonExpired = "token expired"
)

// StatusUnauthorized (3000) is what a connection is closed with when its token expires: come back
// with a new one. It is IANA's registered code for HTTP's 401.
const StatusUnauthorized ws.StatusCode = 3000

// Open implements gateway.Handler.
func (l *loop) Open(c *gateway.Conn, r *gateway.Request) {
	c.Data = stranger{}
	token, from, ok := findToken(r, l.app.cfg.Cookie)
	switch {
	case !ok:
		l.refuse(c, malformed)
	case from == nowhere:
		l.refuse(c, missing)
	case l.app.jobs == nil:
		claims, verdict := l.app.verifier.verify(token)
		l.decide(c, r, claims, verdict)
	default:
		kept := r.Clone() // r dies with this call
		select {
		case l.app.jobs <- job{token, func(claims Claims, v verdict) {
			c.Post(func(c *gateway.Conn) { l.decide(c, kept, claims, v) })
		}}:
		default:
			l.refuse(c, busy)
		}
	}
}

func (l *loop) refuse(c *gateway.Conn, v verdict) {
	tokens[v].Inc()
	c.Refuse(refusals[v])
}

// decide lets a client in or not.
func (l *loop) decide(c *gateway.Conn, r *gateway.Request, claims Claims, v verdict) {
	if !c.Opening() {
		return // it has been refused meanwhile, for the time it took
	}
	if v != valid {
		l.refuse(c, v)
		return
	}
	tokens[valid].Inc()
	clean, answer := withoutToken(r)
	c.SetUser(claims.User)
	if answer != "" {
		c.SetProtocol(answer)
	}
	life := claims.Expires.Sub(l.app.cfg.now())
	if spread := min(l.app.cfg.Spread, life/10); spread > 0 {
		life -= rand.N(spread)
	}
	c.EndAfter(max(life, time.Millisecond), StatusUnauthorized, reasonExpired, expirations.Inc)
	c.Data = nil
	l.inner.Open(c, clean)
}

// Message implements gateway.Handler.
func (l *loop) Message(c *gateway.Conn, op ws.OpCode, payload []byte) {
	l.inner.Message(c, op, payload)
}

// Leave implements gateway.Handler.
func (l *loop) Leave(c *gateway.Conn, code ws.StatusCode) { l.inner.Leave(c, code) }

// Closed implements gateway.Handler.
func (l *loop) Closed(c *gateway.Conn) {
	if _, unseen := c.Data.(stranger); !unseen {
		l.inner.Closed(c)
	}
}

// Wake implements gateway.Waker.
func (l *loop) Wake(c *gateway.Conn) {
	if l.waker != nil {
		l.waker.Wake(c)
	}
}
