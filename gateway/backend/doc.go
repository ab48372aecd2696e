// Package backend puts services that speak plain HTTP behind a gateway: it holds the WebSockets,
// and what clients say comes to the service as requests. The convention is GRIP's
// WebSocket-over-HTTP, as Pushpin and Fastly Fanout speak it, so that their libraries (django-grip,
// @fanoutio/grip, gripcontrol) work as they are.
//
// # Reading it
//
//	app.go          App, the gateway's Handler: a handshake becomes a session
//	session.go      a connection as its backend sees it, from message to request
//	settle.go       from answer to client
//	lane.go         one loop's queue to one backend
//	target.go       one request: headers, the pool, what became of it
//	breaker.go      a backend that cannot be reached
//	goodbye.go      what a backend is told of connections that have ended
//	events.go       application/websocket-events: bytes in, events out
//	grip.go         the negotiation and the control messages
//	timers.go       carries them out, also those with a delay
//	headers.go      what of a handshake the backend gets, and what of its answers the client
//	routes.go       paths to backends
//	sign.go         Grip-Sig and webhook-signature
//	control.go      the address at which services publish, with connections.go, publish.go,
//	                sequencer.go and auth.go
//	move.go         connections that go on in another process; with handoff.go, who publishes
//	channels.go     what Django Channels publishes
//
// # What is promised
//
// Messages of one connection reach the backend at most once and in order: one request is in flight,
// all that comes meanwhile is in the next one. A request is repeated only when it was surely not
// handled: no connection was to be had, or not a byte was written to it (net/http repeats that by
// itself), or an HTTP/2 server has refused it. It then keeps its webhook-id, which numbers the
// requests of a connection. What was sent and not answered, or answered with an error, may have
// been handled or not; its connection is closed, 1013 when the backend did not answer in time or at
// all and 1011 when it answered with an error, so that the client hears of it. Messages behind one
// that was not answered are given up with it: it may be handled yet, and they would overtake it.
// When the gateway's process dies, what waited in it is lost, and the clients' connections with it.
// Every end of a connection is told, CLOSE when it was in order and DISCONNECT when not, behind all
// that the client had said before, and again until the backend has answered: DISCONNECT may come
// twice.
//
// Who publishes while another process takes over gets one answer to each request, as ever. Until
// all connections have moved, the old process orders what is published, and its answers count the
// subscribers that it still has; then requests wait for some milliseconds, and the new process
// answers them. A message for one connection that has moved is answered with 200 unseen: it reaches
// the connection if there is one. Ids of items are remembered by the process that published them,
// so one that is published again after a takeover comes twice.
//
// # Decisions
//
//   - A loop has its own share of the requests in flight and its own queue, so there is no lock
//     between a message and its request. A session that waits costs no goroutine; those that exist
//     are of requests in flight.
//   - The gateway answers Pings and the backend is not told: a request for each would make idle
//     clients cost it something. PING and PONG of the backend go to the client.
//   - Host is the backend's own, and the client's is X-Forwarded-Host: a client must not choose
//     among a backend's virtual hosts. Pushpin passes the client's on.
//   - X-Forwarded-For is the client's address and nothing that the client says of itself, and
//     X-Forwarded-User is there only when somebody has proved who the client is (Conn.User), and
//     X-SSL-Client-DN only when a certificate has (Conn.Subject). Neither do its Meta-, Grip- and
//     Webhook- headers pass, nor any with an underscore, which CGI reads as a hyphen.
//   - X-Forwarded-Proto is https for a client that speaks TLS to this gateway. What a proxy in
//     front has been spoken to with the gateway cannot know.
//   - --backend-url http://host/ws/ serves the paths below /ws/, each under its own name: what is
//     at hand when a service has its WebSockets below one path. A route whose pattern differs from
//     its URL's path exchanges one for the other.
//   - A path with dot segments is refused: it would be matched here as one path and served there as
//     another.
//   - Of GRIP's control messages subscribe, unsubscribe, detach, keep-alive, send-delayed and
//     flush-delayed are carried out. session and set-meta, which are about HTTP streams and
//     filters, and any other are counted (sluice_backend_ignored_total) and ignored, as by Pushpin.
//     set-hold is among them: to hold a response open is for HTTP (Grip-Hold), and a WebSocket is
//     open anyway. Filters are not offered (there is no Grip-Feature), and not applied.
//   - {"type":"subscribe","channel":"room","since":"POSITION"} is our own: the client is sent
//     {"type":"subscribed","topic":"room","position":"…","recovered":true,"messages":N}, and then
//     the N messages that it has missed since POSITION, if the topic has a history that goes back
//     so far. An empty POSITION asks only where the subscription begins. Each message adds 1 to
//     what follows the colon of a position.
//   - A keep-alive for silence counts what the backend sends in its answers, not what is published.
//   - Pooled connections are closed after 1.5 s without use, before most servers do it, and looked
//     at before each request (fresh.go): of a request that crosses the server's close nobody could
//     tell whether it was handled.
//   - Status 500 does not open the breaker: it may be one client's fault. 502, 503, 504 and 429 do,
//     which come from proxies and from services that are overloaded.
//   - The order that prev-id asks for, and ids that came before, are a matter of the node that
//     items are published at.
package backend
