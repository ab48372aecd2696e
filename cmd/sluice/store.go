package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"sluice/gateway/backend"
	"sluice/sessions"
)

// sessionKeys are those that cfg names, or nil.
func (c *config) sessionKeys() (*sessions.IDKeys, error) {
	var keys [][]byte
	for i, text := range c.SessionKey {
		key, err := backend.ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	return sessions.NewIDKeys(keys[0], keys[1:]...)
}

// openStore opens the session store that cfg asks for. A Redis that does not answer is no error:
// the store goes on trying, and is not ready until then. ask is sessions.MemoryConfig.Ask.
func openStore(cfg config, ask func(question []byte) error, log *slog.Logger) (sessions.Store, error) {
	if cfg.SessionStore == "redis" {
		store, err := sessions.NewRedis(context.Background(), sessions.RedisConfig{
			URL:         cfg.RedisURL,
			KeyPrefix:   cfg.RedisKeyPrefix,
			TTL:         time.Duration(cfg.SessionTTL),
			ClientCache: cfg.RedisClientCache,
			Durability:  cfg.RedisDurability,

			WaitReplicas:   int(cfg.RedisWaitReplicas),
			CommitInterval: time.Duration(cfg.RedisCommitInterval),

			Logger: log,
		})
		if err != nil {
			return nil, err // not store: a nil *Redis in the interface would not be nil
		}
		return store, nil
	}
	return sessions.NewMemory(sessions.MemoryConfig{
		MaxSessions: int(cfg.MaxSessions),
		TTL:         time.Duration(cfg.SessionTTL),
		Ask:         ask,
	}), nil
}
