package tlsserver

import (
	"crypto/tls"
	"errors"
	"strings"
)

// MaxSubject bounds what Subject returns, in bytes: it is kept for as long as the connection lives,
// and goes into headers and logs. A client whose certificate names more is refused, for a name that
// was cut could be another's.
const MaxSubject = 1024

var errSubject = errors.New("tls: the certificate's subject is too long")

// checkSubject implements tls.Config.VerifyConnection.
func checkSubject(state tls.ConnectionState) error {
	if len(Subject(state)) > MaxSubject {
		return errSubject
	}
	return nil
}

// Subject is whom the client's certificate names, "" when it has shown none, as RFC 4514 writes it.
// Control characters, which crypto/x509 leaves as they are, are written as pairs of hex digits, and
// so are bytes that are not ASCII: a subject can be a header's value and end no line.
func Subject(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return ""
	}
	name := state.PeerCertificates[0].Subject.String()
	plain := func(b byte) bool { return b >= ' ' && b < 0x7f }
	var text strings.Builder
	for i := range len(name) {
		if b := name[i]; plain(b) {
			text.WriteByte(b)
		} else {
			const digits = "0123456789ABCDEF"
			text.Write([]byte{'\\', digits[b>>4], digits[b&0xf]})
		}
	}
	return text.String()
}
