// Package wsclient is the client's side of the protocol: the handshake, frames, and the messages
// of the counting service. It is bytes in and bytes out; it does no I/O.
//
// It shares no code with package gateway on purpose: a load generator that read frames with the
// server's own parser would not see that parser's mistakes.
package wsclient
