package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"time"

	"github.com/gobwas/ws"
)

// request collects the request head and acts on it when it is whole. It returns what follows the head: the first frames, of a
// client that did not wait for the answer.
func (c *Conn) request(b []byte) []byte {
	if c.flags&awaitsProxy != 0 {
		rest, done := c.proxyHeader(b)
		if !done || len(rest) == 0 {
			return rest
		}
		b = rest
	}
	in := c.in
	scanned := 0
	if in != nil {
		scanned = in.scanned
	}
	end, bad := headEnd(b, scanned)
	limit := c.w.cfg.MaxHandshake
	switch {
	case end > limit || (end == 0 && len(b) > limit):
		c.refuse(refuseHeaders, "")
		return nil
	case bad:
		c.refuse(refuseRequestLine, "")
		return nil
	case end == 0:
		c.input().scanned = len(b)
		return b
	}
	if in != nil {
		in.scanned = 0
	}
	c.route(b[:end])
	return b[end:]
}

// route answers a complete request head.
func (c *Conn) route(head []byte) {
	r := &c.w.request
	refusal := parseRequest(head, c.w.cfg.MaxHeaders, r)
	c.requestComplete()
	if refusal == nil {
		refusal = c.forwarded(r)
	}
	if string(r.Method) == http.MethodHead {
		c.flags |= bodyless
	}
	requestID := c.w.requestID(r.RequestID)
	if refusal == nil {
		switch string(r.Path) {
		case "/healthz":
			c.answerHealth(r, requestID, nil)
			return
		case "/readyz":
			c.answerHealth(r, requestID, c.w.server.ready(1))
			return
		}
		refusal = c.admitRequest(head, r)
	}
	if refusal != nil {
		c.refuse(refusal, requestID)
		return
	}
	c.openUp(r, requestID)
}

// admitRequest checks what makes a request a WebSocket handshake. On nil, the worker's upgrade buffer holds the 101 response
// without its last line.
func (c *Conn) admitRequest(head []byte, r *Request) *Refusal {
	switch {
	case !c.w.cfg.AnyPath && !c.w.hasPath(r.Path):
		return c.w.server.refusePath
	case string(r.Method) != http.MethodGet:
		return refuseMethod
	case len(r.upgrade) != len("websocket") || !bytes.EqualFold(r.upgrade, []byte("websocket")): // the length: EqualFold takes the Kelvin sign for a K
		return refuseNoUpgrade
	case !validKey(r.key):
		return refuseHandshake
	}
	if status := c.w.upgrader.upgrade(head); status != 0 {
		if status == http.StatusUpgradeRequired {
			return refuseNoUpgrade
		}
		return refuseHandshake
	}
	switch {
	case !c.w.hosts.allow(r.Host):
		return refuseOtherHost
	case !c.w.origins.allow(r.Origin, r.Host):
		return refuseOrigin
	case c.w.draining:
		return refuseDraining
	case c.w.server.conns.Load() > int64(c.w.cfg.MaxConns):
		return RefuseFull
	}
	return nil
}

func (w *worker) hasPath(path []byte) bool {
	for _, p := range w.cfg.Paths {
		if string(path) == p {
			return true
		}
	}
	return false
}

// validKey checks Sec-WebSocket-Key: "a base64-encoded value that, when decoded, is 16 bytes in length" (RFC 6455, section 4.2.1).
func validKey(key []byte) bool {
	var nonce [18]byte
	if len(key) != 24 {
		return false
	}
	n, err := base64.StdEncoding.Strict().Decode(nonce[:], key)
	return err == nil && n == 16
}

// upgrader runs ws.Upgrader over a request in memory.
type upgrader struct {
	ws.Upgrader
	in  bytes.Reader
	out []byte // the response, without the last CRLF, so that headers can be added
}

// Read and Write implement io.ReadWriter for ws.Upgrader.
func (u *upgrader) Read(p []byte) (int, error) { return u.in.Read(p) }
func (u *upgrader) Write(p []byte) (int, error) {
	u.out = append(u.out, p...)
	return len(p), nil
}

// upgrade returns 0, or the status to refuse with.
func (u *upgrader) upgrade(head []byte) int {
	u.in.Reset(head)
	u.out = u.out[:0]
	_, err := u.Upgrade(u)
	u.in.Reset(nil)
	if err == nil {
		u.out = u.out[:len(u.out)-2]
		return 0
	}
	if rejected, ok := err.(*ws.ConnectionRejectedError); ok {
		return rejected.StatusCode()
	}
	return http.StatusBadRequest
}

const requestIDHeader = "X-Request-ID: "

// openUp gives the request to the Handler.
func (c *Conn) openUp(r *Request, requestID string) {
	arrived := c.deadline - c.w.cfg.HandshakeTimeout
	c.w.metrics.handshakeTime.Update((c.w.loop.Now() - arrived).Seconds())
	if c.w.debug {
		c.w.log.Debug("handshake", "fd", c.fd.SysFD(), "request_id", requestID, "path", clipped(r.Path), "host", clipped(r.Host),
			"origin", clipped(r.Origin))
	}
	c.describe(r, requestID)
	u := &c.w.upgrader
	u.out = c.negotiate(u.out, r)
	u.out = append(append(append(u.out, requestIDHeader...), requestID...), "\r\n"...)
	c.state = opening
	c.flags |= handled
	c.patience(c.w.cfg.HandshakeTimeout)
	c.w.accepting = c
	c.w.handler.Open(c, r)
	c.w.accepting = nil
	if c.state == opening { // the answer comes later: keep the response for it
		in := c.input()
		in.accept = c.w.loop.Buffers.Append(in.accept, u.out...)
		c.interest()
	}
}

// Accept completes the handshake: 101, with headers (whole lines, each ending in CRLF; may be empty). From then on messages
// flow both ways. Once, from Handler.Open or later.
func (c *Conn) Accept(headers string) {
	if c.state != opening {
		return
	}
	w, head := c.w, c.acceptHead()
	nested := w.begin(c)
	w.scratch = c.appendProtocol(append(w.scratch, head...), headers)
	w.scratch = append(append(w.scratch, headers...), "\r\n"...)
	if c.in != nil && c.in.accept != nil {
		w.loop.Buffers.Put(c.in.accept)
		c.in.accept = nil
	}
	c.state = open
	c.flags |= accepted
	w.metrics.connections.Add(1)
	w.metrics.connectionsTotal.Inc()
	if s := c.summary(); s != nil {
		s.at = w.loop.Now()
	}
	if w.draining { // it began while the Handler was thinking
		c.beatAt = w.loop.Now()
	} else {
		c.startHeartbeat()
	}
	c.rearm()
	if w.accepting != c {
		c.revive() // frames may have come with the request
	}
	w.end(c, nested)
}

// Refuse answers the request with r instead. Once, from Handler.Open or later.
func (c *Conn) Refuse(r *Refusal) {
	if c.state == opening {
		_, requestID, _ := bytes.Cut(c.acceptHead(), []byte(requestIDHeader))
		c.refuse(r, string(bytes.TrimSuffix(requestID, []byte("\r\n"))))
	}
}

// acceptHead is the 101 response while the Handler has not answered: all but its last line, X-Request-ID at its end.
func (c *Conn) acceptHead() []byte {
	if c.w.accepting == c {
		return c.w.upgrader.out
	}
	return c.in.accept
}

// refuse sends an HTTP response and closes the socket after it.
func (c *Conn) refuse(r *Refusal, requestID string) {
	c.w.metrics.refused[r.reason].Inc()
	c.logRefusal(r, requestID)
	if c.w.debug {
		c.w.log.Debug("refused", "fd", c.fd.SysFD(), "request_id", requestID, "status", r.status,
			"reason", r.reason.String())
	}
	c.answer(r.append(nil, requestID))
}

func (c *Conn) answer(response []byte) {
	if c.flags&bodyless != 0 {
		// RFC 9110, section 9.3.2: "the server MUST NOT send content in the response" to a HEAD
		head, _, _ := bytes.Cut(response, []byte("\r\n\r\n"))
		response = response[:len(head)+4]
	}
	c.write(response)
	c.linger()
}

// answerHealth answers a load balancer's check.
func (c *Conn) answerHealth(r *Request, requestID string, err error) {
	switch method := string(r.Method); {
	case method != http.MethodGet && method != http.MethodHead:
		c.refuse(refuseMethod, requestID)
	case err != nil:
		c.answer(appendResponse(nil, http.StatusServiceUnavailable, requestID, "Retry-After: 1\r\n", "not ready: "+readyWord(err)+"\n"))
	default:
		c.answer(appendResponse(nil, http.StatusOK, requestID, "", "ok\n"))
	}
}

// readyWord is why the gateway is not ready, for strangers: addresses and errors of the store are for
// the operators' address.
func readyWord(err error) string {
	switch err {
	case errStarting, errDraining, errFull:
		return err.Error()
	}
	return "unavailable"
}

// requestID takes the client's over or makes one.
func (w *worker) requestID(given []byte) string {
	if len(given) > 0 {
		return string(given)
	}
	var id [8]byte
	for i, n := 0, w.random.Uint64(); i < len(id); i++ {
		id[i] = byte(n >> (8 * i))
	}
	return hex.EncodeToString(id[:])
}

// patience sets the deadline of a state that must not last.
func (c *Conn) patience(d time.Duration) {
	c.deadline = c.w.loop.Now() + d
	c.rearm()
}
