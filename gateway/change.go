package gateway

import (
	"context"
	"fmt"
	"log/slog"

	"sluice/gateway/client"
)

// Changes are the settings that a Server takes while it serves. All are put in force, so start from
// what is: a field that is left out has its default.
type Changes struct {
	// AllowedOrigins and AllowedHosts as in Config. For handshakes from then on.
	AllowedOrigins, AllowedHosts []string
	// Allow and Deny as in Clients. For connections from then on: those that are open stay.
	Allow, Deny []string
	// MessageRate as in Clients, of all connections.
	MessageRate int
}

// Change puts settings in force on all loops, and looks again at which levels the Logger has on. On
// an error nothing has changed. One call at a time, after Start; any goroutine but a loop's.
func (s *Server) Change(c Changes) error {
	origins, err := newOrigins(c.AllowedOrigins)
	if err != nil {
		return fmt.Errorf("gateway: AllowedOrigins: %w", err)
	}
	hosts, err := newHosts(c.AllowedHosts)
	if err != nil {
		return fmt.Errorf("gateway: AllowedHosts: %w", err)
	}
	admission := *s.admission // which shares its counts and rates
	if admission.allow, err = client.NewPrefixes(c.Allow); err != nil {
		return fmt.Errorf("gateway: Allow: %w", err)
	}
	if admission.deny, err = client.NewPrefixes(c.Deny); err != nil {
		return fmt.Errorf("gateway: Deny: %w", err)
	}
	admission.direct = admission.looks()
	debug := s.cfg.Logger.Enabled(context.Background(), slog.LevelDebug)
	rate := client.PerSecond(c.MessageRate, c.MessageRate)
	s.onEach(func(w *worker) {
		w.origins, w.hosts, w.admission = &origins, hosts, &admission
		w.messageRate, w.debug = rate, debug
	})
	return nil
}
