// Package gateway speaks WebSocket (RFC 6455) with very many clients: handshake, frames,
// heartbeats, limits, drain. What it does with their messages is an App's: Echo is the smallest.
// Those in the folders below (count, backend) use exported names only, as anybody's would.
//
// # Reading it
//
// conn.go is the path of a byte, in order: readable → read → process → frames → message →
// Handler.Message, and back with Conn.Send → uncork, one write for all replies of an event. Beside
// it stand
//
//	request.go    a request head: bytes in, Request or Refusal out
//	handshake.go  routing, the upgrade, the origin policy
//	refusal.go    every answer that is not 101
//	frame.go      a frame header, a Close payload, a piece of UTF-8: bytes in, values out
//	input.go      what is held while a message has come only in part
//	outbound.go   Send, the queue of a slow reader and how it ends
//	state.go      the states of a connection, and what is due in each
//	heartbeat.go  heartbeats, and peers that are dead
//	life.go       how a connection ends
//	transport.go  what TLS puts between a socket and its frames
//	tls.go        a TLS handshake, and the two that go on after it
//	tlsmove.go    TLS on its way to another process
//	listening.go  the listeners of a loop
//	overflow.go   sockets that a full loop passes on
//	worker.go     one loop and its connections
//	server.go     New, Start, Drain, Close
//	count/        the counting service
//	admin/        the address for operators
//
// # Ownership
//
// A Conn belongs to its loop. Handlers are called on it and must not block it; the one way in from
// elsewhere is Conn.Post. There is no lock, no channel and no allocation on the way of a message,
// and no goroutine, buffer or runtime timer for a connection.
//
// An idle connection holds its Conn (192 bytes), its entry in netpoll (112, and 32 for two
// callbacks), its session (see package sessions) and the counting service's 48. Partial input and
// unsent output live in pooled structs that go back as soon as they are empty.
//
// # State
//
// setState alone changes the state, and nextDeadline alone knows what is due, for arming the timer
// and for firing. All output goes through cork and uncork, in order. What the state, the deadline
// and the queue mean for the loop is told it in setState and settle.
//
// # Decisions
//
//   - The end of the sending side is FIN, then waiting for the peer's (2 s at most), then close.
//     Closing at once with unread bytes in the socket makes the kernel send a reset, which can
//     destroy the Close frame, or the 503, on its way.
//   - A queue is bounded by what waits in it already (MaxQueue), so that one reply of any size can
//     be queued. Bounding the sum would cut off a client that reads steadily but echoes messages as
//     large as the queue.
//   - A slow consumer gets a reset and no 1008: its socket is full, so the frame could not leave,
//     and a reset makes the kernel let go of the memory at once.
//   - A Close without a code is answered without a code.
//   - Close codes 1012 to 1014, which IANA registered after the RFC, are taken from clients; 5000
//     and above are not (ws.CheckCloseFrameData refuses the former and takes the latter).
//   - A connection refused for want of room is let in (up to 128 over the bound) until its request
//     has been read, for the reason given first.
//   - A panic in a Handler ends the process. Recovering would go on with whatever it left half
//     done, perhaps a lock, on a loop that serves thousands; a fresh process is the safer
//     neighbour.
//   - What the gateway itself runs out of, it runs out of before 101, and answers with 503. The
//     close codes 1011 and 1013 are for Handlers: package count uses them when the store refuses a
//     session that is connected already.
//   - When more requests wait for the Handler than it answers in a second, nothing is accepted for
//     a moment: clients wait in the kernel's queue. They would be refused later otherwise, and come
//     back: with Redis and 200,000 clients that returned at once, hardly anybody got in any more.
//   - /healthz and /readyz are answered over HTTP/1.0 too, without Host: some load balancers ask
//     that way.
//   - Connection may be a list and come on several lines; Upgrade must be "websocket" and nothing
//     else (an offer of two protocols gets 426), for that is what ws.Upgrader takes. An empty
//     Origin counts as none.
package gateway
