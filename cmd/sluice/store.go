package main

import (
	"context"
	"log/slog"
	"time"

	"sluice/sessions"
)

// openStore opens the session store that cfg asks for. A Redis that does not answer is no error: the store
// goes on trying, and is not ready until then.
func openStore(cfg config, log *slog.Logger) (sessions.Store, error) {
	if cfg.SessionStore == "redis" {
		store, err := sessions.NewRedis(context.Background(), sessions.RedisConfig{
			URL:         cfg.RedisURL,
			KeyPrefix:   cfg.RedisKeyPrefix,
			TTL:         time.Duration(cfg.SessionTTL),
			ClientCache: cfg.RedisClientCache,
			Durability:  cfg.RedisDurability,
			Logger:      log,
		})
		if err != nil {
			return nil, err // not store: a nil *Redis in the interface would not be nil
		}
		return store, nil
	}
	return sessions.NewMemory(sessions.MemoryConfig{
		MaxSessions: int(cfg.MaxSessions),
		TTL:         time.Duration(cfg.SessionTTL),
	}), nil
}
