// Package tlsserver is the server's side of TLS without a socket: certificates and ticket keys that
// follow their files, and handshakes that a bounded number of goroutines compute.
//
// # Who does what
//
// A handshake is made by crypto/tls, as it is. It takes 0.4 ms of CPU, so it must not run on a
// loop; and it must not touch the socket, which belongs to the loop. So crypto/tls runs on a
// goroutine with a connection in memory. The loop reads from the socket and gives it whole records;
// the goroutine computes until it needs more, hands what it wrote back to the loop, and waits. All
// that a handshake holds belongs to whichever of the two runs, so there is no lock.
//
// How many of the goroutines compute at a time is bounded (Config.Workers), and a goroutine that
// waits for its peer does not count: half a handshake costs memory, not a turn. How many there may
// be at all is for the caller to bound, who also knows which has waited the longest.
//
// The connection in memory gives out one record at a time. crypto/tls reads as much as it gets, and
// what it has read ahead would be lost to whoever goes on after the handshake.
//
// # After the handshake
//
// With TLS 1.3 and Config.Compact the tls.Conn is dropped and a tls13.Layer goes on. It takes the
// two application traffic secrets, which come through Config.KeyLogWriter, and the number of
// records sent under the server's by then: those of the session ticket, which pass WrapSession. The
// key log is parsed where it is written, in memory, and goes nowhere else. In all other cases
// Stream goes on with the tls.Conn, called from the loop.
//
// # Decisions
//
//   - Files are read every two seconds and compared, rather than their times: that is right for
//     symbolic links that are turned over, as Kubernetes does, and for two writes in one tick of
//     the file system's clock. What cannot be used is logged once, counted at each look, and the
//     old stays in force.
//   - Ticket keys without a file are made here, a new one each day, and kept for a week, as
//     crypto/tls does by itself. With a file its first key encrypts and all of them decrypt.
//   - A client that offers several protocols must offer http/1.1 among them (ALPN), for there is no
//     WebSocket over HTTP/2 here.
package tlsserver
