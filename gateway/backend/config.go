package backend

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config sets up an App. Zero values are the defaults.
type Config struct {
	// Routes say which backend serves which paths. At least one.
	Routes []Route

	// Key signs what is sent to backends: Grip-Sig, and the Standard Webhooks headers. Without one
	// nothing is signed, and a backend cannot tell the gateway from anybody else who reaches it.
	// See ParseKey.
	Key []byte
	// Issuer is the iss of Grip-Sig. Default "sluice".
	Issuer string

	// ConnectTimeout bounds the connection to a backend, TLS handshake included. Default 1 s.
	ConnectTimeout time.Duration
	// Timeout bounds a request from its start to the end of the answer. When it is too short, slow
	// answers cost clients their connection. Default 10 s.
	Timeout time.Duration
	// OpenTimeout is Timeout for the request that decides about a handshake. It must be shorter
	// than the gateway's HandshakeTimeout, or clients are told 503 in place of 504. Default 4 s.
	OpenTimeout time.Duration
	// Hold is how long messages wait for a backend that cannot be reached before their connection
	// is closed with 1013. Default 30 s.
	Hold time.Duration

	// MaxRequests bounds the requests in flight to each backend. More wait for their turn. Default
	// 256.
	MaxRequests int
	// MaxPending bounds, in bytes, what one connection may have waiting while a request of its own
	// is in flight; from there on nothing is read from it. Default 64 KiB.
	MaxPending int
	// MaxBuffered bounds the same for all connections together, what is in flight included. From
	// three quarters of it on handshakes are refused and nobody is read from; a connection that
	// passes it all the same is closed with 1013. Default 64 MiB.
	MaxBuffered int
	// MaxAnswer bounds the body of an answer. Default 1 MiB.
	MaxAnswer int
	// MaxGoodbyes bounds the ended connections, per backend, that it has not been told about yet.
	// Beyond it the oldest are forgotten. Default 100,000.
	MaxGoodbyes int

	// Logger is told when a backend is lost and when it is back. Default slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if len(c.Routes) == 0 {
		return c, errors.New("backend: no route")
	}
	if c.Issuer == "" {
		c.Issuer = "sluice"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	for _, d := range []struct {
		value     *time.Duration
		otherwise time.Duration
		name      string
	}{
		{&c.ConnectTimeout, time.Second, "ConnectTimeout"},
		{&c.Timeout, 10 * time.Second, "Timeout"},
		{&c.OpenTimeout, 4 * time.Second, "OpenTimeout"},
		{&c.Hold, 30 * time.Second, "Hold"},
	} {
		if *d.value < 0 {
			return c, fmt.Errorf("backend: %s is negative", d.name)
		}
		if *d.value == 0 {
			*d.value = d.otherwise
		}
	}
	for _, n := range []struct {
		value     *int
		otherwise int
		name      string
	}{
		{&c.MaxRequests, 256, "MaxRequests"},
		{&c.MaxPending, 64 << 10, "MaxPending"},
		{&c.MaxBuffered, 64 << 20, "MaxBuffered"},
		{&c.MaxAnswer, 1 << 20, "MaxAnswer"},
		{&c.MaxGoodbyes, 100_000, "MaxGoodbyes"},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("backend: %s is negative", n.name)
		}
		if *n.value == 0 {
			*n.value = n.otherwise
		}
	}
	return c, nil
}
