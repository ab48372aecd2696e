package poller

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"unsafe"

	"github.com/cloudwego/netpoll"
	"golang.org/x/sys/unix"
)

// This file is the whole of what Sluice knows about netpoll's inside. Three things that the loop
// needs are not exported, and each is guarded: openPoll by a test that pins the module version, the
// other two by the errors below, which stop the program at start and not later.

// openPoll makes one reactor without netpoll's global manager, which would start loops of its own,
// spread connections over them as it likes and own their goroutines.
//
//go:linkname openPoll github.com/cloudwego/netpoll.openPoll
func openPoll() (netpoll.Poll, error)

// maxEvents bounds one epoll_wait. netpoll doubles its event array whenever it comes back full, up
// to 131,072 events of 1.3 KB (1,280 bytes of it I/O vectors for the buffered API, which Sluice
// does not use): 19,000 clients speaking at once would leave 42 MB, over 2 KB a connection, behind
// for good. With more ready than this the rest is simply met by the next round.
const maxEvents = 512

// hookRounds lets around wrap the handling of each batch of events, and keeps the event array
// small. netpoll calls its handler through a func field precisely so that it can be replaced, but
// the struct's type is unexported, so the fields are reached by name.
//
// The handler's parameter is a slice of an unexported struct; around never looks at it, so it is
// handled as a slice of an opaque type: all slices have one layout and one calling convention.
func hookRounds(p netpoll.Poll, around func(handle func() (closed bool)) (closed bool)) error {
	v := reflect.ValueOf(p).Elem()

	reset := v.FieldByName("Reset")
	if !reset.IsValid() || reset.Type() != reflect.TypeFor[func(size, caps int)]() {
		return fmt.Errorf("hook netpoll: %s has no Reset func(size, caps int): this netpoll version is not the pinned one", v.Type())
	}
	original := reset.Interface().(func(size, caps int))
	reset.Set(reflect.ValueOf(func(size, _ int) {
		if size <= maxEvents {
			original(size, 0)
		}
	}))

	type opaque struct{}
	handler := v.FieldByName("Handler")
	if t := handler; !t.IsValid() || t.Kind() != reflect.Func || t.Type().NumIn() != 1 || t.Type().NumOut() != 1 ||
		t.Type().In(0).Kind() != reflect.Slice || t.Type().Out(0).Kind() != reflect.Bool {
		return fmt.Errorf("hook netpoll: %s has no Handler func([]event) bool: this netpoll version is not the pinned one", v.Type())
	}
	field := (*func([]opaque) bool)(handler.Addr().UnsafePointer())
	handle := *field
	var batch []opaque
	inner := func() bool { return handle(batch) }
	*field = func(events []opaque) bool {
		batch = events
		return around(inner)
	}
	return nil
}

// epollFD is netpoll's epoll descriptor.
func epollFD(p netpoll.Poll) (int, error) {
	fd := reflect.ValueOf(p).Elem().FieldByName("fd")
	if !fd.IsValid() || !fd.CanInt() {
		return 0, fmt.Errorf("hook netpoll: %T has no fd: this netpoll version is not the pinned one", p)
	}
	return int(fd.Int()), nil
}

// closeOnExec marks netpoll's own two descriptors, which it opens without CLOEXEC: a child process
// would otherwise hold the parent's reactor open.
func closeOnExec(p netpoll.Poll) error {
	epfd, err := epollFD(p)
	if err != nil {
		return err
	}
	wop := reflect.ValueOf(p).Elem().FieldByName("wop")
	if !wop.IsValid() || wop.Kind() != reflect.Pointer {
		return fmt.Errorf("hook netpoll: %T has no wop: this netpoll version is not the pinned one", p)
	}
	unix.CloseOnExec(epfd)
	unix.CloseOnExec(int(wop.Elem().FieldByName("FD").Int()))
	return nil
}

// SetLogger routes netpoll's own log lines, which go to standard error by default, to l at level
// Warn. Call it before the first NewLoop: netpoll's logger is a plain package variable.
func SetLogger(l *slog.Logger) {
	netpoll.SetLoggerOutput(slogWriter{l})
}

type slogWriter struct{ l *slog.Logger }

var _ io.Writer = slogWriter{}

// Write implements io.Writer for the standard library's log package: one call a line.
func (w slogWriter) Write(p []byte) (int, error) {
	w.l.Log(context.Background(), slog.LevelWarn, "netpoll", "line", strings.TrimSpace(string(p)))
	return len(p), nil
}

// The compiler accepts go:linkname only in files that import unsafe.
var _ unsafe.Pointer
