package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// pond is a number of sockets with who serves each: the old process's Offer and the new one's Sink
// in one.
type pond struct {
	t     *testing.T
	mu    sync.Mutex
	names map[string]int // descriptor by name
	held  bool
	live  map[string]string // name → who serves it
	ours  map[string]int    // adopted descriptors
	ended []bool
	batch int
	fail  func(batch int) error // asked before each batch is packed
	deny  func(state string) bool
	lost  int // discarded

	send     SendChunk
	chunks   []string
	begun    []int
	accepted bool
	alone    int
	answer   func(name string, question []byte) error
	block    chan struct{} // Adopt waits for it
}

func newPond(t *testing.T, n int) *pond {
	p := &pond{t: t, names: map[string]int{}, live: map[string]string{}, ours: map[string]int{}, batch: 7}
	for i := range n {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("c%04d", i)
		p.names[name], p.live[name] = pair[0], "old"
		t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	}
	return p
}

func (p *pond) offer() *Offer {
	return &Offer{Build: "old", App: "pond", Log: quiet, Conns: func() int { return len(p.names) },
		Listeners: func() ([]string, []int, error) {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return []string{"public", "admin"}, pair[:], err
		},
		Begin: func(peer Peer) Handover {
			p.held, p.send = true, peer.Send
			return p
		},
	}
}

var quiet = slog.New(slog.DiscardHandler)

func (p *pond) Next(context.Context) (*Parcel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		if err := p.fail(len(p.ours)); err != nil {
			return nil, err
		}
	}
	parcel := &Parcel{}
	var packed []string
	for name, fd := range p.names {
		if p.live[name] == "old" && len(packed) < p.batch {
			p.live[name] = "travelling"
			packed = append(packed, name)
			parcel.FDs = append(parcel.FDs, fd)
			parcel.States = append(parcel.States, []byte(name))
		}
	}
	if len(packed) == 0 {
		return nil, io.EOF
	}
	parcel.Keep = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range packed {
			p.become(name, "travelling", "old")
		}
	}
	parcel.Settle = func(refused []int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, name := range packed {
			if slices.Contains(refused, i) {
				p.become(name, "travelling", "kept")
			}
		}
	}
	return parcel, nil
}

func (p *pond) become(name, from, to string) {
	if p.live[name] != from {
		p.t.Errorf("%s: %s becomes %s, want that it was %s", name, p.live[name], to, from)
	}
	p.live[name] = to
}

func (p *pond) Chunks() error { return p.send("idle", []byte("all of them")) }

func (p *pond) End(taken bool) { p.held = taken; p.ended = append(p.ended, taken) }

// Adopt implements Sink.
func (p *pond) Adopt(fds []int, states [][]byte) (refused []int, commit, discard func()) {
	if p.block != nil {
		<-p.block
	}
	for i, s := range states {
		if p.deny != nil && p.deny(string(s)) {
			refused = append(refused, i)
			unix.Close(fds[i])
		}
	}
	each := func(do func(name string, fd int)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, s := range states {
			if !slices.Contains(refused, i) {
				do(string(s), fds[i])
			}
		}
	}
	return refused, func() {
			each(func(name string, fd int) { p.become(name, "travelling", "new"); p.ours[name] = fd })
		}, func() {
			each(func(_ string, fd int) { unix.Close(fd); p.lost++ })
		}
}

func (p *pond) Chunk(name string, data []byte) error {
	p.chunks = append(p.chunks, name+": "+string(data))
	return nil
}

func (p *pond) Accept() error { p.accepted = true; return nil }

func (p *pond) Begin(conns int) { p.begun = append(p.begun, conns) }

func (p *pond) Alone() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alone++
}

func (p *pond) Ask(name string, question []byte) error {
	if p.answer == nil {
		return errors.New("nobody answers")
	}
	return p.answer(name, question)
}

// count is how many are served by whom.
func (p *pond) count(who string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.live {
		if w == who {
			n++
		}
	}
	return n
}

func (p *pond) closeAdopted() {
	for _, fd := range p.ours {
		unix.Close(fd)
	}
}

// serve runs the old side at a socket of its own.
func serve(t *testing.T, o *Offer) (path string, done <-chan error) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "takeover.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Serve(ctx, ln) }()
	t.Cleanup(func() { cancel(); ln.Close() })
	return path, ended
}
