package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// redisServer is a redis-server that syncs every write to disk before it answers.
type redisServer struct {
	*process
	dir, addr string
	args      []string       // more of redis-server's options
	client    rueidis.Client // the harness's own, past the proxies
}

// startRedis starts one with a directory of its own below dir.
func startRedis(dir, name string, args ...string) (*redisServer, error) {
	r := &redisServer{dir: filepath.Join(dir, name), args: args}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	for range 20 {
		r.addr = fmt.Sprintf("127.0.0.1:%d", somePort())
		if err = r.start(); err == nil {
			return r, nil
		}
		r.stop()
		r.client = nil // it may be another server's that had the port
	}
	return nil, err
}

// start starts it, or starts it again on what its append-only file holds, and returns when it
// answers.
func (r *redisServer) start() error {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return fmt.Errorf("redis-server is not installed (make test-deps installs it): %w", err)
	}
	cmd := exec.Command(bin, append([]string{"--bind", "127.0.0.1", "--port", r.port(), "--dir", r.dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"}, r.args...)...)
	if r.process, err = startProcess(cmd, filepath.Join(r.dir, "log")); err != nil {
		return err
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err := r.dead(); err != nil {
			return err
		}
		if r.client == nil {
			r.client, err = rueidis.NewClient(ownOption(r.addr))
			if err != nil {
				continue
			}
		}
		var text string
		if text, err = r.do("INFO", "server"); err == nil {
			// Somebody else's server may have had the port already.
			if strings.Contains(text, fmt.Sprintf("process_id:%d\r\n", r.cmd.Process.Pid)) {
				return nil
			}
			r.client.Close()
			r.client = nil
			r.kill()
			return fmt.Errorf("another redis-server has %s", r.addr)
		}
	}
	return fmt.Errorf("redis-server on %s does not answer: %w", r.addr, err)
}

// ownOption is for a client of the harness's own: one connection, and time for a slow disk.
func ownOption(addr string) rueidis.ClientOption {
	return rueidis.ClientOption{
		InitAddress: []string{addr}, ForceSingleClient: true, PipelineMultiplex: -1,
		DisableCache: true, DisableRetry: true, ConnWriteTimeout: patience,
	}
}

// do sends a command of the harness's own.
func (r *redisServer) do(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a, err := r.client.Do(ctx, r.client.B().Arbitrary(args[0]).Args(args[1:]...).Build()).ToAny()
	if err != nil && !rueidis.IsRedisNil(err) {
		return "", fmt.Errorf("redis %s: %w", strings.Join(args, " "), err)
	}
	return fmt.Sprint(a), nil
}

// list is do for a command that answers a list of strings.
func (r *redisServer) list(args ...string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := r.client.Do(ctx, r.client.B().Arbitrary(args[0]).Args(args[1:]...).Build()).AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("redis %s: %w", strings.Join(args, " "), err)
	}
	return l, nil
}

func (r *redisServer) port() string { return portOf(r.addr) }

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// stop ends it for good.
func (r *redisServer) stop() {
	if r.process != nil {
		r.kill()
	}
	if r.client != nil {
		r.client.Close()
	}
}

// topology is how Redis is deployed.
type topology int

const (
	standalone topology = iota // one server, behind a proxy for each gateway
	sentinel                   // a master, its replica, and a Sentinel
	cluster                    // three masters with a replica each; the first has one more
)

// clusterSlots is Redis' own number; the masters have equal shares of it.
const clusterSlots, clusterMasters = 16384, 3

// deployment is Redis as the gateways see it.
type deployment struct {
	topology topology
	url      string
	servers  []*redisServer // masters first; the last is the replica that takes over
	buses    []*proxy       // of a Cluster: one before the bus of each server, of the same number
	sentinel *process
}

func startDeployment(dir string, t topology) (d *deployment, err error) {
	d = &deployment{topology: t}
	defer func() {
		if err != nil {
			d.stop()
		}
	}()
	switch t {
	case sentinel:
		return d, d.startSentinel(dir)
	case cluster:
		return d, d.startCluster(dir)
	}
	if err := d.add(dir); err != nil {
		return nil, err
	}
	d.url = "redis://" + d.servers[0].addr + "/0"
	return d, nil
}

func (d *deployment) stop() {
	if d.sentinel != nil {
		d.sentinel.kill()
	}
	for _, r := range d.servers {
		r.stop()
	}
	for _, p := range d.buses {
		p.close()
	}
}

// add starts a server more.
func (d *deployment) add(dir string, args ...string) error {
	r, err := startRedis(dir, fmt.Sprintf("redis%d", len(d.servers)), args...)
	if err == nil {
		d.servers = append(d.servers, r)
	}
	return err
}

func (d *deployment) startSentinel(dir string) error {
	if err := d.add(dir); err != nil {
		return err
	}
	master := d.servers[0]
	if err := d.add(dir, "--replicaof", "127.0.0.1", master.port(), "--repl-diskless-sync-delay", "0"); err != nil {
		return err
	}
	if err := eventually("the replica follows", patience, func() bool { return master.says("INFO", "state=online", "replication") }); err != nil {
		return err
	}
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return err
	}
	port, conf := somePort(), filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %d\nsentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 1000\n"+
		"sentinel failover-timeout main 10000\n", port, master.port())
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	if d.sentinel, err = startProcess(exec.Command(bin, conf, "--sentinel"), filepath.Join(dir, "sentinel.log")); err != nil {
		return err
	}
	d.url = fmt.Sprintf("redis://127.0.0.1:%d?master_set=main", port)
	return eventually("the Sentinel sees the replica", patience, func() bool {
		out, err := d.askSentinel("SENTINEL", "REPLICAS", "main")
		return err == nil && strings.Contains(out, "master-link-status:ok")
	})
}

// askSentinel sends a command to the Sentinel.
func (d *deployment) askSentinel(args ...string) (string, error) {
	addr, _, _ := strings.Cut(strings.TrimPrefix(d.url, "redis://"), "?")
	s := &redisServer{addr: addr}
	var err error
	s.client, err = rueidis.NewClient(ownOption(addr))
	if err != nil {
		return "", err
	}
	defer s.client.Close()
	return s.do(args...)
}

func (d *deployment) startCluster(dir string) error {
	const slots, masters = clusterSlots, clusterMasters
	follows := []int{1, 2, 0, 0} // the master of each replica
	members := masters + len(follows)
	for i := range members {
		stays := "yes" // the last one takes over, and nobody else: no run needs to ask who did
		if i == members-1 {
			stays = "no"
		}
		if err := d.addMember(dir, "--cluster-replica-no-failover", stays); err != nil {
			return err
		}
	}
	for i, r := range d.servers[:masters] {
		from, to := i*slots/masters, (i+1)*slots/masters-1
		if _, err := r.do("CLUSTER", "ADDSLOTSRANGE", fmt.Sprint(from), fmt.Sprint(to)); err != nil {
			return err
		}
		if _, err := r.do("CLUSTER", "SET-CONFIG-EPOCH", fmt.Sprint(i+1)); err != nil {
			return err
		}
	}
	for i, r := range d.servers[1:] {
		if _, err := d.servers[0].do("CLUSTER", "MEET", "127.0.0.1", r.port(), portOf(d.buses[i+1].addr)); err != nil {
			return err
		}
	}
	for i, master := range follows {
		id, err := d.servers[master].do("CLUSTER", "MYID")
		if err != nil {
			return err
		}
		err = eventually("the replica hears of its master", patience, func() bool {
			_, err := d.servers[masters+i].do("CLUSTER", "REPLICATE", id)
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	for i, n := range []int{2, 1, 1} {
		if err := d.servers[i].followed(n); err != nil {
			return err
		}
	}
	d.url = "redis://" + d.servers[0].addr + "?addr=" + d.servers[1].addr + "&addr=" + d.servers[2].addr
	return eventually("the cluster is complete", patience, func() bool {
		for _, r := range d.servers {
			known := fmt.Sprintf("cluster_known_nodes:%d\r", members)
			if !r.says("CLUSTER", "cluster_state:ok", "INFO") || !r.says("CLUSTER", known, "INFO") {
				return false
			}
		}
		return true
	})
}

// addMember starts a server of a Cluster. What it says to the others on the bus comes from an
// address of its own and passes through their proxies, so that it can be cut off from them alone.
func (d *deployment) addMember(dir string, args ...string) error {
	bus, err := startProxy("")
	if err != nil {
		return err
	}
	d.buses = append(d.buses, bus)
	err = d.add(dir, append([]string{"--cluster-enabled", "yes", "--cluster-node-timeout", "2000",
		"--cluster-migration-barrier", "9", // replicas stay with the first master
		"--bind-source-addr", busSource(len(d.servers)), "--protected-mode", "no", // that lets 127.0.0.1 in only
		"--cluster-announce-ip", "127.0.0.1", "--cluster-announce-bus-port", portOf(bus.addr)}, args...)...)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(d.servers[len(d.servers)-1].port())
	bus.aim(fmt.Sprintf("127.0.0.1:%d", port+10_000)) // Redis' own choice
	return err
}

// busSource is the address from which server i of a Cluster calls others.
func busSource(i int) string { return fmt.Sprintf("127.0.0.%d", 10+i) }

// split cuts server i off from the bus of all others, or, without cut, joins them again.
func (d *deployment) split(i int, cut bool) error {
	f, source := passing, ""
	if cut {
		f, source = refusing, busSource(i)
	}
	for k, bus := range d.buses {
		if k != i {
			bus.bar(source)
		}
	}
	return d.buses[i].set(f, 0)
}

// followed waits until n replicas follow a server.
func (r *redisServer) followed(n int) error {
	return eventually("the replicas follow", patience, func() bool {
		out, err := r.do("INFO", "replication")
		return err == nil && strings.Count(out, "state=online") >= n
	})
}

// says reports whether the answer to a command has text in it.
func (r *redisServer) says(command, text string, args ...string) bool {
	out, err := r.do(append([]string{command}, args...)...)
	return err == nil && strings.Contains(out, text)
}

// idOnFirst draws the id of a session that the first master of a cluster stores.
func (d *deployment) idOnFirst() (string, error) {
	for {
		id := newUUID()
		slot, err := d.servers[0].number("CLUSTER", "KEYSLOT", keyPrefix+id)
		if err != nil || slot < clusterSlots/clusterMasters {
			return id, err
		}
	}
}

// keyPrefix begins the key of every session that the gateways store.
const keyPrefix = "sluice:session:2:"

// totals reads the stored total of every session, from all servers that are masters now.
func (d *deployment) totals() (map[string]uint64, error) {
	totals := map[string]uint64{}
	for _, r := range d.servers {
		if r.dead() != nil || !r.says("ROLE", "master") {
			continue
		}
		if err := r.totals(totals); err != nil {
			return nil, err
		}
	}
	return totals, nil
}

func (r *redisServer) totals(totals map[string]uint64) error {
	for cursor := uint64(0); ; {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		page, err := r.client.Do(ctx, r.client.B().Scan().Cursor(cursor).Match(keyPrefix+"*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			cancel()
			return fmt.Errorf("read all sessions: %w", err)
		}
		commands := make([]rueidis.Completed, len(page.Elements))
		for i, key := range page.Elements {
			commands[i] = r.client.B().Hget().Key(key).Field("n").Build()
		}
		for i, answer := range r.client.DoMulti(ctx, commands...) {
			n, err := answer.AsUint64()
			if err != nil {
				cancel()
				return fmt.Errorf("read session %s: %w", page.Elements[i], err)
			}
			totals[strings.TrimPrefix(page.Elements[i], keyPrefix)] = n
		}
		cancel()
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}
