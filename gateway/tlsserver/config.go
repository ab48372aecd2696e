package tlsserver

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// KeyPair names the files of a certificate, PEM with the chain behind it, and of its key.
type KeyPair struct{ Cert, Key string }

// Config sets up a Server. Zero values are the defaults, but for Certificates.
type Config struct {
	// Certificates are what clients are shown; the first that fits the name they ask for (SNI) and
	// the algorithms they know, or else the first of all. At least one.
	Certificates []KeyPair

	// MinVersion is the oldest version spoken: tls.VersionTLS12 or tls.VersionTLS13. Default TLS
	// 1.2.
	MinVersion uint16

	// ClientCA is a file of certificates, PEM: a client must show one of its own that they vouch
	// for. Default: clients show none.
	ClientCA string

	// TicketKeys is a file of session ticket keys, which several gateways may share so that each
	// takes the others' tickets: a key of 32 bytes on each line, in hex or base64. The first
	// encrypts, all decrypt. To rotate, add the new key at the end everywhere, then move it to the
	// front. Default: a key of the process's own, replaced each day.
	TicketKeys string

	// Compact has TLS 1.3 connections go on with package tls13 after their handshake.
	Compact bool

	// Workers is how many handshakes are computed at a time. Too many take the processors from the
	// loops during a flood; too few leave them idle in a storm of clients that come back. Default
	// half of GOMAXPROCS, at least 1.
	Workers int

	// Logger gets a line for each reload, and for files that cannot be used. Default
	// slog.Default().
	Logger *slog.Logger

	// Check is how often the files are looked at. Default 2 s.
	Check time.Duration
}

// Server is what all loops share. Its methods may be called by any goroutine.
type Server struct {
	cfg     Config
	base    *tls.Config
	certs   atomic.Pointer[certificates]
	turns   chan struct{} // a place for each handshake that computes
	closed  chan struct{}
	endOnce sync.Once
	watch   sync.WaitGroup
	files   map[string][]byte // as they were last read; the watching goroutine's
	tickets ticketKeys        // the watching goroutine's
}

// New reads the files and begins to watch them.
func New(cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.MinVersion == 0 {
		cfg.MinVersion = tls.VersionTLS12
	}
	if cfg.Workers <= 0 {
		cfg.Workers = max(runtime.GOMAXPROCS(0)/2, 1)
	}
	if cfg.Check <= 0 {
		cfg.Check = 2 * time.Second
	}
	if len(cfg.Certificates) == 0 {
		return nil, errors.New("tls: no certificate (set --tls-cert and --tls-key)")
	}
	if cfg.MinVersion != tls.VersionTLS12 && cfg.MinVersion != tls.VersionTLS13 {
		return nil, errors.New("tls: the oldest version must be 1.2 or 1.3")
	}
	s := &Server{cfg: cfg, turns: make(chan struct{}, cfg.Workers), closed: make(chan struct{})}
	s.base = &tls.Config{
		MinVersion:     cfg.MinVersion,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: s.certificate,
		// Records in the size of a segment are for pages that render while they load.
		DynamicRecordSizingDisabled: true,
	}
	if cfg.ClientCA != "" {
		s.base.ClientAuth = tls.RequireAndVerifyClientCert
		s.base.VerifyConnection = checkSubject
	}
	var err error
	if s.files, err = s.read(); err != nil {
		return nil, err
	}
	if err = s.use(s.files, time.Now()); err != nil {
		return nil, err
	}
	s.watch.Go(s.follow)
	return s, nil
}

// Close ends the watching of files and every handshake.
func (s *Server) Close() {
	s.endOnce.Do(func() { close(s.closed) })
	s.watch.Wait()
}

// Compact reports Config.Compact.
func (s *Server) Compact() bool { return s.cfg.Compact }
