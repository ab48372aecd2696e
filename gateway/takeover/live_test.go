package takeover

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// countingSink counts the chunks that have come.
type countingSink struct {
	*pond
	chunks atomic.Int64
}

func (s *countingSink) Chunk(name string, data []byte) error {
	s.chunks.Add(1)
	return s.pond.Chunk(name, data)
}

// TestLiveChunks: what is sent between batches comes before the connections that are sent after it,
// and Moving says when connections are on their way.
func TestLiveChunks(t *testing.T) {
	sink := &countingSink{pond: newPond(t, 30)}
	p := sink.pond
	o := p.offer()
	begin := o.Begin
	o.Begin = func(peer Peer) Handover {
		if !peer.Live || !peer.Beside {
			t.Error("the new process is said not to take chunks now, or not to accept")
		}
		p.fail = func(int) error { // before each batch
			if !o.Moving() {
				t.Error("Moving is false while they are")
			}
			return peer.Send("live", nil)
		}
		return begin(peer)
	}
	var adopted atomic.Int64
	p.deny = func(string) bool { // as each connection is adopted
		batches := (adopted.Add(1) + int64(p.batch) - 1) / int64(p.batch)
		if n := sink.chunks.Load(); n < batches {
			t.Errorf("a connection of %d batches is adopted after %d chunks", batches, n)
		}
		return false
	}
	path, done := serve(t, o)
	if o.Moving() {
		t.Error("Moving is true before anybody asked")
	}
	taker, err := Connect(path, "new", "pond")
	if err != nil {
		t.Fatal(err)
	}
	if !taker.Live {
		t.Error("the old process is said not to send chunks between batches")
	}
	if err = taker.Run(context.Background(), sink, quiet); err != nil {
		t.Fatal(err)
	}
	if err = <-done; err != nil {
		t.Fatal(err)
	}
	defer p.closeAdopted()
	if o.Moving() {
		t.Error("Moving is true when all is over")
	}
	// 30 connections are five batches, and the sixth call finds no more.
	if n := len(p.chunks); n != 7 || p.chunks[n-1] != "idle: all of them" {
		t.Errorf("chunks %q, want six of live and then idle", p.chunks)
	}
}

// TestOlderProcess: one that speaks version 1 gets chunks at the end only.
func TestOlderProcess(t *testing.T) {
	p := newPond(t, 0)
	o := p.offer()
	told := make(chan bool, 1)
	begin := o.Begin
	o.Begin = func(peer Peer) Handover {
		told <- peer.Live || peer.Beside
		return begin(peer)
	}
	path, _ := serve(t, o)
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l, soon := &link{conn: conn}, time.Now().Add(time.Minute)
	h := hello{oldest: 1, newest: 1, build: "old", app: "pond"}
	if err = l.send(kindHello, h.append(nil), nil, soon); err != nil {
		t.Fatal(err)
	}
	m, err := l.receive(soon)
	if err != nil {
		t.Fatal(err)
	}
	var w welcome
	if err = w.parse(m.payload); err != nil || w.version != 1 {
		t.Errorf("version %d, %v; want 1", w.version, err)
	}
	if err = l.send(kindBegin, nil, nil, soon); err != nil {
		t.Fatal(err)
	}
	if <-told {
		t.Error("it is said to take chunks at any time, or to accept")
	}
	var kinds []kind
	for {
		m, err := l.receive(soon)
		if err != nil {
			t.Fatal(err)
		}
		m.closeAll()
		if kinds = append(kinds, m.kind); m.kind == kindDone {
			break
		}
	}
	if want := []kind{kindListeners, kindChunk, kindDone}; !slices.Equal(kinds, want) {
		t.Errorf("got messages of kinds %v, want %v", kinds, want)
	}
}
