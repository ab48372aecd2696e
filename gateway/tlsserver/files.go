package tlsserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"
)

// certificates are the key pairs in force.
type certificates struct {
	list []tls.Certificate
	base *tls.Config // with the client CAs of the same reading
}

// certificate implements tls.Config.GetCertificate.
func (s *Server) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	list := s.certs.Load().list
	if len(list) > 1 {
		for i := range list {
			if hello.SupportsCertificate(&list[i]) == nil {
				return &list[i], nil
			}
		}
	}
	return &list[0], nil
}

// config is the configuration of the next handshake.
func (s *Server) config() *tls.Config { return s.certs.Load().base }

// NotAfter is when the first of the certificates in force expires.
func (s *Server) NotAfter() (first time.Time) {
	for _, cert := range s.certs.Load().list {
		if at := cert.Leaf.NotAfter; first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first
}

// maxFile bounds each of the files, in bytes.
const maxFile = 1 << 20

// read reads all files.
func (s *Server) read() (map[string][]byte, error) {
	var paths []string
	for _, pair := range s.cfg.Certificates {
		paths = append(paths, pair.Cert, pair.Key)
	}
	files := make(map[string][]byte)
	for _, path := range append(paths, s.cfg.ClientCA, s.cfg.TicketKeys) {
		if path == "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if len(b) > maxFile {
			return nil, fmt.Errorf("tls: %s has %d bytes, more than a file of keys has", path, len(b))
		}
		files[path] = b
	}
	return files, nil
}

// use puts files into force, all of them or none.
func (s *Server) use(files map[string][]byte, now time.Time) error {
	next := &certificates{}
	for _, pair := range s.cfg.Certificates {
		cert, err := tls.X509KeyPair(files[pair.Cert], files[pair.Key])
		if err != nil {
			return fmt.Errorf("tls: %s with %s: %w", pair.Cert, pair.Key, err)
		}
		if cert.Leaf == nil { // GODEBUG=x509keypairleaf=0
			if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
				return fmt.Errorf("tls: %s: %w", pair.Cert, err)
			}
		}
		next.list = append(next.list, cert)
	}
	base := s.base.Clone()
	if s.cfg.ClientCA != "" {
		base.ClientCAs = x509.NewCertPool()
		if !base.ClientCAs.AppendCertsFromPEM(files[s.cfg.ClientCA]) {
			return fmt.Errorf("tls: %s: no certificate in it", s.cfg.ClientCA)
		}
	}
	tickets, err := s.tickets.renewed(files[s.cfg.TicketKeys], s.cfg.TicketKeys != "", now)
	if err != nil {
		return fmt.Errorf("tls: %s: %w", s.cfg.TicketKeys, err)
	}
	s.tickets = tickets
	base.SetSessionTicketKeys(tickets.keys())
	next.base = base
	s.certs.Store(next)
	return nil
}

// follow looks at the files until Close.
func (s *Server) follow() {
	check := time.NewTicker(s.cfg.Check)
	defer check.Stop()
	var said string
	for {
		select {
		case <-s.closed:
			return
		case now := <-check.C:
			err := s.look(now)
			if err == nil {
				said = ""
				continue
			}
			reloadErrors.Inc() // each time: it goes on rising while the files are bad
			if err.Error() != said {
				said = err.Error()
				s.cfg.Logger.Error("TLS files changed and cannot be used; the old ones stay in force",
					"error", err)
			}
		}
	}
}

// look reads the files and puts them into force when one has changed, or a ticket key is due.
func (s *Server) look(now time.Time) error {
	files, err := s.read()
	if err != nil {
		return err
	}
	changed := s.tickets.due(now)
	for path, b := range files {
		changed = changed || !bytes.Equal(b, s.files[path])
	}
	if !changed {
		return nil
	}
	if err := s.use(files, now); err != nil {
		return err
	}
	s.files = files
	reloads.Inc()
	s.cfg.Logger.Info("TLS files reloaded", "certificates", len(s.cfg.Certificates),
		"first_expires", s.NotAfter())
	return nil
}

var errNoKey = errors.New("no session ticket key in it (32 bytes on a line, in hex or base64)")
