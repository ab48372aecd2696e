// Package tls13 is the record layer of TLS 1.3 (RFC 8446, section 5) for a server that holds very
// many connections: bytes in, bytes out, no I/O, no goroutine, no lock, and 120 bytes for each.
//
// crypto/tls makes the handshake. Its two application traffic secrets, and how many records it has
// sent under its own, are all that a Layer needs to go on; a tls.Conn holds 6 to 10 KB for it.
//
// # Reading it
//
//	layer.go   Layer: Open and Seal, what each record may be, KeyUpdate, alerts
//	keys.go    Keys: the AEADs that one loop has at hand, most recently used first
//	suite.go   the cipher suites and the key schedule (section 7)
//	state.go   a Layer as bytes, for handing a connection to another process
//
// # What it rests on
//
// There is no arithmetic on secrets here: crypto/hkdf derives, crypto/cipher's GCM over crypto/aes
// and golang.org/x/crypto/chacha20poly1305 encrypt and compare tags. The last is not in the
// standard library's public part, and is what crypto/tls itself has a copy of. Only the lengths of
// records and of their padding decide which way the code here goes, as in crypto/tls.
//
// # Decisions
//
//   - An AEAD takes 1.3 KB and 2 µs to build, so a connection has none of its own. A loop keeps a
//     bounded number; a connection whose AEAD was given away has it built again from the secret.
//   - Of a handshake message that came in part nothing is kept but how long the part is: KeyUpdate
//     is the only one that a client may send (section 4.6), and its first four bytes are always the
//     same.
//   - A KeyUpdate that asks for ours is answered ahead of the next data that is sent, as section
//     4.6.3 allows: a peer that asks a hundred times while we are silent gets one answer.
//   - Records that carry nothing (empty ones, KeyUpdates, user_canceled) are counted, and too many
//     in a row end the connection, with the same bound as in crypto/tls.
//   - Where the RFC is stricter than crypto/tls the RFC is followed: change_cipher_spec after the
//     handshake and a record whose content is empty to the last byte end the connection. Where
//     crypto/tls is stricter, crypto/tls is: a record's version must be 0x0303.
//   - Secrets are overwritten when they are replaced and when a connection ends. The AEADs of the
//     standard library cannot be: they are dropped, and the collector frees them.
package tls13
