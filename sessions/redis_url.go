package sessions

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// urlParams are the query parameters that a Redis URL may have. rueidis takes others too, which
// would turn off what this package is built on.
var urlParams = []string{"addr", "db", "master_set", "sentinel_user", "sentinel_password", "skip_verify", "ca", "client_name", "dial_timeout"}

// clientOption turns cfg into rueidis' options. Its errors never repeat the URL, which may hold a
// password.
func clientOption(cfg RedisConfig) (rueidis.ClientOption, error) {
	o, err := ParseRedisURL(cfg.URL, cfg.Deadline)
	if err != nil {
		return o, fmt.Errorf("redis URL: %w (set --redis-url to the like of redis://user:password@host:6379/0)", err)
	}
	o.DisableCache = !cfg.ClientCache
	// One connection per server: a barrier then covers every cached read.
	o.PipelineMultiplex = -1
	// A part of a batch is about 30 KB and its answer 10, 256 lookups are 20; each is one entry of
	// the ring. rueidis' own sizes, 1 MiB and 1,024 entries, are live heap, and the collector's
	// pace goes by that.
	o.ReadBufferEachConn, o.WriteBufferEachConn, o.RingScaleEachConn = 64<<10, 64<<10, 8
	o.OnInvalidations = countInvalidations
	if !cfg.ClientCache {
		o.OnInvalidations = nil
	}
	return o, nil
}

// ParseRedisURL reads the URL of a server, a cluster (more addresses by addr=) or sentinels
// (master_set=) as options for a client that repeats nothing by itself and notices a dead peer
// within twice the deadline. Its errors never repeat the URL, which may hold a password.
func ParseRedisURL(raw string, deadline time.Duration) (o rueidis.ClientOption, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		var in *url.Error
		if errors.As(err, &in) {
			err = in.Err
		}
		return o, err
	}
	if u.Host == "" && u.Scheme != "unix" {
		return o, errors.New("no host")
	}
	q := u.Query()
	for name := range q {
		if !slices.Contains(urlParams, name) {
			return o, fmt.Errorf("unknown parameter %q, want one of %s", name, strings.Join(urlParams, ", "))
		}
	}
	if o, err = rueidis.ParseURL(raw); err != nil {
		return o, err
	}
	if o.TLSConfig != nil {
		// Each server is verified by the name it is dialled by, not all by the first one's.
		o.TLSConfig.ServerName = ""
		if err := trust(o.TLSConfig, q.Get("ca")); err != nil {
			return o, err
		}
	} else if q.Has("ca") || q.Has("skip_verify") {
		return o, errors.New("ca and skip_verify need rediss://")
	}
	if o.Dialer.Timeout == 0 {
		o.Dialer.Timeout = deadline
	}
	// rueidis pings a connection on which nothing was received for this long, and gives up a
	// connection that owes an answer for ConnWriteTimeout: together they are how soon a dead peer
	// is noticed.
	o.Dialer.KeepAlive = min(time.Second, deadline)
	o.ConnWriteTimeout = deadline
	o.Sentinel.Dialer, o.Sentinel.TLSConfig = o.Dialer, o.TLSConfig
	o.Sentinel.Username, o.Sentinel.Password = q.Get("sentinel_user"), q.Get("sentinel_password")
	if o.Sentinel.MasterSet != "" {
		o.Sentinel.TopologyRefreshInterval = 5 * time.Second // an event that was missed must not bind us to an old master
	}
	o.ClusterOption.ShardsRefreshInterval = 5 * time.Second
	o.ClusterOption.MaxMovedRedirections = 8
	if o.ClientName == "" {
		o.ClientName = "sluice"
	}
	// Repeating is the caller's business: it must know what it has repeated.
	o.DisableRetry = true
	o.AlwaysPipelining = true
	// Batches are bounded by who makes them; rueidis' own threshold would send large ones on a
	// second connection.
	o.BlockingPipeline = 1 << 20
	return o, nil
}

// commitMultiplex is the binary logarithm of the number of connections to each server that carry
// commits.
const commitMultiplex = 2

// commitOption is o for the client that commits.
func commitOption(o rueidis.ClientOption) rueidis.ClientOption {
	o.DisableCache, o.OnInvalidations = true, nil
	o.PipelineMultiplex = commitMultiplex
	return o
}

// trust adds the certificates in file to the system's.
func trust(c *tls.Config, file string) error {
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("parameter ca: %w", err)
	}
	if c.RootCAs, err = x509.SystemCertPool(); err != nil {
		c.RootCAs = x509.NewCertPool()
	}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("parameter ca: no certificate in %s", file)
	}
	return nil
}

// where names the servers without credentials, for messages.
func (s *Redis) where() string {
	at := strings.Join(s.option.InitAddress, ",")
	if s.option.Sentinel.MasterSet != "" {
		return fmt.Sprintf("%s (master set %s)", at, s.option.Sentinel.MasterSet)
	}
	return at
}
