package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"sluice/gateway"
	"sluice/gateway/accesslog"
	"sluice/gateway/auth"
	"sluice/gateway/client"
)

// clientsConfig is the settings of who may connect, and how much of the gateway one may take.
type clientsConfig struct {
	TrustedProxies  []string `group:"clients" sep:"," placeholder:"RANGE" help:"Addresses of proxies whose word on a client's address is taken, as 10.0.0.0/8. Separated by commas or given again."`
	ProxyProtocol   bool     `group:"clients" negatable:"" help:"Expect a PROXY header, version 1 or 2, in front of each connection of a trusted proxy."`
	ForwardedHeader string   `group:"clients" enum:"x-forwarded-for,forwarded,none" default:"x-forwarded-for" placeholder:"NAME" help:"Header in which trusted proxies name the client: x-forwarded-for, forwarded or none. Only what the proxies write themselves is safe."`
	Allow           []string `group:"clients" sep:"," placeholder:"RANGE" help:"Addresses that may connect; all by default. Others are reset before a byte is read."`
	Deny            []string `group:"clients" sep:"," placeholder:"RANGE" help:"Addresses that may not, also where --allow has them."`
	MaxConnsPerIP   count    `group:"clients" name:"max-conns-per-ip" default:"0" placeholder:"N" help:"Connections that one address (of IPv6: one /64) may hold; 0 for no limit."`
	ConnRatePerIP   count    `group:"clients" name:"conn-rate-per-ip" default:"0" placeholder:"N" help:"Connections that one address may open in a second; 0 for no limit."`
	UnfinishedPerIP count    `group:"clients" name:"unfinished-per-ip" default:"200" placeholder:"N" help:"Connections of one address that may end in a second without a whole request; 20 times as many may be in their handshake at once. 0 for no limit."`
	MessageRate     count    `group:"clients" default:"0" placeholder:"N" help:"Messages that one client may send in a second; beyond it, it is closed with 1008. 0 for no limit."`

	AuthAlgorithm string   `group:"auth" enum:",HS256,RS256,ES256,EdDSA" default:"" placeholder:"NAME" help:"Algorithm of tokens (HS256, RS256, ES256 or EdDSA); no other is taken. Required with a key."`
	AuthJWTKey    []string `group:"auth" name:"auth-jwt-key" sep:"," placeholder:"KEY" help:"Lets in only who shows a JWT signed with this: a secret of 32 bytes or more, base64:…, or file:PATH with a secret or a public key in PEM. Two, separated by a comma, while one replaces the other."`
	AuthJWKSURL   string   `group:"auth" name:"auth-jwks-url" placeholder:"URL" help:"The same with the public keys at an https URL, read every 5 minutes and when a token names a new one."`
	AuthIssuer    string   `group:"auth" placeholder:"TEXT" help:"What iss in a token must be."`
	AuthAudience  []string `group:"auth" sep:"," placeholder:"TEXT" help:"What aud in a token must name, one of them at least."`
	AuthCookie    string   `group:"auth" placeholder:"NAME" help:"Cookie that may have the token, beside Authorization, Sec-WebSocket-Protocol (bearer.TOKEN) and ?token=."`

	Compression  bool `group:"compression" negatable:"" help:"Agree to permessage-deflate with clients that offer it; a connection takes no memory for it."`
	CompressFrom size `group:"compression" default:"256" placeholder:"SIZE" help:"Shortest message that is compressed."`
}

// accessConfig is the settings of the access log.
type accessConfig struct {
	AccessLog       string `group:"logs" placeholder:"FILE" help:"One line for each WebSocket at its end, to this file or to stdout. SIGUSR1 opens the file anew."`
	AccessLogFormat string `group:"logs" enum:"json,common" default:"json" placeholder:"NAME" help:"json or common (the Common Log Format, the close code as its status)."`
	AccessLogSample count  `group:"logs" default:"1" placeholder:"N" help:"Write one line for so many connections, chosen by chance."`
}

// authOn says that clients must show a token.
func (c *clientsConfig) authOn() bool { return len(c.AuthJWTKey) > 0 || c.AuthJWKSURL != "" }

// checkClients judges the settings above.
func (c *config) checkClients(wrong func(flag, format string, args ...any) error) error {
	for _, set := range []struct {
		flag   string
		ranges []string
	}{{"trusted-proxies", c.TrustedProxies}, {"allow", c.Allow}, {"deny", c.Deny}} {
		if _, err := client.NewPrefixes(set.ranges); err != nil {
			return wrong(set.flag, "%v", err)
		}
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		return wrong("proxy-protocol", "whose headers count? Set --trusted-proxies to the addresses of the proxies")
	}
	if c.CompressFrom < 1 {
		return wrong("compress-from", "must be at least 1")
	}
	if c.AccessLogSample < 1 {
		return wrong("access-log-sample", "must be at least 1")
	}
	return c.checkAuth(wrong)
}

func (c *config) checkAuth(wrong func(flag, format string, args ...any) error) error {
	if !c.authOn() {
		for _, other := range []struct {
			flag string
			set  bool
		}{
			{"auth-algorithm", c.AuthAlgorithm != ""}, {"auth-issuer", c.AuthIssuer != ""},
			{"auth-audience", len(c.AuthAudience) > 0}, {"auth-cookie", c.AuthCookie != ""},
		} {
			if other.set {
				return wrong(other.flag, "nobody is asked for a token without --auth-jwt-key or --auth-jwks-url")
			}
		}
		return nil
	}
	algorithm := auth.Algorithm(c.AuthAlgorithm)
	switch {
	case len(c.AuthJWTKey) > 0 && c.AuthJWKSURL != "":
		return wrong("auth-jwks-url", "--auth-jwt-key is set too; leave out one of the two")
	case algorithm == "":
		return wrong("auth-algorithm", "which algorithm are tokens signed with? HS256, RS256, ES256 or EdDSA")
	case c.AuthJWKSURL != "" && algorithm == auth.HS256:
		return wrong("auth-algorithm", "a key set has public keys, and HS256 is made with a secret; want RS256, ES256 or EdDSA")
	case c.AuthJWKSURL != "" && (c.AuthIssuer == "" || len(c.AuthAudience) == 0):
		return wrong("auth-jwks-url", "needs --auth-issuer and --auth-audience: tokens that the issuer makes for others would count here too")
	case c.AuthCookie != "" && slices.ContainsFunc(c.AllowedOrigins, anyOrigin):
		return wrong("auth-cookie", "browsers send cookies for any page; with --allowed-origins %s any page could act as its reader", strings.Join(c.AllowedOrigins, ","))
	}
	if c.AuthJWKSURL != "" {
		if err := auth.CheckURL(c.AuthJWKSURL); err != nil {
			return wrong("auth-jwks-url", "%v", err)
		}
		return nil
	}
	if _, err := c.tokenKeys(); err != nil {
		return wrong("auth-jwt-key", "%v", err)
	}
	return nil
}

// anyOrigin tells the origins that a page of anybody's may have.
func anyOrigin(origin string) bool {
	o := strings.TrimSpace(origin)
	return o == "*" || o == "null"
}

// mostKeyFile bounds a file with a key, in bytes.
const mostKeyFile = 64 << 10

// tokenKeys are --auth-jwt-key, read.
func (c *clientsConfig) tokenKeys() (*auth.Keys, error) {
	var texts []string
	for _, key := range c.AuthJWTKey {
		if path, is := strings.CutPrefix(key, "file:"); is {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if len(text) > mostKeyFile {
				return nil, fmt.Errorf("%s: larger than %d bytes, so not a key", path, mostKeyFile)
			}
			key = strings.TrimRight(string(text), "\r\n") // what editors put behind a secret
		}
		texts = append(texts, key)
	}
	return auth.ParseKeys(auth.Algorithm(c.AuthAlgorithm), texts...)
}

// clients are the settings for the gateway.
func (c *clientsConfig) clients() gateway.Clients {
	return gateway.Clients{
		TrustedProxies: c.TrustedProxies,
		ProxyProtocol:  c.ProxyProtocol,
		Forwarded: map[string]client.ForwardedHeader{
			"x-forwarded-for": client.XForwardedFor, "forwarded": client.Forwarded, "none": client.NoForwarded,
		}[c.ForwardedHeader],
		Allow: c.Allow, Deny: c.Deny,
		MaxConnsPerAddress:   int(c.MaxConnsPerIP),
		ConnRatePerAddress:   int(c.ConnRatePerIP),
		UnfinishedPerAddress: zeroIsNone(c.UnfinishedPerIP),
		MessageRate:          int(c.MessageRate),
	}
}

// zeroIsNone: as offIsNegative.
func zeroIsNone(n count) int {
	if n == 0 {
		return -1
	}
	return int(n)
}

// openAccessLog opens --access-log; it returns nil without one.
func (s *server) openAccessLog() (*accesslog.Log, error) {
	if s.cfg.AccessLog == "" {
		return nil, nil
	}
	l, err := accesslog.Open(accesslog.Config{
		File: s.cfg.AccessLog, Common: s.cfg.AccessLogFormat == "common", Logger: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("%w (set --access-log)", err)
	}
	return l, nil
}

// gate is the application that asks for tokens, and where its keys come from.
type gate struct {
	app    *auth.App
	remote *auth.Remote // nil when the keys are configured
}

// openGate puts a gate in front of inner, if clients must show tokens; it returns nil when not.
func (s *server) openGate(inner gateway.App) (*gate, error) {
	if !s.cfg.authOn() {
		return nil, nil
	}
	cfg := auth.Config{
		Algorithm: auth.Algorithm(s.cfg.AuthAlgorithm),
		Issuer:    s.cfg.AuthIssuer, Audience: s.cfg.AuthAudience, Cookie: s.cfg.AuthCookie,
	}
	g := new(gate)
	var err error
	if s.cfg.AuthJWKSURL != "" {
		g.remote, err = auth.NewRemote(auth.RemoteConfig{URL: s.cfg.AuthJWKSURL, Algorithm: cfg.Algorithm, Logger: s.log})
		cfg.Remote = g.remote
	} else {
		cfg.Keys, err = s.cfg.tokenKeys()
	}
	if err != nil {
		return nil, err
	}
	if g.app, err = auth.New(cfg, inner); err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// ready adds to other that there must be keys. It is called on loops.
func (g *gate) ready(other func() error) func() error {
	if g == nil || g.remote == nil {
		return other
	}
	return func() error {
		if other == nil {
			return g.remote.Ready()
		}
		return errors.Join(g.remote.Ready(), other())
	}
}

func (g *gate) close() {
	if g == nil {
		return
	}
	if g.app != nil {
		g.app.Close()
	}
	if g.remote != nil {
		g.remote.Close()
	}
}
