package tlsserver

import (
	"crypto/tls"
	"errors"
)

// Stream is a tls.Conn after its handshake, used from a loop: it never waits, and what it would
// read from and write to a socket are arguments. Loop only.
type Stream struct {
	conn *tls.Conn
	pipe *pipe
}

// Open takes what the socket gave, b, which is copied, and appends what it decrypts to to plain.
// eof says that nothing follows. answer is what must be sent, an alert or the answer to a message
// of the protocol. io.EOF stands for close_notify, and for the end of the stream between two
// records; the end is sticky.
func (s *Stream) Open(plain, b []byte, eof bool) (_, answer []byte, err error) {
	s.pipe.in, s.pipe.eof = b, s.pipe.eof || eof
	for {
		if cap(plain)-len(plain) < 512 {
			plain = append(plain, make([]byte, 4096)...)[:len(plain)]
		}
		var n int
		n, err = s.conn.Read(plain[len(plain):cap(plain)])
		plain = plain[:len(plain)+n]
		if err != nil {
			break
		}
	}
	if errors.As(err, new(again)) {
		err = nil
	}
	s.pipe.in, s.pipe.left = nil, 0
	answer, s.pipe.out = s.pipe.out, nil
	return plain, answer, err
}

// Seal appends p to dst as records.
func (s *Stream) Seal(dst, p []byte) ([]byte, error) {
	s.pipe.out = dst
	_, err := s.conn.Write(p)
	dst, s.pipe.out = s.pipe.out, nil
	return dst, err
}

// Close appends close_notify to dst.
func (s *Stream) Close(dst []byte) []byte {
	s.pipe.out = dst
	_ = s.conn.CloseWrite() // fails when an alert was the last that was sent
	dst, s.pipe.out = s.pipe.out, nil
	return dst
}
