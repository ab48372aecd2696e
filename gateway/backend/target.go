package backend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// target is one backend: an origin, with a pool of connections to it. Any goroutine.
type target struct {
	name      string // scheme://host, for logs
	index     int    // in App.targets and loop.lanes
	scheme    string
	host      string
	transport *http.Transport
	signer    *signer
	breaker   breaker
	goodbyes  *goodbyes
	log       *slog.Logger
}

// request is one POST: all that was collected for one connection since the last one.
type request struct {
	target  *target
	id      connID
	number  uint32 // counts the requests of a connection
	head    head
	metas   []meta
	body    []byte
	ends    bool          // body ends with CLOSE or DISCONNECT
	replay  int           // bytes of content at its start that an earlier request has offered
	timeout time.Duration // to connect, send and get the whole answer
	probe   int64         // the breaker's
}

// outcome is how a request ended.
type outcome uint8

const (
	answered     outcome = iota // with whatever status
	notHandled                  // the backend was surely not reached: the request may be repeated
	maybeHandled                // it was sent, and no answer came
	timedOut                    // as maybeHandled, because time ran out
)

// String is the label of sluice_backend_requests_total for a request without a usable answer.
func (o outcome) String() string { return [...]string{"ok", "not_handled", "broken", "timeout"}[o] }

type answer struct {
	outcome outcome
	status  int
	header  http.Header
	body    []byte
	err     error // unless answered
	took    time.Duration
}

// idleTimeout closes pooled connections before the usual servers do (gunicorn after 2 s, Node and
// Uvicorn after 5): a request that is sent while the server closes ends with an error that does not
// say whether it was handled.
const idleTimeout = 1500 * time.Millisecond

func newTarget(u *url.URL, cfg Config) *target {
	t := &target{scheme: u.Scheme, host: u.Host, signer: newSigner(cfg.Issuer, cfg.Key),
		log: cfg.Logger}
	protocols := new(http.Protocols)
	switch u.Scheme {
	case "h2c":
		t.scheme = "http"
		protocols.SetUnencryptedHTTP2(true)
	default:
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
	}
	t.name = u.Scheme + "://" + u.Host
	t.transport = &http.Transport{
		DialContext:            dialFresh(cfg.ConnectTimeout),
		TLSHandshakeTimeout:    cfg.ConnectTimeout,
		Protocols:              protocols,
		DisableCompression:     true,
		MaxIdleConns:           0, // no bound of its own: there are no more than requests were in flight
		MaxIdleConnsPerHost:    cfg.MaxRequests,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        4 << 10,
		ReadBufferSize:         4 << 10,
	}
	t.goodbyes = newGoodbyes(t, cfg)
	return t
}

var errAnswerSize = errors.New("the answer is longer than allowed")

// do sends the request and waits for the answer, reads at most maxAnswer bytes of it, and tells the
// breaker.
func (t *target) do(r *request, maxAnswer int) (a answer) {
	began := time.Now()
	requestEvents.Update(float64(countEvents(r.body)))
	requestsInFlight.Add(1)
	a = t.roundTrip(r, began, maxAnswer)
	requestsInFlight.Add(-1)
	a.took = time.Since(began)
	requestTime.Update(a.took.Seconds())
	switch {
	case a.outcome != answered && !errors.Is(a.err, errAnswerSize),
		a.outcome == answered && isUnavailable(a.status):
		if t.breaker.failed(time.Now(), r.probe) {
			breakerOpened.Inc()
			t.log.Warn("backend lost: handshakes are refused, messages wait",
				"backend", t.name, "error", a.reason())
		}
	default:
		if t.breaker.succeeded() {
			t.log.Info("backend is back", "backend", t.name)
		}
	}
	return a
}

// isUnavailable says that a status is that of a proxy which has not reached the service, or of one
// that is overloaded.
func isUnavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable ||
		status == http.StatusGatewayTimeout || status == http.StatusTooManyRequests
}

func (t *target) roundTrip(r *request, now time.Time, maxAnswer int) (a answer) {
	ctx, cancel := context.WithTimeout(context.Background(), r.timeout)
	defer cancel()
	// The transport repeats by itself only what was surely not handled: of which it has written no
	// byte, or which an HTTP/2 server has refused. What it gives up without a connection was not
	// handled either.
	connected := false
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { connected = false },
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	})
	req, err := t.newRequest(ctx, r, now)
	if err != nil {
		return answer{outcome: notHandled, err: err}
	}
	res, err := t.transport.RoundTrip(req)
	if err != nil {
		a.err = err
		switch {
		case !connected:
			a.outcome = notHandled
		case ctx.Err() != nil:
			a.outcome = timedOut
		default:
			a.outcome = maybeHandled
		}
		return a
	}
	defer res.Body.Close()
	a = answer{status: res.StatusCode, header: res.Header}
	if res.ContentLength > 0 && res.ContentLength <= int64(maxAnswer) {
		a.body = make([]byte, 0, res.ContentLength+1) // and one for ReadFrom to see the end in
	}
	body := bytes.NewBuffer(a.body)
	n, err := body.ReadFrom(io.LimitReader(res.Body, int64(maxAnswer)+1))
	a.body = body.Bytes()
	switch {
	case ctx.Err() != nil && err != nil:
		a.outcome, a.err = timedOut, err
	case err != nil:
		a.outcome, a.err = maybeHandled, err
	case n > int64(maxAnswer):
		a.outcome, a.err = maybeHandled, errAnswerSize
	}
	return a
}

// Names in the form in which net/http's maps have them.
const (
	headerContentType = "Content-Type"
	headerAccepted    = "Content-Bytes-Accepted"
)

func (t *target) newRequest(ctx context.Context, r *request, now time.Time) (*http.Request, error) {
	u, err := url.ParseRequestURI(r.head.target())
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = t.scheme, t.host
	h := r.head.header(10 + len(r.metas))
	h["Accept"] = []string{contentType}
	h[headerContentType] = []string{contentType}
	h["Connection-Id"] = []string{r.id.String()}
	for _, m := range r.metas {
		name := textproto.CanonicalMIMEHeaderKey("Meta-" + m.name)
		h[name] = append(h[name], m.value)
	}
	if r.replay > 0 {
		h["Content-Bytes-Replayed"] = []string{strconv.Itoa(r.replay)}
	}
	// Where nothing is signed, too: it tells a request that is repeated from a new one.
	id := r.id.String() + "-" + strconv.FormatUint(uint64(r.number), 10)
	h["Webhook-Id"] = []string{id}
	if t.signer != nil {
		t.signer.sign(h, id, now, r.body)
	}
	if h["User-Agent"] == nil {
		h["User-Agent"] = []string{"sluice"}
	}
	body := r.body
	req := (&http.Request{
		Method: http.MethodPost, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: t.host,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	}).WithContext(ctx)
	if len(body) == 0 {
		req.Body, req.GetBody = http.NoBody, nil
	}
	return req, nil
}

// reason says why an answer is none, for the log.
func (a *answer) reason() string {
	if a.err != nil {
		return a.err.Error()
	}
	return "status " + strconv.Itoa(a.status)
}

// isEvents reports whether an answer speaks the protocol.
func (a *answer) isEvents() bool {
	if a.outcome != answered || a.status != http.StatusOK {
		return false
	}
	kind, _, _ := strings.Cut(a.header.Get(headerContentType), ";")
	return strings.EqualFold(strings.TrimSpace(kind), contentType)
}
