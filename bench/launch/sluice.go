package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FindSluice finds the gateway's binary: the named one, or else sluice beside this program, in
// ./bin or in PATH. flag is what an error asks the user to set.
func FindSluice(named, flag string) (string, error) {
	if named != "" {
		return named, nil
	}
	places := []string{filepath.Join("bin", "sluice"), "sluice"}
	if self, err := os.Executable(); err == nil {
		places = append([]string{filepath.Join(filepath.Dir(self), "sluice")}, places...)
	}
	for _, place := range places {
		if found, err := exec.LookPath(place); err == nil || errors.Is(err, exec.ErrDot) {
			return filepath.Abs(found)
		}
	}
	return "", fmt.Errorf("find the sluice binary: it is neither beside this program nor in ./bin nor "+
		"in PATH (run make, or set %s)", flag)
}

// FairEnvironment is ours without what would tune one server's runtime or change sluice's settings.
func FairEnvironment() []string {
	tunes := []string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG", "REDIS_URL"}
	return slices.DeleteFunc(os.Environ(), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return strings.HasPrefix(name, "SLUICE_") || slices.Contains(tunes, name)
	})
}

// FreePorts finds n loopback addresses that nobody listens on. Their ports are below those that the
// kernel gives to clients, or a client could take one before the server listens.
func FreePorts(n int) (addrs []string, err error) {
	for tried := 0; len(addrs) < n; tried++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.N(12_000)))
		if err != nil {
			if tried < 100 {
				continue
			}
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer ln.Close()
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

// client makes a connection for each request, so that none is open while memory is measured.
var client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Get fetches a page of at most 1 MiB; a status other than 200 is an error.
func Get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: status %d", url, resp.StatusCode)
	}
	return b, err
}

// AwaitHealth waits until the server at addr answers /healthz. An error says what it wrote last.
func (p *Process) AwaitHealth(ctx context.Context, addr string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		if _, err := Get(ctx, "http://"+addr+"/healthz"); err == nil {
			return nil
		}
		select {
		case <-p.Ended():
			return fmt.Errorf("it ended: %v%s", p.Wait(), p.OutputNote())
		case <-ctx.Done():
			return fmt.Errorf("it did not answer /healthz on %s: %w%s", addr, ctx.Err(), p.OutputNote())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// OutputNote is LastOutput as the end of an error text.
func (p *Process) OutputNote() string {
	if s := p.LastOutput(); s != "" {
		return "\nthe last it wrote: " + s
	}
	return ""
}

// Sample is the value of one series of a Prometheus text page, or 0.
func Sample(page []byte, series string) float64 {
	for line := range bytes.Lines(page) {
		if rest, ok := bytes.CutPrefix(line, []byte(series+" ")); ok {
			v, _ := strconv.ParseFloat(string(bytes.TrimSpace(rest)), 64)
			return v
		}
	}
	return 0
}
