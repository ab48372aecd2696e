package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/http"

	"github.com/gobwas/ws"
)

// request collects the request head and acts on it when it is whole. It returns what follows the
// head: the first frames, of a client that did not wait for the answer.
func (c *Conn) request(b []byte) []byte {
	if c.flags&awaitsProxy != 0 {
		rest, done := c.proxyHeader(b)
		if !done || len(rest) == 0 {
			return rest
		}
		if c.flags&layered != 0 { // it came ahead of what the transport carries
			c.rare.transport.open(c, rest)
			return nil
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
		c.refuse(refuseHeaders, "", false)
		return nil
	case bad:
		c.refuse(refuseRequestLine, "", false)
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
	bodyless := string(r.Method) == http.MethodHead
	requestID := c.w.requestID(r.RequestID)
	if refusal == nil {
		switch string(r.Path) {
		case "/healthz":
			c.answerHealth(r, requestID, bodyless, nil)
			return
		case "/readyz":
			c.answerHealth(r, requestID, bodyless, c.w.server.ready(1))
			return
		}
		refusal = c.admitRequest(head, r)
	}
	if refusal != nil {
		c.refuse(refusal, requestID, bodyless)
		return
	}
	c.openUp(r, requestID)
}

// admitRequest checks what makes a request a WebSocket handshake. On nil, the worker's upgrade
// buffer holds the 101 response without its last line.
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
	case c.w.server.taken() > int64(c.w.cfg.MaxConns):
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

// validKey checks Sec-WebSocket-Key: "a base64-encoded value that, when decoded, is 16 bytes in
// length" (RFC 6455, section 4.2.1).
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
	now := c.w.loop.Now()
	c.w.metrics.handshakeTime.Update((now - c.seen).Seconds())
	c.seen = now
	if c.w.debug {
		c.w.log.Debug("handshake", "fd", c.fd.SysFD(), "request_id", requestID, "path", clipped(r.Path), "host", clipped(r.Host),
			"origin", clipped(r.Origin))
	}
	c.describe(r, requestID)
	u := &c.w.upgrader
	u.out = c.negotiate(u.out, r)
	u.out = append(append(append(u.out, requestIDHeader...), requestID...), "\r\n"...)
	c.flags |= handled
	c.setState(opening)
	c.w.asked = c
	c.w.handler.Open(c, r)
	c.w.asked = nil
	if c.state == opening { // the answer comes later: keep the response for it
		in := c.input()
		in.accept = c.w.loop.Buffers.Append(in.accept, u.out...)
	}
}

// Accept completes the handshake: 101, with headers (whole lines, each ending in CRLF; may be
// empty). From then on messages flow both ways. Once, from Handler.Open or later.
func (c *Conn) Accept(headers string) {
	if c.state != opening {
		return
	}
	w, head := c.w, c.acceptHead()
	outer := w.cork(c)
	w.scratch = c.appendProtocol(append(w.scratch, head...), headers)
	w.scratch = append(append(w.scratch, headers...), "\r\n"...)
	if c.in != nil && c.in.accept != nil {
		w.loop.Buffers.Put(c.in.accept)
		c.in.accept = nil
	}
	c.flags |= accepted
	if !w.draining {
		c.startHeartbeat()
	}
	c.setState(open)
	w.metrics.connections.Add(1)
	w.metrics.connectionsTotal.Inc()
	if s := c.summary(); s != nil {
		s.at = w.loop.Now()
	}
	if w.asked != c {
		c.resumeLater() // frames may have come with the request
	}
	w.uncork(c, outer)
}

// Refuse answers the request with r instead. Once, from Handler.Open or later.
func (c *Conn) Refuse(r *Refusal) {
	if c.state == opening {
		_, requestID, _ := bytes.Cut(c.acceptHead(), []byte(requestIDHeader))
		c.refuse(r, string(bytes.TrimSuffix(requestID, []byte("\r\n"))), false)
	}
}

// acceptHead is the 101 response while the Handler has not answered: all but its last line,
// X-Request-ID at its end.
func (c *Conn) acceptHead() []byte {
	if c.w.asked == c {
		return c.w.upgrader.out
	}
	return c.in.accept
}

// refuse sends an HTTP response and closes the socket after it. bodyless says that the request was
// a HEAD.
func (c *Conn) refuse(r *Refusal, requestID string, bodyless bool) {
	c.w.metrics.refused[r.reason].Inc()
	c.logRefusal(r, requestID)
	if c.w.debug {
		c.w.log.Debug("refused", "fd", c.fd.SysFD(), "request_id", requestID, "status", r.status,
			"reason", r.reason.String())
	}
	c.answer(r.append(nil, requestID), bodyless)
}

func (c *Conn) answer(response []byte, bodyless bool) {
	if bodyless {
		// RFC 9110, section 9.3.2: "the server MUST NOT send content in the response" to a HEAD
		head, _, _ := bytes.Cut(response, []byte("\r\n\r\n"))
		response = response[:len(head)+4]
	}
	c.send(response)
	c.linger()
}

// answerHealth answers a load balancer's check.
func (c *Conn) answerHealth(r *Request, requestID string, bodyless bool, err error) {
	switch method := string(r.Method); {
	case method != http.MethodGet && method != http.MethodHead:
		c.refuse(refuseMethod, requestID, bodyless)
	case err != nil:
		c.answer(appendResponse(nil, http.StatusServiceUnavailable, requestID, "Retry-After: 1\r\n",
			"not ready: "+readyWord(err)+"\n"), bodyless)
	default:
		c.answer(appendResponse(nil, http.StatusOK, requestID, "", "ok\n"), bodyless)
	}
}

// readyWord is why the gateway is not ready, for strangers: addresses and errors of the store are
// for the operators' address.
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
