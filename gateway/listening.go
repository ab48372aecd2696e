package gateway

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"sluice/poller"
)

// listen opens a listener for this loop, and adds it to a list of its. Loop only.
func (w *worker) listen(at string, to *[]*poller.Listener) error {
	ln, err := poller.Listen(at, poller.ListenOptions{
		ReusePort: w.cfg.Loops > 1 || w.cfg.ReusePort, SocketBuffer: w.cfg.SocketBuffer,
	})
	if err == nil {
		*to = append(*to, ln)
	}
	return err
}

// inherit has this loop serve a listener of the process's table, which it owns unless there is an
// error. Any goroutine but a loop's.
func (w *worker) inherit(ln *poller.Listener, to *[]*poller.Listener) (err error) {
	if !w.cfg.OwnTables {
		return w.do(func() error {
			*to = append(*to, ln)
			return nil
		})
	}
	copies, err := poller.CopyFDs(nil, w.loop, []int{ln.SysFD()})
	if err != nil {
		return err
	}
	err = w.do(func() error {
		own, err := poller.InheritListener(copies[0])
		if err != nil {
			_ = unix.Close(copies[0])
			return err
		}
		*to = append(*to, own)
		return nil
	})
	if err == nil {
		_ = ln.Close()
	}
	return err
}

// do runs fn on the loop and waits for it. Any goroutine but a loop's.
func (w *worker) do(fn func() error) (err error) {
	if !w.loop.Do(func() { err = fn() }) {
		return poller.ErrLoopEnded
	}
	return err
}

// serve has the loop serve its listeners. Nothing is accepted before acceptAgain.
func (w *worker) serve() error {
	for len(w.listeners) > 0 {
		if _, err := w.serveOne(&w.listeners, w.accept); err != nil {
			return err
		}
	}
	for len(w.tlsListeners) > 0 {
		a, err := w.serveOne(&w.tlsListeners, w.acceptTLS)
		if err != nil {
			return err
		}
		w.tlsAcceptors = append(w.tlsAcceptors, a)
	}
	return nil
}

// serveOne has the loop serve the first of a list of listeners.
func (w *worker) serveOne(of *[]*poller.Listener, accept func(int)) (*poller.Acceptor, error) {
	a, err := w.loop.Serve((*of)[0], accept)
	if err != nil {
		return nil, err
	}
	a.Hold()
	w.acceptors = append(w.acceptors, a)
	*of = (*of)[1:]
	return a, nil
}

// listenToo opens a listener when this loop got none. Where that is not possible, because those of
// the others do not share their port, the others pass connections on.
func (w *worker) listenToo() {
	if w.draining {
		return
	}
	var err error
	if len(w.acceptors) == len(w.tlsAcceptors) {
		err = w.listen(w.server.addr.String(), &w.listeners)
	}
	if w.cfg.TLS != nil && len(w.tlsAcceptors) == 0 {
		err = errors.Join(err, w.listen(w.server.tlsAddr.String(), &w.tlsListeners))
	}
	err = errors.Join(err, w.serve())
	if err != nil {
		w.server.oneEar.Store(true)
		w.log.Info("a loop gets its connections from the others", "error", err)
	}
}

// acceptAgain begins to accept, or stops it for a while: clients wait in the kernel's queues.
func (w *worker) acceptAgain(accepts bool) {
	w.accepts = accepts
	for _, a := range w.acceptors {
		if accepts && len(w.overflow.sockets) < overflowMost && !w.openings.held {
			a.Unhold()
		} else {
			a.Hold()
		}
	}
}

// closeListeners stops accepting for good.
func (w *worker) closeListeners() {
	for _, a := range w.acceptors {
		a.Close()
	}
	for _, ln := range slices.Concat(w.listeners, w.tlsListeners) {
		_ = ln.Close()
	}
	w.acceptors, w.listeners, w.tlsAcceptors, w.tlsListeners = nil, nil, nil, nil
}
