package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"sluice/bench"
	"sluice/bench/report"
)

// target is what the commands that connect have in common.
type target struct {
	URL         []string      `arg:"" name:"url" help:"ws:// or wss:// URLs; connections are dealt to them in turn."`
	Source      []string      `placeholder:"ADDR" help:"Local addresses to connect from. One has some 28,000 ports for each URL; loopback targets get as many of 127.0.0.0/8 as they need."`
	Header      []string      `sep:"none" placeholder:"NAME:VALUE" help:"Header of the handshake; repeat for more."`
	Subprotocol string        `help:"Subprotocol to ask for."`
	Insecure    bool          `help:"wss: do not check the certificate."`
	Payload     int           `default:"32" help:"Bytes of a message."`
	Message     string        `placeholder:"TEMPLATE" help:"Send this text: {{id}} becomes the client's number, {{seq}} the message's number on its connection."`
	Expect      string        `placeholder:"REGEXP" help:"Replies match this; other messages are counted and ignored. {{id}} and {{seq}} as in --message. none: the server does not reply."`
	Timeout     time.Duration `default:"10s" help:"For a connect with its handshake, and for the last replies."`
	ServerPID   int           `name:"server-pid" placeholder:"PID" help:"Measure this process and its children: CPU, memory, descriptors; and the kernel's memory."`
	output
	Quiet bool `short:"q" help:"No progress."`
}

func (t *target) spec() (bench.Spec, error) {
	s := bench.Spec{Targets: t.URL, Sources: t.Source, Subprotocol: t.Subprotocol, Insecure: t.Insecure,
		Payload: cmp.Or(t.Payload, -1), Message: t.Message, Expect: t.Expect,
		Timeout: t.Timeout, ServerPID: t.ServerPID}
	var err error
	if s.Headers, err = headers(t.Header); err != nil {
		return s, err
	}
	return s, t.check()
}

// headers parses --header.
func headers(flags []string) (http.Header, error) {
	all := make(http.Header)
	for _, h := range flags {
		name, value, ok := strings.Cut(h, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("--header %q: must be NAME:VALUE", h)
		}
		all.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return all, nil
}

// progress sets up what is shown on the way; done clears it away.
func (t *target) progress(spec *bench.Spec, s *streams) (done func()) {
	f, ok := s.err.(*os.File)
	if t.Quiet || !ok {
		return func() {}
	}
	spec.Progress, done = report.ShowProgress(f)
	return done
}

// mustNotBeZero refuses the flags that are zero: in a Spec that stands for the default, on the
// command line it was asked for.
func mustNotBeZero(zero map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(zero)) {
		if zero[name] {
			return fmt.Errorf("--%s 0: must be greater than 0", name)
		}
	}
	return nil
}

// checkPath fails when a file that is to be written after the run cannot be.
func checkPath(name string) error {
	if name == "" || name == "-" {
		return nil
	}
	_, err := os.Stat(name)
	f, openErr := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o644)
	if openErr != nil {
		return openErr
	}
	_ = f.Close()
	if errors.Is(err, os.ErrNotExist) {
		return os.Remove(name)
	}
	return nil
}
