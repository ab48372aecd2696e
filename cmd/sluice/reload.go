package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"

	"sluice/gateway"
)

// How a changed setting takes effect.
const (
	byReload  = "reload (SIGUSR2)"
	byUpgrade = "the next process (SIGHUP, with --takeover)"
	byRestart = "a restart: with --takeover sockets, sessions and the socket itself are those of before"
)

// effectOf tells how a setting takes effect once it has changed.
func effectOf(flag string) string {
	switch flag {
	case "allowed-origins", "allowed-hosts", "allow", "deny", "message-rate", "log-level":
		return byReload
	case "listen", "tls-listen", "admin", "control", "takeover",
		"app", "session-store", "redis-url", "redis-key-prefix":
		return byRestart
	}
	return byUpgrade
}

// reading is what the command line, the environment and the configuration file say.
type reading struct {
	config
	values map[string]string // of each setting, as one text
}

// texts are the values of flags by their names, each as it would stand on the command line.
func texts(flags []*kong.Flag) map[string]string {
	values := make(map[string]string)
	for _, f := range flags {
		if !fileKey(f.Name) {
			continue
		}
		node := valueNode(f)
		value := node.Value
		if node.Kind == yaml.SequenceNode {
			var items []string
			for _, item := range node.Content {
				items = append(items, item.Value)
			}
			value = strings.Join(items, ",")
		}
		values[f.Name] = value
	}
	return values
}

// read reads all settings of sluice serve, once more.
func read(args, environ []string) (reading, error) {
	r, from, err := readUnchecked(args, environ)
	if err == nil {
		err = r.check(from.place)
	}
	return r, err
}

// readUnchecked leaves it open whether the settings go together.
func readUnchecked(args, environ []string) (r reading, from originOf, err error) {
	var cmds commands
	parser := newParser(&cmds, io.Discard, io.Discard, func(int) {})
	src, err := findSources(parser, args, environ)
	if err != nil {
		return r, from, err
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return r, from, err
	}
	return reading{cmds.Serve.config, texts(ctx.Selected().Flags)}, origins(ctx, src), nil
}

// inForce are the settings of a running gateway. Any goroutine.
type inForce struct {
	reread func() (reading, error)

	mu     sync.Mutex
	values map[string]string
}

// changed lists the settings that differ, by their effect.
func changed(before, after map[string]string) map[string][]string {
	by := make(map[string][]string)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			by[effectOf(name)] = append(by[effectOf(name)], name)
		}
	}
	return by
}

// reloads does what SIGUSR2 asks for, as long as the process lives.
func (s *server) reloads(asked <-chan struct{}) {
	for range asked {
		if err := s.reload(); err != nil {
			s.log.Error("reload failed, nothing has changed", "error", err)
		}
	}
}

// reload puts in force what can change in a running process, and says what else has changed.
func (s *server) reload() error {
	now, err := s.inForce.reread()
	if err != nil {
		return err
	}
	s.inForce.mu.Lock()
	defer s.inForce.mu.Unlock()
	by := changed(s.inForce.values, now.values)
	old := s.level.Level()
	setLevel(s.level, now.LogLevel)
	if err := s.gateway.Change(gateway.Changes{
		AllowedOrigins: now.AllowedOrigins, AllowedHosts: now.AllowedHosts,
		Allow: now.Allow, Deny: now.Deny, MessageRate: int(now.MessageRate),
	}); err != nil {
		s.level.Set(old)
		return err
	}
	for _, name := range by[byReload] {
		s.inForce.values[name] = now.values[name]
	}
	s.log.Info("reloaded", "changed", by[byReload], "next_process", by[byUpgrade], "restart", by[byRestart])
	return nil
}

// setLevel: the settings allow no other words than those that slog knows.
func setLevel(l *slog.LevelVar, name string) {
	if err := l.UnmarshalText([]byte(name)); err != nil {
		panic(fmt.Sprintf("log level %q: %v", name, err))
	}
}

// serveSettings answers GET /config of the admin address: the settings in force as a configuration
// file, without those that are secret.
func (s *server) serveSettings(w http.ResponseWriter, _ *http.Request) {
	s.inForce.mu.Lock()
	values := maps.Clone(s.inForce.values)
	s.inForce.mu.Unlock()
	var head strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if isSecret(name, values[name]) {
			fmt.Fprintf(&head, "# %s is not shown\n", name)
			delete(values, name)
		}
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = io.WriteString(w, head.String()+string(text))
}

// isSecret reports whether a setting has something in it that must not be shown.
func isSecret(name, value string) bool {
	for item := range strings.SplitSeq(value, ",") {
		if _, secret := maskSecret(name, item); secret {
			return true
		}
	}
	return false
}

const (
	diffTimeout = 10 * time.Second
	// notShown stands for the value of a secret.
	notShown = "\x00"
)

// printDiff writes which settings differ between from, a gateway's admin address or a configuration
// file, and now, and how each change takes effect.
func printDiff(w io.Writer, from, token string, now map[string]string) error {
	before, err := settingsOf(from, token)
	if err != nil {
		return err
	}
	differ := 0
	for _, name := range slices.Sorted(maps.Keys(now)) {
		old, value := before[name], now[name]
		switch {
		case old == notShown:
			fmt.Fprintf(w, "%s: is not shown there, and is not compared\n", name)
			continue
		case old == value:
			continue
		case isSecret(name, old) || isSecret(name, value):
			old, value = "…", "…"
		}
		differ++
		fmt.Fprintf(w, "%s: %q -> %q, by %s\n", name, old, value, effectOf(name))
	}
	_, err = fmt.Fprintf(w, "%d settings differ\n", differ)
	return err
}

// settingsOf reads the settings of a gateway, or those of a file and the defaults.
func settingsOf(from, token string) (map[string]string, error) {
	if !strings.HasPrefix(from, "http://") && !strings.HasPrefix(from, "https://") {
		// Secrets may be elsewhere.
		was, _, err := readUnchecked([]string{"serve", "--config", from}, nil)
		return was.values, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), diffTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(from, "/")+"/config", nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxConfigFile))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answers %s (want an admin address; --admin-token is shown to it)", from, resp.Status)
	}
	values := make(map[string]string)
	if err := yaml.Unmarshal(text, &values); err != nil || len(values) == 0 {
		return nil, errors.Join(fmt.Errorf("%s does not answer with settings", from), err)
	}
	for line := range bytes.Lines(text) {
		if name, ok := strings.CutSuffix(strings.TrimSpace(string(line)), " is not shown"); ok {
			values[strings.TrimPrefix(name, "# ")] = notShown
		}
	}
	return values, nil
}
