package tlsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"time"

	"sluice/gateway/tls13"
)

// Handshake is one handshake. It belongs to the loop of its connection, as do all of its methods.
type Handshake struct {
	// The loop only.
	server   *Server
	post     func(func()) bool
	progress func()
	began    bool
	idle     bool // the goroutine waits, or has not begun, or has ended
	aborted  bool
	over     bool

	resume chan struct{} // the loop has given more, or has aborted

	// Whoever runs: the goroutine, or the loop while idle.
	pipe    *pipe
	conn    *tls.Conn
	err     error
	secrets [2][48]byte // the client's and the server's
	have    [2]int      // their lengths
	sent    uint64      // records sent under the server's application traffic secret
}

// errAborted ends a handshake whose connection is gone.
var errAborted = errors.New("tls: the connection has ended")

// Handshake prepares a handshake. post runs a function on the loop; progress is called there when
// the handshake has something to send, wants more or is over. Loop only.
func (s *Server) Handshake(post func(func()) bool, progress func()) *Handshake {
	return &Handshake{server: s, post: post, progress: progress, idle: true}
}

// Idle reports whether Give may be called: the handshake waits for its peer, or has not begun.
func (h *Handshake) Idle() bool { return h.idle && !h.over }

// Give hands over whole records (see Whole), which are copied. Only while Idle.
func (h *Handshake) Give(records []byte) {
	h.idle = false
	if !h.began {
		h.began = true
		h.start(records)
		return
	}
	h.pipe.in = append(h.pipe.in[:0], records...)
	h.resume <- struct{}{}
}

// start begins the goroutine, which ends when the handshake is over or the loop has aborted it.
func (h *Handshake) start(records []byte) {
	s := h.server
	h.resume = make(chan struct{}, 1)
	h.pipe = &pipe{in: bytes.Clone(records), wait: h.wait}
	cfg := s.config()
	if s.cfg.Compact {
		base := cfg
		cfg = base.Clone()
		cfg.KeyLogWriter = (*keyLog)(h)
		cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
			ticket, err := base.EncryptTicket(cs, ss)
			h.sent += ticketRecords(len(ticket))
			return ticket, err
		}
		cfg.UnwrapSession = base.DecryptTicket
	}
	h.conn = tls.Server(h.pipe, cfg)
	go h.run()
}

// ticketRecords is how many records a NewSessionTicket takes (RFC 8446, section 4.6.1): its header
// and fields have 17 bytes beside the ticket, for crypto/tls leaves nonce and extensions empty.
func ticketRecords(ticket int) uint64 {
	return uint64((17 + ticket + tls13.MaxPlaintext - 1) / tls13.MaxPlaintext)
}

// run is the goroutine.
func (h *Handshake) run() {
	if h.turn() != nil {
		return
	}
	began := time.Now()
	err := h.conn.HandshakeContext(context.Background())
	if err != errAborted { // whoever waits in wait has given its turn back
		handshakeTime.Update(time.Since(began).Seconds())
		<-h.server.turns
	}
	h.pipe.wait = nil
	h.err = err
	h.post(func() {
		h.idle, h.over = true, true
		if h.aborted {
			h.wipe()
			return
		}
		h.progress()
	})
}

// turn waits for a place among the handshakes that compute.
func (h *Handshake) turn() error {
	select {
	case h.server.turns <- struct{}{}:
		return nil
	case <-h.server.closed:
		return errAborted
	}
}

// wait implements pipe.wait: it gives the turn back, has the loop send what was written and waits
// for more records.
func (h *Handshake) wait() error {
	<-h.server.turns
	posted := h.post(func() {
		h.idle = true
		if h.aborted {
			h.resume <- struct{}{}
			return
		}
		h.progress()
	})
	if !posted {
		return errAborted
	}
	select {
	case <-h.resume:
	case <-h.server.closed:
		return errAborted
	}
	if len(h.pipe.in) == 0 { // Abort
		return errAborted
	}
	return h.turn()
}

// Output is what is to be sent to the peer, and is the caller's. Only from progress.
func (h *Handshake) Output() []byte {
	out := h.pipe.out
	h.pipe.out = nil
	return out
}

// Over reports whether the handshake has ended, and with what error. Output may have an alert then.
func (h *Handshake) Over() (over bool, err error) { return h.over, h.err }

// Rest is what came behind the client's last record of the handshake. Only when it is over.
func (h *Handshake) Rest() []byte { return h.pipe.in }

// State is what was negotiated. Only when it is over, without an error.
func (h *Handshake) State() tls.ConnectionState { return h.conn.ConnectionState() }

// Layer is the record layer to go on with; ok is false when Stream must be used instead. Once, when
// the handshake is over, without an error.
func (h *Handshake) Layer() (layer tls13.Layer, ok bool) {
	defer h.wipe()
	state := h.conn.ConnectionState()
	if !h.server.cfg.Compact || state.Version != tls.VersionTLS13 || h.have[0] == 0 || h.have[1] == 0 {
		return tls13.Layer{}, false
	}
	client, server := h.secrets[0][:h.have[0]], h.secrets[1][:h.have[1]]
	layer, err := tls13.New(state.CipherSuite, client, server, h.sent)
	return layer, err == nil
}

// Stream goes on with the tls.Conn. Once, when the handshake is over, without an error.
func (h *Handshake) Stream() *Stream {
	h.wipe()
	h.pipe.in, h.pipe.left = nil, 0
	return &Stream{conn: h.conn, pipe: h.pipe}
}

// Abort ends the handshake's goroutine. Nothing is called afterwards. Any number of times.
func (h *Handshake) Abort() {
	if h.aborted || h.over {
		return
	}
	h.aborted = true
	if h.began && h.idle {
		h.pipe.in = nil
		h.resume <- struct{}{}
	}
}

func (h *Handshake) wipe() {
	h.secrets = [2][48]byte{}
	h.have = [2]int{}
}

// keyLog is a Handshake as crypto/tls writes its key log to.
type keyLog Handshake

var keyLogLabels = [2][]byte{
	[]byte("CLIENT_TRAFFIC_SECRET_0 "), []byte("SERVER_TRAFFIC_SECRET_0 "),
}

// Write implements io.Writer: a line is "LABEL client-random secret", the latter two in hex. Other
// secrets than the two wanted are not looked at.
func (k *keyLog) Write(line []byte) (int, error) {
	for i, label := range keyLogLabels {
		rest, found := bytes.CutPrefix(line, label)
		if !found {
			continue
		}
		_, secret, _ := bytes.Cut(rest, []byte(" "))
		secret = bytes.TrimRight(secret, "\n")
		if hex.DecodedLen(len(secret)) > len(k.secrets[i]) {
			break
		}
		n, err := hex.Decode(k.secrets[i][:], secret)
		if err != nil {
			break // Layer reports that it cannot go on, and Stream does
		}
		k.have[i] = n
	}
	return len(line), nil
}
