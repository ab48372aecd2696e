package poller

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What the kernel holds for a peer that reads nothing is bounded too, not only what the gateway
// queues for it.
func TestKernelHoldsLittleForAPeerThatDoesNotRead(t *testing.T) {
	ln, err := Listen("127.0.0.1:0", ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l, accepted := runLoop(t, Config{}), make(chan int, 1)
	var a *Acceptor
	on(t, l, func() {
		if a, err = l.Serve(ln, func(fd int) { accepted <- fd }); err != nil {
			t.Error(err)
		}
	})
	defer on(t, l, func() { a.Close() })
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fd := <-accepted
	defer unix.Close(fd)
	if got := option(t, fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT); got != maxUnsent {
		t.Errorf("accepted: TCP_NOTSENT_LOWAT is %d, want %d", got, maxUnsent)
	}
	// Small writes, as replies are: until the socket takes nothing and stays like that, the peer's
	// window being full.
	reply := make([]byte, 4<<10)
	for {
		if _, err := unix.Write(fd, reply); err == nil {
			continue
		} else if err != unix.EAGAIN {
			t.Fatal(err)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(300*time.Millisecond/time.Millisecond))
		if err == nil && n == 0 {
			break
		}
	}
	held, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	if err != nil {
		t.Fatal(err)
	}
	// One segment of the loopback, up to 64 KiB, is added to a queue that is just below the mark.
	if held > 2*maxUnsent {
		t.Errorf("the kernel holds %d bytes, want at most %d", held, 2*maxUnsent)
	}
}
