package gateway

import (
	"golang.org/x/sys/unix"

	"sluice/poller"
)

// listen opens a listener for this loop. Loop only.
func (w *worker) listen(at string) error {
	ln, err := poller.Listen(at, poller.ListenOptions{
		ReusePort: w.cfg.Loops > 1 || w.cfg.ReusePort, SocketBuffer: w.cfg.SocketBuffer,
	})
	if err == nil {
		w.listeners = append(w.listeners, ln)
	}
	return err
}

// inherit has this loop serve a listener of the process's table, which it owns unless there is an
// error. Any goroutine but a loop's.
func (w *worker) inherit(ln *poller.Listener) (err error) {
	if !w.cfg.OwnTables {
		return w.do(func() error {
			w.listeners = append(w.listeners, ln)
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
		w.listeners = append(w.listeners, own)
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
		a, err := w.loop.Serve(w.listeners[0], w.accept)
		if err != nil {
			return err
		}
		a.Hold()
		w.acceptors = append(w.acceptors, a)
		w.listeners = w.listeners[1:]
	}
	return nil
}

// listenToo opens a listener when this loop got none. Where that is not possible, because those of
// the others do not share their port, the others pass connections on.
func (w *worker) listenToo() {
	if len(w.acceptors) > 0 || w.draining {
		return
	}
	err := w.listen(w.server.addr.String())
	if err == nil {
		err = w.serve()
	}
	if err != nil {
		w.server.oneEar.Store(true)
		w.log.Info("a loop gets its connections from the others", "error", err)
	}
}

// acceptAgain begins to accept, or stops it for a while: clients wait in the kernel's queues.
func (w *worker) acceptAgain(accepts bool) {
	w.accepts = accepts
	for _, a := range w.acceptors {
		if accepts && len(w.overflow.sockets) < overflowMost {
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
	for _, ln := range w.listeners {
		_ = ln.Close()
	}
	w.acceptors, w.listeners = nil, nil
}
