package backend

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/gobwas/ws"
	"github.com/tinylib/msgp/msgp"
)

// handoff is a Control whose process another one takes over from. Publishers notice nothing:
//
//	Give     items for connections that have gone are passed on
//	Pause    requests wait while the topics themselves are handed over
//	Forward  all requests are answered by the other process; or
//	Resume   it has come to nothing
//
// These are called by one goroutine at a time, in this order.
type handoff struct {
	giving atomic.Pointer[func(item []byte) error]

	gate      sync.RWMutex // held for reading while a request is answered here
	paused    bool         // the gate is held for writing
	elsewhere http.Handler // answers requests; nil: this process. Guarded by gate.
}

// Give begins to pass on what is for connections that are not here any more: send gets it, for
// App.CarryOut in the other process. Any goroutine may call send.
func (c *Control) Give(send func(item []byte) error) { c.handoff.giving.Store(&send) }

// Pause returns when no request is being answered; those that come wait. Items that wait for the
// ones before them are published now: the other process does not know of them.
func (c *Control) Pause() {
	c.handoff.gate.Lock()
	c.handoff.paused = true
	c.sequencer.flush()
}

// Resume ends Give and Pause: requests are answered here.
func (c *Control) Resume() { c.handoff.resume(nil) }

// Forward ends Give and Pause: requests are answered by the control address of the other process,
// an URL, and each caller is asked to connect anew.
func (c *Control) Forward(to *url.URL) {
	c.handoff.resume(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host
		},
		// A transport of its own: its connections end with this process.
		Transport: &http.Transport{DisableCompression: true},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			c.fail(w, http.StatusServiceUnavailable, err)
		},
	})
}

func (h *handoff) resume(elsewhere http.Handler) {
	h.giving.Store(nil)
	if h.paused {
		h.elsewhere, h.paused = elsewhere, false
		h.gate.Unlock()
	}
}

// serve answers a request here or elsewhere, whose body is read before it may hold anything up.
func (h *handoff) serve(w http.ResponseWriter, r *http.Request, here http.Handler) error {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = &wholeBody{*bytes.NewReader(text), text}
	h.gate.RLock()
	elsewhere := h.elsewhere
	if elsewhere == nil {
		defer h.gate.RUnlock()
		here.ServeHTTP(w, r)
		return nil
	}
	h.gate.RUnlock()
	w.Header().Set("Connection", "close")
	elsewhere.ServeHTTP(w, r)
	return nil
}

// wholeBody is a request's that has been read.
type wholeBody struct {
	bytes.Reader
	text []byte
}

// Close implements io.Closer.
func (*wholeBody) Close() error { return nil }

// bodyOf is the body of a request that serve gives to the handlers here.
func bodyOf(r *http.Request) []byte { return r.Body.(*wholeBody).text }

// pass has an item carried out in the process that takes over, if there is one.
func (h *handoff) pass(it item) bool {
	send := h.giving.Load()
	return send != nil && (*send)(it.append(nil)) == nil
}

// CarryOut does what another process' Control has passed on. It waits for connections that are
// still on their way. Not for loops.
func (a *App) CarryOut(data []byte) error {
	r := reader{b: data}
	it := r.item()
	if len(r.b) > 0 {
		r.fail()
	}
	if r.err != nil {
		return r.err
	}
	if it.connection == "" {
		toMembers(a.hub, it)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), onTimeout)
	defer cancel()
	if err := a.toConnection(ctx, it); !errors.Is(err, errNoConnection) {
		return err
	}
	return nil // it has ended
}

// append writes what is left of an item when its turn has come.
func (it *item) append(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, 7)
	b = msgp.AppendString(msgp.AppendString(b, it.topic), it.connection)
	b = msgp.AppendInt(msgp.AppendInt(b, int(it.action)), int(it.op))
	b = msgp.AppendBytes(b, it.content)
	return msgp.AppendString(msgp.AppendInt(b, int(it.code)), it.reason)
}

func (r *reader) item() (it item) {
	if r.array(7) != 7 {
		r.fail()
	}
	it.topic, it.connection = r.string(), r.string()
	it.action, it.op = itemAction(r.int()), ws.OpCode(r.int())
	it.content = r.bytes()
	it.code, it.reason = ws.StatusCode(r.int()), r.string()
	switch {
	case it.action != publishSend && it.action != publishClose && it.action != publishRefresh,
		it.action == publishSend && !it.op.IsData() && it.op != ws.OpPing && it.op != ws.OpPong,
		it.action == publishClose && !sendable(it.code):
		r.fail()
	}
	return it
}
