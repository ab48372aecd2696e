package poller

import (
	"errors"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// Detach takes the descriptor off the reactor and keeps it open, so that another process can be
// given a copy. No callback comes until Attach. An epoll instance watches the socket and not the
// number, so without this the events of a socket that lives on elsewhere would be reported here
// for ever. It fails when the peer has hung up. Loop only, and not from one of f's own callbacks.
func (f *FD) Detach() error {
	if f.bits&(fdClosed|fdHung|fdDetached) != 0 {
		return errors.New("detach: the descriptor is off the reactor already")
	}
	if err := f.detach(); err != nil {
		return err // netpoll was first: a hang-up is on its way
	}
	f.bits |= fdDetached
	return nil
}

// Attach undoes Detach: what has come meanwhile is reported. Loop only, and not from one of f's own
// callbacks.
func (f *FD) Attach() {
	if f.bits&fdDetached == 0 || f.bits&fdClosed != 0 {
		return
	}
	f.bits &^= fdDetached
	f.have = reading
	f.op.OnWrite = nil
	if f.loop.over {
		return
	}
	if err := f.loop.poll.Control(f.op, netpoll.PollReadable); err != nil {
		f.loop.Later(f.hangup) // out of memory: nothing will ever be reported
		return
	}
	f.touch()
}

// Release closes the number of a detached descriptor and nothing else: the connection lives on in
// the process that has a copy. Loop only, and not from one of f's own callbacks.
func (f *FD) Release() {
	if f.bits&fdDetached == 0 || f.bits&fdClosed != 0 {
		return
	}
	f.bits |= fdClosed
	_ = unix.Close(int(f.fd))
	f.fd = -1
	f.loop.poll.Free(f.op)
	f.op = nil
}
