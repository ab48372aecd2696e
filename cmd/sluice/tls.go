package main

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"

	"sluice/gateway"
	"sluice/gateway/tlsserver"
	"sluice/poller"
)

// tlsConfig is the settings of the address that speaks TLS.
type tlsConfig struct {
	TLSListen     string   `group:"tls" name:"tls-listen" placeholder:"ADDRESS" help:"Address for WebSocket clients with TLS, beside --listen."`
	TLSCert       []string `group:"tls" name:"tls-cert" sep:"," placeholder:"FILE" help:"Certificate in PEM, the chain behind it; again for other names. A comma in a path is written as \\,. Read anew when it changes."`
	TLSKey        []string `group:"tls" name:"tls-key" sep:"," placeholder:"FILE" help:"Key of the certificate in the same place."`
	TLSMinVersion string   `group:"tls" name:"tls-min-version" enum:"1.2,1.3" default:"1.2" placeholder:"VERSION" help:"Oldest version spoken: 1.2 or 1.3."`
	TLSClientCA   string   `group:"tls" name:"tls-client-ca" placeholder:"FILE" help:"Certificates that must vouch for the clients' own, which they have to show."`
	TLSTicketKeys string   `group:"tls" name:"tls-ticket-keys" placeholder:"FILE" help:"Keys of session tickets, 32 bytes on a line in hex or base64, for gateways that share them; the first encrypts. One of this process's own by default."`
	TLSRecords    string   `group:"tls" name:"tls-records" enum:"compact,std" default:"compact" placeholder:"NAME" help:"What carries TLS 1.3 after its handshake: compact (a record layer with less memory) or std (crypto/tls)."`
}

// checkTLS judges the settings above, but for the files.
func (c *config) checkTLS(wrong func(flag, format string, args ...any) error) error {
	if c.TLSListen == "" {
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"tls-cert", len(c.TLSCert) > 0}, {"tls-key", len(c.TLSKey) > 0},
			{"tls-client-ca", c.TLSClientCA != ""}, {"tls-ticket-keys", c.TLSTicketKeys != ""},
		} {
			if f.set {
				return wrong(f.name, "there is no address with TLS: set --tls-listen")
			}
		}
		return nil
	}
	if err := checkAddress(c.TLSListen); err != nil {
		return wrong("tls-listen", "%v", err)
	}
	host, _, _ := net.SplitHostPort(c.TLSListen)
	if _, err := netip.ParseAddr(host); host != "" && host != "localhost" && err != nil {
		return wrong("tls-listen", "host %q: want an IP address, localhost or nothing", host)
	}
	taken := c.TLSListen == c.Listen || c.TLSListen == c.Admin
	if taken && !strings.HasSuffix(c.TLSListen, ":0") {
		return wrong("tls-listen", "%s is another address of this gateway too", c.TLSListen)
	}
	if len(c.TLSCert) == 0 || len(c.TLSCert) != len(c.TLSKey) {
		return wrong("tls-cert", "%d certificates and %d keys: want one key for each certificate, "+
			"and one certificate at least", len(c.TLSCert), len(c.TLSKey))
	}
	return nil
}

// openTLS reads the files of TLS; nil when there is none.
func (s *server) openTLS() (*tlsserver.Server, error) {
	if s.cfg.TLSListen == "" {
		return nil, nil
	}
	cfg := tlsserver.Config{
		MinVersion: tls.VersionTLS12,
		ClientCA:   s.cfg.TLSClientCA, TicketKeys: s.cfg.TLSTicketKeys,
		Compact: s.cfg.TLSRecords == "compact", Logger: s.log,
	}
	if s.cfg.TLSMinVersion == "1.3" {
		cfg.MinVersion = tls.VersionTLS13
	}
	for i, cert := range s.cfg.TLSCert {
		pair := tlsserver.KeyPair{Cert: cert, Key: s.cfg.TLSKey[i]}
		cfg.Certificates = append(cfg.Certificates, pair)
	}
	return tlsserver.New(cfg)
}

// inheritTLS is inherit for the sockets of --tls-listen.
func (s *server) inheritTLS(cfg *gateway.Config) error {
	if s.taker == nil {
		if cfg.TLS == nil {
			return nil
		}
		var err error
		cfg.TLSListeners, err = s.activated.listeners(listenerTLS, s.listenOptions(), s.capacity.loops)
		return err
	}
	for cfg.TLS != nil {
		fd, ok := s.taker.Listener(listenerTLS)
		if !ok {
			break
		}
		ln, err := poller.InheritListener(fd)
		if err != nil {
			return err
		}
		cfg.TLSListeners = append(cfg.TLSListeners, ln)
	}
	return nil
}
