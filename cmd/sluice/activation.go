package main

import (
	"fmt"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"sluice/poller"
)

// activated are the listening sockets that systemd has opened for this process (sd_listen_fds(3)),
// by the names that their units give them with FileDescriptorName=. They stand for the addresses of
// the configuration. systemd keeps them open, so that clients wait, and are not refused, while the
// service restarts.
type activated map[string][]*os.File

// activate finds the sockets. The next process, which takes them over from this one, must not.
func activate() (activated, error) {
	found := make(activated)
	for _, f := range activation.Files(true) {
		switch name := f.Name(); name {
		case listenerPublic, listenerTLS, listenerAdmin, listenerControl:
			found[name] = append(found[name], f)
		default:
			found.close()
			return nil, fmt.Errorf("a socket of systemd is named %.40q: want %s, %s, %s or %s "+
				"(set FileDescriptorName= in its unit)", name,
				listenerPublic, listenerTLS, listenerAdmin, listenerControl)
		}
	}
	return found, nil
}

// listeners are copies of the sockets of this name, one at least for each loop: the loops accept
// from the same queue.
func (a activated) listeners(name string, o poller.ListenOptions, loops int) (all []*poller.Listener, err error) {
	files := a[name]
	if len(files) == 0 {
		return nil, nil
	}
	defer func() {
		if err != nil {
			for _, ln := range all {
				_ = ln.Close()
			}
		}
	}()
	for i := range max(loops, len(files)) {
		// Fd would make the socket a blocking one.
		raw, err := files[i%len(files)].SyscallConn()
		if err != nil {
			return all, err
		}
		var fd int
		var failed error
		err = raw.Control(func(sysfd uintptr) { fd, failed = unix.FcntlInt(sysfd, unix.F_DUPFD_CLOEXEC, 0) })
		if err == nil {
			err = failed
		}
		if err != nil {
			return all, err
		}
		ln, err := poller.InheritListener(fd)
		if err != nil {
			_ = unix.Close(fd)
			return all, fmt.Errorf("socket %s of systemd: %w", name, err)
		}
		all = append(all, ln)
		if err := ln.Tune(o); err != nil {
			return all, fmt.Errorf("socket %s of systemd: %w", name, err)
		}
	}
	return all, nil
}

// listenOptions are those of sockets that the gateway opens itself.
func (s *server) listenOptions() poller.ListenOptions {
	return poller.ListenOptions{SocketBuffer: socketBuffer(s.cfg.SocketBuffer)}
}

func (a activated) close() {
	for _, files := range a {
		for _, f := range files {
			_ = f.Close()
		}
	}
}
