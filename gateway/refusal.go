package gateway

import (
	"fmt"
	"net/http"
	"strconv"
)

// Refusal is an answer to a request that does not become a WebSocket. The socket is closed after
// it.
type Refusal struct {
	status int
	reason refusalReason
	text   string // the body: for the person who debugs the client
	header string // whole lines
	whole  bool   // header has all that is to be said of the body, and text is the body as it is
}

// Refusals that applications use.
var (
	// RefuseSession is 400: the session id is not a UUID.
	RefuseSession = newRefusal(http.StatusBadRequest, refusedSessionID, "session_id must be one UUID, like 123e4567-e89b-42d3-a456-426614174000", "")
	// RefuseUnavailable is 503 with Retry-After: what the application needs does not answer.
	RefuseUnavailable = newRefusal(http.StatusServiceUnavailable, refusedStore, "sessions are not available at the moment", "Retry-After: 5\r\n")
	// RefuseRate is 503 with Retry-After: too many new sessions in this second.
	RefuseRate = newRefusal(http.StatusServiceUnavailable, refusedSessionRate, "too many new sessions", "Retry-After: 1\r\n")
	// RefuseFull is 503 with Retry-After: no room for more.
	RefuseFull = newRefusal(http.StatusServiceUnavailable, refusedFull, "no room for more connections", "Retry-After: 5\r\n")
)

var (
	refuseRequestLine = newRefusal(http.StatusBadRequest, refusedRequest, "malformed request line: want GET /path HTTP/1.1", "")
	refuseHeader      = newRefusal(http.StatusBadRequest, refusedRequest, "malformed or repeated header", "")
	refuseHost        = newRefusal(http.StatusBadRequest, refusedRequest, "the Host header is missing", "")
	refuseBody        = newRefusal(http.StatusBadRequest, refusedRequest, "a request with a body cannot become a WebSocket", "")
	refuseHeaders     = newRefusal(http.StatusRequestHeaderFieldsTooLarge, refusedHeaders, "too many or too large headers", "")
	refuseTimeout     = newRefusal(http.StatusRequestTimeout, refusedTimeout, "the request took too long", "")
	refuseMethod      = newRefusal(http.StatusMethodNotAllowed, refusedMethod, "only GET is possible here", "Allow: GET\r\n")
	// RFC 9110, section 7.8: "A sender of Upgrade MUST also send an "Upgrade" connection option",
	// here beside the "close" of all refusals.
	refuseNoUpgrade   = newRefusal(http.StatusUpgradeRequired, refusedUpgrade, "this path speaks WebSocket (RFC 6455), version 13", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
	refuseHandshake   = newRefusal(http.StatusBadRequest, refusedRequest, "not a valid WebSocket handshake (RFC 6455, section 4.2.1)", "")
	refuseOrigin      = newRefusal(http.StatusForbidden, refusedOrigin, "this origin may not connect (see --allowed-origins)", "")
	refuseOtherHost   = newRefusal(http.StatusMisdirectedRequest, refusedHost, "this host is not served here (see --allowed-hosts)", "")
	refuseProxy       = newRefusal(http.StatusBadRequest, refusedProxy, "the PROXY header is missing or malformed", "")
	refuseAddress     = newRefusal(http.StatusForbidden, refusedAddress, "this address may not connect", "")
	refuseTooMany     = newRefusal(http.StatusTooManyRequests, refusedTooMany, "too many connections of this address", "Retry-After: 5\r\n")
	refuseDraining    = newRefusal(http.StatusServiceUnavailable, refusedDraining, "going away", "Retry-After: 1\r\n")
	refuseSlowHandler = newRefusal(http.StatusServiceUnavailable, refusedHandler, "no answer in time", "Retry-After: 5\r\n")
)

// NewRefusal makes an application's own refusal, such as 401 or 429. text is its body; headers are
// whole lines, each ending in CRLF, and may be empty. It is counted as "application". Make it once
// and use it often; any goroutine. It panics on a status that is no refusal (below 300 or above
// 599).
func NewRefusal(status int, text, headers string) *Refusal {
	if status < 300 || status > 599 {
		panic(fmt.Sprintf("gateway: status %d is no refusal", status))
	}
	return newRefusal(status, refusedApplication, text, headers)
}

// NewResponse makes an application's whole answer to a request, such as a page or a redirect:
// headers are whole lines, each ending in CRLF, Content-Type among them if there is one; the
// gateway adds Content-Length and Connection. It is counted as "application". Any goroutine. It
// panics on a status below 200 or above 599.
func NewResponse(status int, headers, body string) *Refusal {
	if status < 200 || status > 599 {
		panic(fmt.Sprintf("gateway: status %d ends no request", status))
	}
	return &Refusal{status: status, reason: refusedApplication, text: body, header: headers, whole: true}
}

func newRefusal(status int, reason refusalReason, text, header string) *Refusal {
	return &Refusal{status: status, reason: reason, text: text, header: header}
}

// append writes the whole response.
func (r *Refusal) append(b []byte, requestID string) []byte {
	if r.whole {
		return appendAnswer(b, r.status, requestID, r.header, r.text)
	}
	return appendResponse(b, r.status, requestID, r.header, r.text+"\n")
}

func appendResponse(b []byte, status int, requestID, header, body string) []byte {
	const text = "Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
	return appendAnswer(b, status, requestID, text+header, body)
}

func appendAnswer(b []byte, status int, requestID, header, body string) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	b = append(b, "\r\nConnection: close\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n"...)
	b = append(b, header...)
	if requestID != "" {
		b = append(b, "X-Request-ID: "...)
		b = append(b, requestID...)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	return append(b, body...)
}
