package tls13

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// Layer is the record layer of one connection, on the server's side, after its handshake. It
// belongs to the loop whose Keys it is used with, and must not be copied once it has been used.
// The zero Layer is none.
type Layer struct {
	half    [2]half
	long    *[2][48]byte // the secrets of AES-256-GCM, which half has no room for; else nil
	slot    [2]uint16    // where Keys has the AEAD; 0: nowhere
	built   [2]uint8     // when that AEAD, or the last, was built: see Keys.turn; 0: never
	suite   suite
	flags   flags
	useless uint8 // records in a row that carried nothing
	partial uint8 // bytes of a KeyUpdate that have come
}

// half is one direction.
type half struct {
	seq    uint64 // of the next record
	secret [32]byte
}

type direction uint8

const (
	in  direction = iota // what the client sends
	out                  // what we send
)

type flags uint8

const (
	ended flags = 1 << iota // nothing more is read: close_notify, or an error
	mute                    // our last alert is out: nothing more is sent
	owing                   // the peer has asked for a KeyUpdate of ours
	asked                   // we have asked for one of the peer's
)

// Sizes of RFC 8446, section 5.
const (
	// MaxPlaintext is what one record carries at most.
	MaxPlaintext = 1 << 14
	// MaxRecord is the size of the longest record with its header: a buffer of this size always
	// holds one whole.
	MaxRecord = headerSize + MaxPlaintext + 256
	// Overhead is what a record of ours has beside what it carries: header, type and tag.
	Overhead = headerSize + 1 + tagSize
)

// Content types (section 5.1).
const (
	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23
)

// maxUseless bounds the records in a row that carry nothing, as in crypto/tls.
const maxUseless = 16

// Alert is the description of an alert (section 6). As an error of Open it is what the peer did
// wrong, and the alert to send; as a RemoteAlert it came from the peer.
type Alert uint8

// Alerts that this package sends.
const (
	CloseNotify       Alert = 0
	UnexpectedMessage Alert = 10
	BadRecordMAC      Alert = 20
	RecordOverflow    Alert = 22
	IllegalParameter  Alert = 47
	DecodeError       Alert = 50
	ProtocolVersion   Alert = 70
)

const userCanceled = 90

// Error implements error.
func (a Alert) Error() string {
	switch a {
	case CloseNotify:
		return "tls13: close_notify"
	case UnexpectedMessage:
		return "tls13: unexpected message"
	case BadRecordMAC:
		return "tls13: a record that does not decrypt"
	case RecordOverflow:
		return "tls13: a record that is too long"
	case IllegalParameter:
		return "tls13: illegal parameter"
	case DecodeError:
		return "tls13: a message that cannot be decoded"
	case ProtocolVersion:
		return "tls13: a record of another version"
	}
	return fmt.Sprintf("tls13: alert %d", uint8(a))
}

// RemoteAlert is a fatal alert that the peer sent. Nothing is to be answered.
type RemoteAlert Alert

// Error implements error.
func (a RemoteAlert) Error() string { return fmt.Sprintf("tls13: alert %d from the peer", uint8(a)) }

// ErrEnded is what Open returns after it has returned another error.
var ErrEnded = errors.New("tls13: the peer's side has ended")

// New continues where a server's handshake has ended. client and server are the application traffic
// secrets; they are copied, and the caller should clear them. sent is how many records were sent
// under the server's secret by then: those of the session tickets.
func New(cipherSuite uint16, client, server []byte, sent uint64) (Layer, error) {
	s, err := suiteOf(cipherSuite)
	if err != nil {
		return Layer{}, err
	}
	if size := s.secretSize(); len(client) != size || len(server) != size {
		return Layer{}, fmt.Errorf("tls13: secrets of %d and %d bytes, cipher suite %#04x has %d",
			len(client), len(server), cipherSuite, size)
	}
	l := Layer{suite: s}
	l.setSecrets(client, server)
	l.half[out].seq = sent
	return l, nil
}

// CipherSuite is the number of the cipher suite.
func (l *Layer) CipherSuite() uint16 { return 0x1300 | uint16(l.suite) }

func (l *Layer) secret(d direction) []byte {
	if l.long != nil {
		return l.long[d][:]
	}
	return l.half[d].secret[:]
}

func (l *Layer) setSecrets(client, server []byte) {
	if len(client) > len(l.half[in].secret) {
		l.long = new([2][48]byte)
	}
	copy(l.secret(in), client)
	copy(l.secret(out), server)
}

// Wipe overwrites the secrets and lets go of the AEADs. Nothing can be read or sent afterwards.
func (l *Layer) Wipe(k *Keys) {
	k.drop(l, in)
	k.drop(l, out)
	if l.long != nil {
		*l.long = [2][48]byte{}
	}
	*l = Layer{suite: l.suite, flags: ended | mute}
}

// Open decrypts the first record of b, where it lies, and reports how many bytes of b it took; 0
// without an error means that b does not hold it whole. data is the application data of the record,
// a part of b, and empty for a record that carries none.
//
// io.EOF stands for close_notify: what was read before it is complete. An Alert is the peer's
// mistake, and to be sent with SealAlert; a RemoteAlert is the peer's own. After any of them
// nothing can be read: Open returns ErrEnded.
func (l *Layer) Open(k *Keys, b []byte) (data []byte, n int, err error) {
	if l.flags&ended != 0 {
		return nil, 0, ErrEnded
	}
	data, n, err = l.open(k, b)
	if err != nil {
		l.flags |= ended
	}
	return data, n, err
}

func (l *Layer) open(k *Keys, b []byte) (data []byte, n int, err error) {
	if len(b) < headerSize {
		if len(b) > 0 && b[0] != typeData {
			return nil, 0, UnexpectedMessage
		}
		return nil, 0, nil
	}
	size := int(b[3])<<8 | int(b[4])
	switch {
	// Section 5.2: "The outer opaque_type field of a TLSCiphertext record is always set to the
	// value 23 (application_data)"
	case b[0] != typeData:
		return nil, 0, UnexpectedMessage
	case b[1] != 3 || b[2] != 3:
		return nil, 0, ProtocolVersion
	// Section 5.2: "The length MUST NOT exceed 2^14 + 256 bytes. An endpoint that receives a
	// record that exceeds this length MUST terminate the connection with a "record_overflow"
	// alert."
	case size > MaxPlaintext+256:
		return nil, 0, RecordOverflow
	case size < tagSize:
		return nil, 0, BadRecordMAC
	case len(b) < headerSize+size:
		return nil, 0, nil
	}
	n = headerSize + size
	aead := k.get(l, in)
	copy(k.header[:], b)
	payload := b[headerSize:n]
	plain, err := aead.Open(payload[:0], k.nonce[:], payload, k.header[:])
	if err != nil {
		return nil, n, BadRecordMAC
	}
	l.half[in].seq++
	if len(plain) > MaxPlaintext+1 {
		return nil, n, RecordOverflow
	}
	content, kind := unpad(plain)
	data, err = l.take(k, content, kind)
	return data, n, err
}

// unpad removes the padding and the content type in front of it. Section 5.4: "If a receiving
// implementation does not find a non-zero octet in the cleartext, it MUST terminate the connection
// with an "unexpected_message" alert"; kind is 0 then, which is no content type.
func unpad(plain []byte) (content []byte, kind byte) {
	for i := len(plain) - 1; i >= 0; i-- {
		if plain[i] != 0 {
			return plain[:i], plain[i]
		}
	}
	return nil, 0
}

// take handles the content of a record.
func (l *Layer) take(k *Keys, content []byte, kind byte) (data []byte, err error) {
	// Section 5.1: "Handshake messages MUST NOT be interleaved with other record types."
	if l.partial > 0 && kind != typeHandshake {
		return nil, UnexpectedMessage
	}
	switch kind {
	case typeData:
		if len(content) == 0 {
			return nil, l.nothing()
		}
		l.useless = 0
		return content, nil
	case typeAlert:
		return nil, l.alert(content)
	case typeHandshake:
		return nil, l.handshake(k, content)
	}
	return nil, UnexpectedMessage
}

// nothing counts a record that carried nothing.
func (l *Layer) nothing() error {
	l.useless++
	if l.useless > maxUseless {
		return UnexpectedMessage
	}
	return nil
}

func (l *Layer) alert(content []byte) error {
	if len(content) != 2 {
		return UnexpectedMessage // alerts are not split, nor do two share a record
	}
	switch content[1] {
	case uint8(CloseNotify):
		return io.EOF
	case userCanceled:
		return l.nothing() // a close_notify follows
	}
	// Section 6.2: whatever its level says, any other alert is fatal.
	return RemoteAlert(content[1])
}

// keyUpdate is how each KeyUpdate begins: its type and its length (section 4.6.3).
var keyUpdate = [4]byte{24, 0, 0, 1}

// handshake takes a part of a message. KeyUpdate is the only one that a client may send now: the
// other two of section 4.6 are a server's ticket, and an answer to a request that we do not make.
func (l *Layer) handshake(k *Keys, content []byte) error {
	if len(content) == 0 {
		return UnexpectedMessage // section 5.1: no fragments of length zero
	}
	for i, b := range content {
		if int(l.partial) < len(keyUpdate) {
			if b != keyUpdate[l.partial] {
				if l.partial == 0 {
					return UnexpectedMessage
				}
				return DecodeError
			}
			l.partial++
			continue
		}
		l.partial = 0
		if i != len(content)-1 {
			// Section 5.1: "Handshake messages MUST NOT span key changes."
			return UnexpectedMessage
		}
		return l.peerUpdate(k, b)
	}
	return nil
}

// peerUpdate changes to the peer's next key.
func (l *Layer) peerUpdate(k *Keys, request byte) error {
	switch request {
	case 0:
	case 1:
		l.flags |= owing
	default:
		// Section 4.6.3: "If an implementation receives any other value, it MUST terminate
		// the connection with an "illegal_parameter" alert."
		return IllegalParameter
	}
	if err := l.nothing(); err != nil {
		return err
	}
	l.rekey(k, in)
	l.flags &^= asked
	return nil
}

func (l *Layer) rekey(k *Keys, d direction) {
	l.suite.update(l.secret(d))
	l.half[d].seq = 0
	k.drop(l, d)
}

// Seal appends p to dst as records, ahead of them a KeyUpdate when one is due. p must not overlap
// the free part of dst. After SealAlert it appends nothing.
func (l *Layer) Seal(k *Keys, dst, p []byte) []byte {
	if l.flags&mute != 0 {
		return dst
	}
	for len(p) > 0 {
		if l.updateDue(k) {
			dst = l.sealUpdate(k, dst)
		}
		n := min(len(p), MaxPlaintext)
		dst = l.seal(k, dst, typeData, p[:n])
		p = p[n:]
	}
	return dst
}

// SealAlert appends an alert to dst, the last record that is sent. CloseNotify is how a connection
// ends in order.
func (l *Layer) SealAlert(k *Keys, dst []byte, a Alert) []byte {
	if l.flags&mute != 0 {
		return dst
	}
	const warning, fatal = 1, 2
	alert := [2]byte{fatal, byte(a)}
	if a == CloseNotify {
		alert[0] = warning
	}
	dst = l.seal(k, dst, typeAlert, alert[:])
	l.flags |= mute
	return dst
}

// updateDue reports whether our key is to be replaced before the next data: because the peer has
// asked for it, because it has protected enough, or because the peer's has.
func (l *Layer) updateDue(k *Keys) bool {
	limit := k.rekeyAfter()
	return l.flags&owing != 0 || l.half[out].seq >= limit ||
		(l.half[in].seq >= limit && l.flags&asked == 0)
}

func (l *Layer) sealUpdate(k *Keys, dst []byte) []byte {
	message := [5]byte{keyUpdate[0], keyUpdate[1], keyUpdate[2], keyUpdate[3], 0}
	if l.half[in].seq >= k.rekeyAfter() && l.flags&asked == 0 {
		message[4] = 1 // update_requested
		l.flags |= asked
	}
	dst = l.seal(k, dst, typeHandshake, message[:])
	l.rekey(k, out)
	l.flags &^= owing
	return dst
}

// seal appends one record.
func (l *Layer) seal(k *Keys, dst []byte, kind byte, content []byte) []byte {
	size := len(content) + 1 + tagSize
	dst = slices.Grow(dst, headerSize+size)
	k.header = [headerSize]byte{typeData, 3, 3, byte(size >> 8), byte(size)}
	dst = append(dst, k.header[:]...)
	start := len(dst)
	dst = append(append(dst, content...), kind)
	aead := k.get(l, out)
	dst = aead.Seal(dst[:start], k.nonce[:], dst[start:], k.header[:])
	l.half[out].seq++
	return dst
}
