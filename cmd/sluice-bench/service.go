package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"sluice/bench/service"
)

type serviceCmd struct {
	Listen string        `default:"127.0.0.1:9000" help:"Address to listen on; port 0 is any."`
	Delay  time.Duration `help:"Each answer takes this long, as those of a service that has work to do."`
	Events bool          `help:"Write each event that the service hears to standard output, as a line of JSON."`
}

// Run serves until ctx ends.
func (c *serviceCmd) Run(ctx context.Context, s *streams) error {
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("%w (choose another --listen)", err)
	}
	fmt.Fprintf(s.out, "listening on %s\n", ln.Addr())
	handler := &service.Service{Delay: c.Delay}
	if c.Events {
		handler.WriteEvents(s.out)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
