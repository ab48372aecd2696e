package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	// watchEvery is how often Redis is asked whether it is well: readiness follows within this
	// and a deadline.
	watchEvery = time.Second
	// auditEvery is how often its durability is looked at again: it can be changed while it runs.
	auditEvery = 10 * time.Second
)

// refusal is a configuration that no waiting mends.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func permanent(err error) bool { return errors.As(err, new(refusal)) }

// connect makes the client and proves that the server can do what the store needs.
func (s *Redis) connect(ctx context.Context) error {
	reads, err := rueidis.NewClient(s.option)
	if err != nil {
		return s.explain("connect", err)
	}
	commits, err := rueidis.NewClient(commitOption(s.option))
	if err != nil {
		reads.Close()
		return s.explain("connect", err)
	}
	c := &clients{reads, commits}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Deadline)
	defer cancel()
	if err := s.probe(ctx, c); err != nil {
		c.close()
		return err
	}
	s.client.Store(c)
	s.setHealth(nil)
	s.log.Info("session store connected", "redis", s.where(), "mode", string(reads.Mode()), "client_cache", s.cfg.ClientCache)
	return nil
}

// probe commits nothing to a session that nobody has, by EVAL and then by EVALSHA, and reads it.
func (s *Redis) probe(ctx context.Context, c *clients) error {
	var nothing commit
	key := s.key(ID{})
	for _, source := range []bool{true, false} {
		r := c.commits.Do(ctx, nothing.command(c.commits.B(), key, instancePrefix, s.ttl, source))
		if _, err := parseStored(r); err != nil && !isNoScript(err) {
			return s.explain("run the commit script (EVAL, EVALSHA)", err)
		}
	}
	if !s.cfg.ClientCache {
		return nil
	}
	if err := c.reads.DoCache(ctx, c.reads.B().Hgetall().Key(key).Cache(), time.Second).Error(); err != nil {
		return s.explain("read through the client-side cache (CLIENT CACHING)", err)
	}
	return nil
}

// explain says what was tried and what to change. Answers that do not come by waiting become
// refusals.
func (s *Redis) explain(what string, err error) error {
	at := s.where()
	if errors.Is(err, rueidis.ErrNoCache) {
		return refusal{fmt.Errorf("redis %s: %s: no CLIENT TRACKING with RESP3, which the client-side cache needs (set --redis-client-cache=false, or use Redis 6 or later)", at, what)}
	}
	answer, ok := rueidis.IsRedisErr(err)
	if !ok {
		return fmt.Errorf("redis %s: %s: %w (%w)", at, what, err, ErrUnavailable)
	}
	text := answer.Error()
	passing := errorWord(text, "LOADING", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "MOVED", "ASK")
	if passing != "" || strings.Contains(text, "max number of clients") {
		return fmt.Errorf("redis %s: %s: %w (%w)", at, what, err, ErrUnavailable)
	}
	hint := "check --redis-url"
	switch {
	case errorWord(text, "NOAUTH", "WRONGPASS") != "" || strings.Contains(text, "invalid password"):
		hint = "check the user and password in --redis-url"
	case errorWord(text, "NOPERM") != "" || strings.Contains(text, "executing the script can't"):
		hint = fmt.Sprintf("allow the user %s on %s*", s.cfg.permissions(), s.cfg.KeyPrefix)
	case errorWord(text, errWrongType, errForeign) != "":
		hint = "something else uses these keys: set another --redis-key-prefix"
	case strings.Contains(text, "unknown command"):
		hint = "this server cannot run scripts: use one that has EVAL and EVALSHA"
	}
	return refusal{fmt.Errorf("redis %s: %s: %s (%s)", at, what, text, hint)}
}

// permissions are what a user in Redis' access control list needs, in its own words.
func (cfg *RedisConfig) permissions() string {
	all := needed
	if cfg.ClientCache {
		all += " " + neededForCache
	}
	if cfg.WaitReplicas > 0 {
		all += " " + neededToWait
	}
	return all
}

const (
	needed         = "+ping +eval +evalsha +hmget +hgetall +hset +hlen +pexpire"
	neededForCache = "+client|tracking +client|caching +multi +exec +pttl"
	neededToWait   = "+wait +role"
)

// watch connects when that has not succeeded yet, and then asks every second how Redis is.
func (s *Redis) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var audited time.Time
	for {
		if c, err := s.do(); err != nil {
			s.setHealthUnless(s.connect(s.ctx))
		} else if err := s.ping(c.reads); err != nil {
			s.setHealth(err)
			audited = time.Time{} // it may come back as another
		} else if err := s.replicas(c.reads); err != nil {
			s.setHealth(err)
			audited = time.Time{}
		} else if time.Since(audited) >= auditEvery || s.Ready() != nil {
			s.setHealth(s.audit(c.reads))
			audited = time.Now()
		}
		s.sayReady()
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ping asks as a resume would be asked: through the same connection, to the server that owns a
// key. In a cluster that is one of many; the others, and whether Redis takes writes, are known by
// the commits.
func (s *Redis) ping(c rueidis.Client) error {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Deadline)
	defer cancel()
	if err := c.Do(ctx, c.B().Hlen().Key(s.key(ID{})).Build()).Error(); err != nil {
		return s.explain("ping", err)
	}
	return nil
}

// audit looks at what every server would keep if it died. With warn it only says so, once a
// finding.
func (s *Redis) audit(c rueidis.Client) error {
	var findings []string
	for at, node := range c.Nodes() {
		ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Deadline)
		conf, err := node.Do(ctx, node.B().ConfigGet().Parameter("appendonly", "appendfsync", "maxmemory", "maxmemory-policy").Build()).AsStrMap()
		cancel()
		for _, f := range audit(conf, err) {
			findings = append(findings, at+": "+f)
		}
	}
	if len(findings) == 0 {
		return nil
	}
	slices.Sort(findings)
	found := strings.Join(findings, "; ")
	if s.cfg.Durability == "strict" {
		return fmt.Errorf("redis may forget acknowledged counts: %s (or set --redis-durability=warn)", found)
	}
	if h := s.state.Load(); h.warned != found {
		s.log.Warn("redis may forget acknowledged counts", "findings", found)
		s.state.Store(&health{err: h.err, warned: found})
	}
	return nil
}

// audit says what in a server's configuration can lose a confirmed write. With appendfsync
// everysec a killed Redis loses nothing but a machine that loses power loses up to two seconds,
// so it is a finding.
func audit(conf map[string]string, err error) (findings []string) {
	if err != nil {
		return []string{fmt.Sprintf("cannot be asked for its durability (CONFIG GET: %v)", err)}
	}
	if conf["appendonly"] != "yes" {
		findings = append(findings, "appendonly is "+conf["appendonly"]+", want yes")
	} else if conf["appendfsync"] != "always" {
		findings = append(findings, "appendfsync is "+conf["appendfsync"]+", want always")
	}
	if conf["maxmemory"] != "0" && conf["maxmemory-policy"] != "noeviction" {
		findings = append(findings, "maxmemory-policy is "+conf["maxmemory-policy"]+", want noeviction")
	}
	return findings
}

// setHealth keeps what the watcher found.
func (s *Redis) setHealth(err error) {
	old := s.state.Load()
	s.state.Store(&health{err: err, warned: old.warned})
	up := err == nil || !errors.Is(err, ErrUnavailable)
	if up {
		redisUp.Store(1)
	} else {
		redisUp.Store(0)
	}
}

// setHealthUnless is setHealth for connect, which has said so itself when it succeeded.
func (s *Redis) setHealthUnless(err error) {
	if err != nil {
		s.setHealth(err)
	}
}

func isNoScript(err error) bool {
	answer, ok := rueidis.IsRedisErr(err)
	return ok && answer.IsNoScript()
}
