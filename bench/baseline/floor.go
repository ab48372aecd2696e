package baseline

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Floor names the baseline that is no service: a C program around epoll, which
// shows what the system calls alone cost on this machine.
const Floor = "floor"

//go:embed floor/floor.c
var floorSource []byte

// fanoutSource is the floor of Topics: it does nothing but send.
//
//go:embed fanout/fanout.c
var fanoutSource []byte

// FloorAvailable says why Floor cannot run here: it needs a C compiler, found
// as $CC or cc. It is nil when there is one.
func FloorAvailable() error {
	_, err := compiler()
	return err
}

func compiler() (string, error) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	path, err := exec.LookPath(cc)
	if err != nil {
		return "", fmt.Errorf("baseline floor needs a C compiler: %w (install one, or set CC)", err)
	}
	return path, nil
}

// serveFloor compiles the program into a temporary folder and runs it as a
// child.
func serveFloor(ctx context.Context, addr string, o Options) error {
	cc, err := compiler()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-floor-")
	if err != nil {
		return fmt.Errorf("make a folder for baseline floor: %w", err)
	}
	defer os.RemoveAll(dir)
	src, bin := filepath.Join(dir, "floor.c"), filepath.Join(dir, "floor")
	source := floorSource
	if o.App == Topics {
		source = fanoutSource
	}
	if err := os.WriteFile(src, source, 0o600); err != nil {
		return fmt.Errorf("write the source of baseline floor: %w", err)
	}
	if out, err := exec.CommandContext(ctx, cc, "-O2", "-o", bin, src).CombinedOutput(); err != nil {
		return fmt.Errorf("compile baseline floor with %s: %w\n%s", cc, err, out)
	}
	return runFloor(ctx, bin, addr, o)
}

func runFloor(ctx context.Context, bin, addr string, o Options) error {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().Is4() {
		return fmt.Errorf("listen for baseline floor on %q: want an IPv4 address and a port, such as "+
			"127.0.0.1:8000", addr)
	}
	// The child dies with the thread that made it, so the thread must stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	args := []string{ap.Addr().String(), strconv.Itoa(int(ap.Port()))}
	if o.App != Topics {
		beat := max(o.Heartbeat.Milliseconds(), 0) // negative: off
		args = append(args, o.App, strconv.FormatInt(beat, 10))
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start baseline floor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start baseline floor: %w", err)
	}
	// Its only line of output is the address it listens on.
	line, readErr := bufio.NewReader(out).ReadString('\n')
	if bound, err := netip.ParseAddrPort(strings.TrimSpace(line)); readErr == nil && err == nil {
		o.Ready(net.TCPAddrFromAddrPort(bound))
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve baseline floor on %s: it ended: %v", addr, err)
}
