package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"sluice/bench/service"
)

// A gateway in front of a service, with topics in Redis, is another promise than a count: a message
// reaches the service at most once and in order, or its connection is closed; a publication reaches
// each subscriber at most once and in order, or the subscriber is told of a gap. Two gateways stand
// before one service, clients are on both, and each of two topics is published to at one of them.

// serviceFault is something that goes wrong with a service, its gateways or their Redis.
type serviceFault struct {
	name  string
	short bool
	real  bool // the service is a process of its own
	do    func(r *serviceFixture) error
}

var serviceFaults = []serviceFault{
	{name: "none", short: true, do: func(r *serviceFixture) error { return r.part(1) }},
	{name: "service gone", short: true, do: func(r *serviceFixture) error {
		return r.away(func() error { return r.toService(refusing, 0) },
			func() error { return r.toService(passing, 0) })
	}},
	{name: "service SIGKILL and restart", short: true, real: true, do: func(r *serviceFixture) error {
		return r.away(r.service.kill, r.service.start)
	}},
	{name: "service stalled", do: func(r *serviceFixture) error {
		return r.away(func() error { return r.toService(blackHole, 0) },
			func() error { return r.toService(passing, 0) })
	}},
	{name: "service slow by 200 ms", do: func(r *serviceFixture) error {
		return r.away(func() error { return r.toService(passing, 200*time.Millisecond) },
			func() error { return r.toService(passing, 0) })
	}},
	{name: "service answers garbage", short: true, do: func(r *serviceFixture) error {
		return r.answering("TEXT 99\r\nshort", http.StatusOK)
	}},
	{name: "service answers 500", do: func(r *serviceFixture) error {
		return r.answering("broken", http.StatusInternalServerError)
	}},
	{name: "redis SIGKILL and restart", short: true, do: func(r *serviceFixture) error {
		return r.away(func() error { r.store.servers[0].kill(); return nil },
			r.store.servers[0].start)
	}},
	{name: "gateway SIGKILL", short: true, do: func(r *serviceFixture) error {
		return r.away(func() error { r.killGateway(1); return nil },
			func() error { return r.startGateway(1) })
	}},
}

// Services runs serviceFaults and writes a table to out. It returns ErrBroken if a promise was not
// kept.
func Services(ctx context.Context, out io.Writer, o Options) error {
	list := serviceFaults
	if o.Fault != "" {
		list = nil
		for _, f := range serviceFaults {
			if f.name == o.Fault {
				list = append(list, f)
			}
		}
	}
	if len(list) == 0 || o.Runs < 1 {
		return fmt.Errorf("nothing to run: %d runs of fault %q", o.Runs, o.Fault)
	}
	fmt.Fprintln(out, "| fault | said | heard | closed instead | lost | doubled | reordered | ends "+
		"untold "+
		"| published | delivered | in a told gap | lost | doubled | reordered |")
	fmt.Fprintln(out, "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
	bad := false
	for _, f := range list {
		var sum serviceTally
		var broken []string
		for range o.Runs {
			t, dir, err := runService(ctx, f, o)
			if ctx.Err() != nil {
				os.RemoveAll(dir)
				return ctx.Err()
			}
			sum.add(t)
			if err != nil || t.broken() {
				broken = append(broken, fmt.Sprintf("%s: %v; the logs are in %s", f.name, err, dir))
			} else {
				os.RemoveAll(dir)
			}
		}
		fmt.Fprintf(out, "| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d | %d |\n",
			f.name, sum.said, sum.heard, sum.closed, sum.lost, sum.doubled, sum.reordered, sum.untold,
			sum.published, sum.delivered, sum.told, sum.silent, sum.twice, sum.backwards)
		for _, text := range broken {
			bad = true
			fmt.Fprintln(out, text)
		}
	}
	if bad {
		return ErrBroken
	}
	return nil
}

func runService(ctx context.Context, f serviceFault, o Options) (t serviceTally, dir string,
	err error) {
	r := &serviceFixture{ctx: ctx, bin: o.Bin, load: o.Load, books: newServiceBooks()}
	if f.real {
		r.service = &serviceProcess{command: o.Service, heard: r.books.heard}
	}
	defer r.close()
	if err = r.start(); err == nil {
		if err = f.do(r); err == nil {
			t, err = r.finish()
		}
	}
	return t, r.dir, err
}

// serviceFixture is what one run needs.
type serviceFixture struct {
	ctx   context.Context
	bin   string
	load  time.Duration
	dir   string
	books *serviceBooks

	store    *deployment
	backend  *httptest.Server
	service  *serviceProcess // in place of backend, where it is a process of its own
	proxy    *proxy          // before backend
	upstream string          // the address that gateways know
	bad      atomic.Pointer[badAnswer]
	asked    atomic.Uint64 // counts requests
	gateways [2]*gatewayProcess
	controls [2]string
	crowd    *serviceCrowd
}

// badAnswer is what every eighth request is answered.
type badAnswer struct {
	body   string
	status int
}

func (r *serviceFixture) start() (err error) {
	if r.dir, err = os.MkdirTemp("", "sluice-faults-"); err != nil {
		return err
	}
	if r.store, err = startDeployment(r.dir, standalone); err != nil {
		return err
	}
	if err := r.startService(); err != nil {
		return err
	}
	for i := range r.gateways {
		if err := r.startGateway(i); err != nil {
			return err
		}
	}
	r.crowd = startServiceCrowd(r.books, r.addresses, r.control)
	return r.part(0.3)
}

// startService starts the service, with a proxy before it where it is not a process of its own: a
// proxy would accept requests for one that is dead.
func (r *serviceFixture) startService() (err error) {
	if r.service != nil {
		r.upstream = fmt.Sprintf("127.0.0.1:%d", somePort())
		r.service.dir, r.service.addr = r.dir, r.upstream
		return r.service.start()
	}
	r.backend = httptest.NewServer(r.answerer(&service.Service{Heard: r.books.heard}))
	if r.proxy, err = startProxy(r.backend.Listener.Addr().String()); err == nil {
		r.upstream = r.proxy.addr
	}
	return err
}

// answerer lets the service hear a request, and answers some of them in its place.
func (r *serviceFixture) answerer(s *service.Service) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		bad := r.bad.Load()
		if bad == nil || r.asked.Add(1)%8 != 0 {
			s.ServeHTTP(w, q)
			return
		}
		body, _ := io.ReadAll(q.Body)
		if bad.status == http.StatusOK || !bytes.HasPrefix(body, []byte("OPEN")) {
			q.Body = io.NopCloser(bytes.NewReader(body))
			s.ServeHTTP(httptest.NewRecorder(), q)
		} // else the client is refused, and has no end that could be told
		w.Header().Set("Content-Type", "application/websocket-events")
		w.WriteHeader(bad.status)
		_, _ = io.WriteString(w, bad.body)
	})
}

func (r *serviceFixture) startGateway(i int) error {
	control := fmt.Sprintf("127.0.0.1:%d", somePort())
	log := filepath.Join(r.dir, fmt.Sprintf("gateway%d-%d.log", i, time.Now().UnixNano()))
	g, err := startServe(r.bin, log, nil, "--app", "backend", "--backend-url", "http://"+r.upstream,
		"--backend-timeout", "1s", "--backend-hold", "2s", "--control", control,
		"--broker-url", r.store.url)
	if err != nil {
		return err
	}
	r.books.mu.Lock()
	defer r.books.mu.Unlock()
	r.gateways[i], r.controls[i] = g, control
	return nil
}

// killGateway ends a gateway as a crash does. What its connections had to tell dies with it.
func (r *serviceFixture) killGateway(i int) {
	r.books.mu.Lock()
	g := r.gateways[i]
	r.gateways[i], r.controls[i] = nil, ""
	r.books.killed[g.addr] = true
	r.books.mu.Unlock()
	g.kill()
}

// addresses are those of the gateways that run.
func (r *serviceFixture) addresses() (all []string) {
	r.books.mu.Lock()
	defer r.books.mu.Unlock()
	for _, g := range r.gateways {
		if g != nil {
			all = append(all, g.addr)
		}
	}
	return all
}

// control is the address at which a gateway is published at, "" while it is not there.
func (r *serviceFixture) control(i int) string {
	r.books.mu.Lock()
	defer r.books.mu.Unlock()
	return r.controls[i]
}

func (r *serviceFixture) part(share float64) error {
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-time.After(time.Duration(float64(r.load) * share)):
		return nil
	}
}

// away does something, twice, for a quarter of the load's time each.
func (r *serviceFixture) away(off, on func() error) error {
	for range 2 {
		if err := off(); err != nil {
			return err
		}
		if err := r.part(0.25); err != nil {
			return err
		}
		if err := on(); err != nil {
			return err
		}
		if err := r.part(0.25); err != nil {
			return err
		}
	}
	return nil
}

func (r *serviceFixture) toService(f flow,
	delay time.Duration) error {
	return r.proxy.set(f, delay)
}

func (r *serviceFixture) answering(body string, status int) error {
	r.bad.Store(&badAnswer{body, status})
	defer r.bad.Store(nil)
	return r.part(1)
}

// finish ends the load, waits until all has arrived that is to arrive, and judges the run.
func (r *serviceFixture) finish() (serviceTally, error) {
	err := r.crowd.finish(r.books)
	for _, g := range r.gateways {
		if g != nil {
			err = errors.Join(err, g.dead())
		}
	}
	return r.books.settle(), err
}

func (r *serviceFixture) close() {
	if r.crowd != nil {
		r.crowd.stop()
	}
	for _, g := range r.gateways {
		if g != nil {
			g.kill()
		}
	}
	if r.proxy != nil {
		r.proxy.close()
	}
	if r.backend != nil {
		r.backend.CloseClientConnections()
		r.backend.Close()
	}
	if r.service != nil {
		_ = r.service.kill()
	}
	if r.store != nil {
		r.store.stop()
	}
}

var serviceDialer = net.Dialer{Timeout: patience}
