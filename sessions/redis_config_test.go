package sessions

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRedisURL(t *testing.T) {
	for _, c := range []struct {
		url   string
		check func(s *Redis) string // what is wrong
		err   string
	}{
		{url: "redis://h", check: func(s *Redis) string { return differ(s.where(), "h:6379") }},
		{url: "redis://u:p%40@h:7000/3", check: func(s *Redis) string {
			return differ(fmt.Sprint(s.where(), s.option.Username, s.option.Password, s.option.SelectDB), "h:7000up@3")
		}},
		{url: "redis://:p@h?db=2", check: func(s *Redis) string { return differ(fmt.Sprint(s.option.Password, s.option.SelectDB), "p2") }},
		{url: "redis://h1:7000?addr=h2:7001&addr=h3:7002", check: func(s *Redis) string { return differ(s.where(), "h1:7000,h2:7001,h3:7002") }},
		{url: "redis://h1:26379?addr=h2:26379&master_set=main&sentinel_user=a&sentinel_password=b", check: func(s *Redis) string {
			return differ(s.where()+s.option.Sentinel.Username+s.option.Sentinel.Password, "h1:26379,h2:26379 (master set main)ab")
		}},
		{url: "rediss://h1?addr=h2", check: func(s *Redis) string {
			if s.option.TLSConfig == nil || s.option.Sentinel.TLSConfig == nil || s.option.TLSConfig.InsecureSkipVerify || s.option.TLSConfig.ServerName != "" {
				return fmt.Sprintf("TLS %+v", s.option.TLSConfig)
			}
			return ""
		}},
		{url: "rediss://h?skip_verify=true", check: func(s *Redis) string { return differ(s.option.TLSConfig.InsecureSkipVerify, true) }},
		{url: "unix:///run/redis.sock", check: func(s *Redis) string { return differ(s.where(), "/run/redis.sock") }},
		{url: "", err: "no host"},
		{url: "redis://", err: "no host"},
		{url: "localhost:6379", err: "no host"},
		{url: "http://h", err: "scheme"},
		{url: "redis://u:secret@h/x", err: "database number"},
		{url: "redis://u:secret@h:port", err: "port"},
		{url: "redis://u:secret@h?client_cache=0", err: `unknown parameter "client_cache"`},
		{url: "redis://u:secret@h?ca=/x", err: "need rediss"},
		{url: "rediss://u:secret@h?ca=/does/not/exist", err: "parameter ca"},
		{url: "rediss://u:secret@h?ca=/dev/null", err: "no certificate"},
	} {
		cfg, err := RedisConfig{URL: c.url, ClientCache: true}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		option, err := clientOption(cfg)
		switch {
		case c.err != "":
			if !contains(err, c.err) || contains(err, "secret") || !contains(err, "--redis-url") {
				t.Errorf("%q: error %v, want one with %q and --redis-url, and no password", c.url, err, c.err)
			}
		case err != nil:
			t.Errorf("%q: %v", c.url, err)
		default:
			if wrong := c.check(&Redis{option: option}); wrong != "" {
				t.Errorf("%q: %s", c.url, wrong)
			}
			if !option.DisableRetry || option.DisableCache {
				t.Errorf("%q: rueidis would repeat commits by itself, or not cache", c.url)
			}
		}
	}
}

func differ[T comparable](got, want T) string {
	if got != want {
		return fmt.Sprintf("got %v, want %v", got, want)
	}
	return ""
}

func TestRedisConfigRefuses(t *testing.T) {
	for want, cfg := range map[string]RedisConfig{
		"want strict or warn": {Durability: "always"},
		"negative":            {PendingPerConn: -1},
		"is negative":         {Deadline: -1},
		"at least 1s":         {TTL: time.Second - 1},
	} {
		cfg.URL = "redis://127.0.0.1:1"
		if s, err := NewRedis(t.Context(), cfg); s != nil || !contains(err, want) {
			t.Errorf("%+v: got %v, %v, want an error with %q", cfg, s, err, want)
		}
	}
	if _, err := (RedisConfig{TTL: time.Second}).withDefaults(); err != nil {
		t.Errorf("TTL of 1s: %v", err)
	}
}

// TestRedisRefusals: what waiting does not mend ends the start, in one line that says what to
// change.
func TestRedisRefusals(t *testing.T) {
	r := startRedis(t, "--requirepass", "right")
	r.args = nil
	for _, acl := range []string{
		"user noscripts on >pw ~* &* +@all -@scripting",
		"user notracking on >pw ~* &* +@all -client|tracking",
		"user otherkeys on >pw ~other:* &* +@all",
		"user enough on >pw ~sluice:session:* &* +@all",
	} {
		r.cli(append([]string{"-a", "right", "--no-auth-warning", "acl", "setuser"}, strings.Fields(acl)[1:]...)...)
	}
	for _, c := range []struct {
		user, want string
		cache      bool
	}{
		{"", "--redis-url", true},
		{":wrong@", "--redis-url", true},
		{"noscripts:pw@", "EVAL", true},
		{"notracking:pw@", "--redis-client-cache=false", true},
		{"otherkeys:pw@", "sluice:session:", false},
		{"notracking:pw@", "", false},
		{"enough:pw@", "", true},
		{":right@", "", true},
	} {
		s, err := NewRedis(t.Context(), RedisConfig{URL: "redis://" + c.user + r.addr(), ClientCache: c.cache, Logger: testLogger(t, new(logBuffer))})
		if c.want == "" {
			if err != nil {
				t.Errorf("user %q: %v", c.user, err)
				continue
			}
			if err := s.Close(t.Context()); err != nil {
				t.Error(err)
			}
			continue
		}
		if !contains(err, c.want) || contains(err, "wrong@") || strings.Contains(fmt.Sprint(err), "\n") {
			t.Errorf("user %q: error %v, want one line with %q", c.user, err, c.want)
		}
		if s != nil {
			t.Errorf("user %q: got a store with an error", c.user)
		}
	}
}

func TestRedisTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	r := &redisServer{t: t, dir: dir, port: freePort(t), tls: true,
		args: []string{"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no"}}
	r.start()
	t.Cleanup(r.kill)
	s := newTestRedis(t, RedisConfig{URL: "rediss://" + r.addr() + "?ca=" + cert, ClientCache: true})
	m := newTestLoop(t, s).join(t, NewID(), false)
	m.add(1)
	m.acked(1)
	if s := newTestRedis(t, RedisConfig{URL: "rediss://" + r.addr(), ClientCache: true}); !contains(s.Ready(), "certificate") {
		t.Errorf("an unknown certificate: Ready = %v, want an error about the certificate", s.Ready())
	}
}

func TestRedisSentinel(t *testing.T) {
	r := startRedis(t)
	sentinel := &redisServer{t: t, dir: t.TempDir(), port: freePort(t)}
	conf := filepath.Join(sentinel.dir, "sentinel.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "port %s\nsentinel monitor main %s %s 1\n", sentinel.port, host, r.port), 0o600); err != nil {
		t.Fatal(err)
	}
	sentinel.command(conf, "--sentinel", "--bind", host)
	t.Cleanup(sentinel.kill)
	s := newTestRedis(t, RedisConfig{URL: sentinel.url() + "?master_set=main", ClientCache: true})
	id := NewID()
	m := newTestLoop(t, s).join(t, id, false)
	m.add(2)
	m.acked(2)
	if got := r.cli("hget", s.key(id), "n"); got != "2" {
		t.Errorf("the master holds %q, want 2", got)
	}
}

func TestDurabilityAudit(t *testing.T) {
	safe := map[string]string{"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory-policy": "allkeys-lru"}
	with := func(k, v string) map[string]string {
		m := map[string]string{}
		for name, value := range safe {
			m[name] = value
		}
		m[k] = v
		return m
	}
	for _, c := range []struct {
		conf map[string]string
		err  error
		want string
	}{
		{safe, nil, ""},
		{with("appendonly", "no"), nil, "appendonly is no"},
		{with("appendfsync", "everysec"), nil, "appendfsync is everysec"},
		{with("appendfsync", "no"), nil, "appendfsync is no"},
		{with("maxmemory", "1000000"), nil, "maxmemory-policy is allkeys-lru"},
		{nil, errors.New("NOPERM"), "CONFIG GET"},
	} {
		got := strings.Join(audit(c.conf, c.err), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%v: found %q, want %q", c.conf, got, c.want)
		}
	}
}

func TestRedisDurabilityStrictAndWarn(t *testing.T) {
	r := startRedis(t)
	var log logBuffer
	cfg := steady(r.url())
	cfg.Logger = testLogger(t, &log)
	warn := newTestRedis(t, cfg)
	eventually(t, "the finding is logged", func() bool { return strings.Contains(log.String(), "appendonly is no") })
	if warn.Ready() != nil {
		t.Errorf("warn: not ready: %v", warn.Ready())
	}
	cfg.Durability, cfg.Logger = "strict", nil
	strict := newTestRedis(t, cfg)
	eventually(t, "strict is not ready", func() bool { return contains(strict.Ready(), "appendonly is no") })
	r.cli("config", "set", "appendonly", "yes", "appendfsync", "always")
	eventually(t, "strict is ready once Redis is safe", func() bool { return strict.Ready() == nil })
	if n := strings.Count(log.String(), "may forget"); n != 1 {
		t.Errorf("the finding was logged %d times, want once", n)
	}
}

// TestRedisStormIsServedFromTheCache: idle sessions that reconnect cost Redis a ping per batch of
// them.
func TestRedisStormIsServedFromTheCache(t *testing.T) {
	r := startRedis(t)
	s := newTestRedis(t, steady(r.url()))
	l := newTestLoop(t, s)
	const sessions = 2000
	owners := make([]*member, sessions)
	ids := make([]ID, sessions)
	storm := func(resume bool, n int, want uint64) {
		for i := range owners {
			if !resume {
				ids[i] = NewID()
			}
			owners[i] = &member{t: t, loop: l, name: "storm"}
		}
		l.on(func() {
			for i, m := range owners {
				l.Attach(ids[i], "", resume, m)
			}
		})
		for _, m := range owners {
			eventually(t, "attached", func() bool { return get(m, &m.attached) == 1 })
			if m.err != nil || m.total != want || m.resumed != resume {
				t.Fatalf("attached at %d, resumed %v, %v, want %d", m.total, m.resumed, m.err, want)
			}
			m.add(n)
		}
		for i, m := range owners {
			m.acked(n)
			if n > 0 {
				if _, err := m.leave(); err != nil {
					t.Fatal(err)
				}
			} else { // as the network does that goes away
				l.on(func() { owners[i].a.Detach(nil) })
			}
		}
	}
	storm(false, 1, 0)
	storm(true, 0, 1) // fills the cache
	r.cli("config", "resetstat")
	hits := redisCacheHits.Get()
	storm(true, 0, 1)
	if got := redisCacheHits.Get() - hits; got != sessions {
		t.Errorf("%d of %d resumes came from the cache", got, sessions)
	}
	stats := r.cli("info", "commandstats")
	for _, command := range []string{"hgetall", "evalsha", "expire"} {
		if strings.Contains(stats, "cmdstat_"+command+":") {
			t.Errorf("the storm issued %s: %s", command, stats)
		}
	}
	if _, after, _ := strings.Cut(stats, "cmdstat_ping:calls="); !slices.Contains([]int{1, 2, 3}, len(after[:strings.Index(after, ",")])) {
		t.Errorf("no pings, or a thousand of them, in %s", stats)
	}
}
