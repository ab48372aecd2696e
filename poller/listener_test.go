package poller

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestListenAddresses(t *testing.T) {
	for _, tc := range []struct {
		addr string
		want string // the IP address listened on; empty: an error
		say  string // what the error says
	}{
		{":0", "::", ""},
		{"127.0.0.1:0", "127.0.0.1", ""},
		{"127.0.0.1:00000", "127.0.0.1", ""},
		{"127.1.2.3:0", "127.1.2.3", ""},
		{"localhost:0", "127.0.0.1", ""},
		{"0.0.0.0:0", "0.0.0.0", ""},
		{"[::1]:0", "::1", ""},
		{"[::ffff:127.0.0.1]:0", "127.0.0.1", ""},

		{"", "", "want host:port"},
		{"8000", "", "want host:port"},
		{"127.0.0.1", "", "want host:port"},
		{"::1:8000", "", "want host:port"},
		{"127.0.0.1:", "", `port ""`},
		{"127.0.0.1:http", "", `port "http"`},
		{"127.0.0.1:-1", "", `port "-1"`},
		{"127.0.0.1:65536", "", `port "65536"`},
		{"127.0.0.1:0x50", "", `port "0x50"`},
		{"example.com:0", "", `host "example.com"`}, // would need a resolver
		{"127.0.0.256:0", "", `host "127.0.0.256"`},
		{"127.1:0", "", `host "127.1"`},
		{"192.0.2.1:0", "", "cannot assign"}, // nobody has an address of TEST-NET-1
	} {
		if tc.want == "::1" && !hasIPv6() {
			continue
		}
		if tc.want == "::" && !hasIPv6() {
			tc.want = "0.0.0.0"
		}
		ln, err := Listen(tc.addr, ListenOptions{})
		if tc.want == "" {
			if err == nil {
				ln.Close()
				t.Errorf("Listen(%q): got %v, want an error", tc.addr, ln.Addr())
			} else if !strings.Contains(err.Error(), tc.say) || !strings.Contains(err.Error(), tc.addr) {
				t.Errorf("Listen(%q): got %q, want it to say %q and the address", tc.addr, err, tc.say)
			}
			continue
		}
		if err != nil {
			t.Errorf("Listen(%q): %v", tc.addr, err)
			continue
		}
		if got := ln.Addr(); got.Addr() != netip.MustParseAddr(tc.want) || got.Port() == 0 {
			t.Errorf("Listen(%q): listens on %v, want %s and a port", tc.addr, got, tc.want)
		}
		if err := ln.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
}

// hasIPv6: containers often have none.
func hasIPv6() bool {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

func TestListenOnAPortInUseSaysSo(t *testing.T) {
	first, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for _, o := range []ListenOptions{{}, {ReusePort: true}} { // the first has not agreed to share
		second, err := Listen(first.Addr().String(), o)
		if err == nil {
			second.Close()
			t.Fatalf("%+v: listening twice on %v succeeded", o, first.Addr())
		}
		if !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), first.Addr().String()) {
			t.Errorf("%+v: got %q", o, err)
		}
	}
}

func TestListenOnAllInterfacesTakesBothFamilies(t *testing.T) {
	ln, err := Listen(":0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hosts := []string{"127.0.0.1"}
	if hasIPv6() {
		hosts = append(hosts, "::1")
	}
	for _, host := range hosts {
		c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), ln.Addr().Port()).String())
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		c.Close()
	}
}

func option(t *testing.T, fd, level, name int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, level, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func flag(t *testing.T, fd, cmd, bit int) bool {
	t.Helper()
	v, err := unix.FcntlInt(uintptr(fd), cmd, 0)
	if err != nil {
		t.Fatal(err)
	}
	return v&bit != 0
}

// checkSocket checks what every descriptor of a connection or listener must be.
func checkSocket(t *testing.T, what string, fd int) {
	t.Helper()
	if !flag(t, fd, unix.F_GETFD, unix.FD_CLOEXEC) {
		t.Errorf("%s: not close-on-exec", what)
	}
	if !flag(t, fd, unix.F_GETFL, unix.O_NONBLOCK) {
		t.Errorf("%s: blocks", what)
	}
	if option(t, fd, unix.IPPROTO_TCP, unix.TCP_NODELAY) == 0 {
		t.Errorf("%s: no TCP_NODELAY", what)
	}
}

func TestSocketsAreNonBlockingCloseOnExecAndNoDelay(t *testing.T) {
	l := runLoop(t, Config{})
	// An address of this process alone: nobody else listens on the port once it is closed.
	ln, err := Listen(fmt.Sprintf("127.%d.%d.%d:0", 1+os.Getpid()>>16&0x3f, os.Getpid()>>8&0xff, os.Getpid()&0xff), ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	checkSocket(t, "listener", ln.SysFD())
	accepted := make(chan int, 1)
	var a *Acceptor
	on(t, l, func() {
		if a, err = l.Serve(ln, func(fd int) { accepted <- fd }); err != nil {
			t.Error(err)
		}
	})
	client, err := Dial(netip.AddrPort{}, ln.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	checkSocket(t, "dialed", client)
	server := <-accepted
	defer unix.Close(server)
	checkSocket(t, "accepted", server)
	if got := PeerAddr(client); got != ln.Addr() {
		t.Errorf("PeerAddr: got %v, want %v", got, ln.Addr())
	}
	if got := PeerAddr(ln.SysFD()); got.IsValid() {
		t.Errorf("PeerAddr of a socket without peer: got %v", got)
	}
	on(t, l, func() { a.Close(); a.Close() })
	on(t, l, func() {})
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("connected to a closed acceptor")
	}
}

// serveCounting counts what ln accepts on a loop of its own, and closes it.
func serveCounting(t *testing.T, ln *Listener) (l *Loop, a *Acceptor, accepted *int, rounds *int) {
	t.Helper()
	l = runLoop(t, Config{})
	accepted, rounds = new(int), new(int)
	on(t, l, func() {
		var err error
		if a, err = l.Serve(ln, func(fd int) { *accepted++; unix.Close(fd) }); err != nil {
			t.Error(err)
		}
		l.OnRound(func() { *rounds++ })
	})
	t.Cleanup(func() { on(t, l, a.Close) })
	return l, a, accepted, rounds
}

// dialAndAwaitEnd connects and returns when the server has closed.
func dialAndAwaitEnd(t *testing.T, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.Read(make([]byte, 1))
	c.Close()
}

func TestReusePortSpreadsConnectionsOverLoops(t *testing.T) {
	first, err := Listen("127.0.0.1:0", ListenOptions{ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Listen(first.Addr().String(), ListenOptions{ReusePort: true})
	if err != nil {
		t.Fatal(err)
	}
	l1, _, n1, _ := serveCounting(t, first)
	l2, _, n2, _ := serveCounting(t, second)
	const clients = 200
	for range clients {
		dialAndAwaitEnd(t, first.Addr().String())
	}
	var got1, got2 int
	on(t, l1, func() { got1 = *n1 })
	on(t, l2, func() { got2 = *n2 })
	// The kernel hashes the client's port: that all 200 come to one side has a chance of 2 in
	// 2^200.
	if got1+got2 != clients || got1 == 0 || got2 == 0 {
		t.Errorf("got %d and %d connections, want some on each and %d in all", got1, got2, clients)
	}
}

func TestAcceptTakesABurstAcrossRounds(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const clients = 3*acceptBurst + 7
	fds := make([]int, clients) // connected before anybody accepts
	for i := range fds {
		fds[i] = dialBlocking(t, ln)
	}
	defer func() { closeAll(fds) }()
	l, _, accepted, rounds := serveCounting(t, ln)
	for _, fd := range fds {
		answer(t, fd)
	}
	on(t, l, func() {
		if *accepted != clients {
			t.Errorf("accepted %d, want %d", *accepted, clients)
		}
		if *rounds < 4 {
			t.Errorf("%d connections came in %d rounds: a burst has no bound", clients, *rounds)
		}
	})
}

func TestAcceptStopsWithinABurstWhenClosed(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fds := make([]int, 10)
	for i := range fds {
		fds[i] = dialBlocking(t, ln)
	}
	defer func() { closeAll(fds) }()
	l := runLoop(t, Config{})
	closed := make(chan struct{})
	accepted := 0
	on(t, l, func() {
		var a *Acceptor
		a, err = l.Serve(ln, func(fd int) {
			accepted++
			unix.Close(fd)
			if accepted == 3 {
				a.Close()
				close(closed)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	wait(t, closed, "three connections")
	rounds(t, l, 5)
	on(t, l, func() {
		if accepted != 3 {
			t.Errorf("accepted %d connections, 3 before Close", accepted)
		}
	})
}

func TestListenerShutDownByAnotherIsReported(t *testing.T) {
	lines := logLines(t)
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, a, _, _ := serveCounting(t, ln)
	if err := unix.Shutdown(ln.SysFD(), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); lines.Load() == 0 && time.Now().Before(end); {
		rounds(t, a.Loop(), 1)
	}
	rounds(t, a.Loop(), 20)
	if got := lines.Load(); got != 1 && got != 2 { // accept may have come first and failed
		t.Errorf("got %d log lines, want one or two", got)
	}
}

// The socket stays open over a change of owner: a client that connects in between waits in its
// queue.
func TestInheritedListenerServesItsQueue(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// As another process gets it: a second descriptor, blocking and not close-on-exec.
	fd, err := unix.Dup(ln.SysFD())
	if err != nil {
		t.Fatal(err)
	}
	unix.SetNonblock(fd, false)
	addr := ln.Addr()
	early := dialBlocking(t, ln)
	defer unix.Close(early)
	ln.Close()

	inherited, err := InheritListener(fd)
	if err != nil {
		t.Fatal(err)
	}
	if inherited.Addr() != addr || inherited.SysFD() != fd {
		t.Errorf("got descriptor %d on %v, want %d on %v", inherited.SysFD(), inherited.Addr(), fd, addr)
	}
	checkSocket(t, "inherited listener", fd)
	l, _, accepted, _ := serveCounting(t, inherited)
	dialAndAwaitEnd(t, addr.String())
	answer(t, early)
	on(t, l, func() {
		if *accepted != 2 {
			t.Errorf("accepted %d, want the one that waited and the one that came", *accepted)
		}
	})
}

func TestInheritListenerRefusesWhatDoesNotListen(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(plain)
	for name, fd := range map[string]int{"a file": int(file.Fd()), "a socket that does not listen": plain, "no descriptor": 1 << 20} {
		if ln, err := InheritListener(fd); err == nil {
			t.Errorf("%s: got %v", name, ln.Addr())
		} else if !strings.Contains(err.Error(), "not a listening socket") {
			t.Errorf("%s: got %q", name, err)
		}
		if name == "a socket that does not listen" {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
				t.Errorf("%s: closed, although the caller still owns it", name)
			}
		}
	}
}

func TestChildProcessesInheritNoSockets(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	serveCounting(t, ln)
	out, err := exec.Command("ls", "-l", "/proc/self/fd").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "socket:") {
		t.Errorf("a child process got a socket:\n%s", out)
	}
}
