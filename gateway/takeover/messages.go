package takeover

import (
	"errors"
	"fmt"

	"github.com/tinylib/msgp/msgp"
)

// Messages are MessagePack maps with small integers for keys, so that a field can be added without
// a new version of the protocol: a reader skips keys from optional on, and refuses a message with
// another key that it does not know.
const optional = 64

// Versions of the protocol that this program speaks. The welcome names the highest that both do.
// With the second one chunks come at any time, also between batches. With the third the two are
// beside each other: the new process accepts from the beginning, and asks the old one, which
// answers until it ends.
const (
	oldestVersion = 1
	newestVersion = 3

	versionLive   = 2
	versionBeside = 3
)

// hello is who asks to take over.
type hello struct {
	oldest, newest int    // versions of the protocol
	build          string // for the log
	app            string // an application of another kind could not read the connections' states
}

func (h hello) append(b []byte) []byte {
	b = msgp.AppendMapHeader(b, 4)
	b = msgp.AppendInt(msgp.AppendInt(b, 1), h.oldest)
	b = msgp.AppendInt(msgp.AppendInt(b, 2), h.newest)
	b = msgp.AppendString(msgp.AppendInt(b, 3), h.build)
	return msgp.AppendString(msgp.AppendInt(b, 4), h.app)
}

func (h *hello) parse(b []byte) error {
	return readMap(b, func(key int, b []byte) (rest []byte, err error) {
		switch key {
		case 1:
			h.oldest, rest, err = msgp.ReadIntBytes(b)
		case 2:
			h.newest, rest, err = msgp.ReadIntBytes(b)
		case 3:
			h.build, rest, err = msgp.ReadStringBytes(b)
		case 4:
			h.app, rest, err = msgp.ReadStringBytes(b)
		default:
			return nil, errUnknown
		}
		return rest, err
	})
}

// welcome is who answers.
type welcome struct {
	version int
	build   string
	conns   int // about how many will come
}

func (w welcome) append(b []byte) []byte {
	b = msgp.AppendMapHeader(b, 3)
	b = msgp.AppendInt(msgp.AppendInt(b, 1), w.version)
	b = msgp.AppendString(msgp.AppendInt(b, 2), w.build)
	return msgp.AppendInt(msgp.AppendInt(b, 3), w.conns)
}

func (w *welcome) parse(b []byte) error {
	return readMap(b, func(key int, b []byte) (rest []byte, err error) {
		switch key {
		case 1:
			w.version, rest, err = msgp.ReadIntBytes(b)
		case 2:
			w.build, rest, err = msgp.ReadStringBytes(b)
		case 3:
			w.conns, rest, err = msgp.ReadIntBytes(b)
		default:
			return nil, errUnknown
		}
		return rest, err
	})
}

// appendStrings and parseStrings: names of listeners, in the order of their descriptors.
func appendStrings(b []byte, list []string) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(list)))
	for _, s := range list {
		b = msgp.AppendString(b, s)
	}
	return b
}

func parseStrings(b []byte) (list []string, err error) {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var s string
		if s, b, err = msgp.ReadStringBytes(b); err == nil {
			list = append(list, s)
		}
	}
	return list, whole(b, err)
}

// batch is a number of connections; their descriptors come with the message, in the same order.
type batch struct {
	number int
	states [][]byte
}

func (t batch) append(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(t.states))+1)
	b = msgp.AppendInt(b, t.number)
	for _, s := range t.states {
		b = msgp.AppendBytes(b, s)
	}
	return b
}

// size is at least what append appends: a state may be secret, and what outgrew its array would
// leave it behind.
func (t batch) size() int {
	n := 2 * 16
	for _, s := range t.states {
		n += 5 + len(s)
	}
	return n
}

// parse keeps parts of b.
func (t *batch) parse(b []byte) error {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil || n < 1 {
		return malformed(err)
	}
	if t.number, b, err = msgp.ReadIntBytes(b); err != nil {
		return malformed(err)
	}
	for t.states = nil; err == nil && len(t.states) < int(n)-1; {
		var s []byte
		if s, b, err = msgp.ReadBytesZC(b); err == nil {
			t.states = append(t.states, s)
		}
	}
	return whole(b, err)
}

// ack says that a batch has arrived, but for those that the new process does not understand.
type ack struct {
	number  int
	refused []int // indexes in the batch
}

func (a ack) append(b []byte) []byte {
	b = msgp.AppendArrayHeader(b, uint32(len(a.refused))+1)
	b = msgp.AppendInt(b, a.number)
	for _, i := range a.refused {
		b = msgp.AppendInt(b, i)
	}
	return b
}

func (a *ack) parse(b []byte) error {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil || n < 1 || n > maxDescriptors+1 {
		return malformed(err)
	}
	if a.number, b, err = msgp.ReadIntBytes(b); err != nil {
		return malformed(err)
	}
	for a.refused = nil; err == nil && len(a.refused) < int(n)-1; {
		var i int
		if i, b, err = msgp.ReadIntBytes(b); err == nil {
			a.refused = append(a.refused, i)
		}
	}
	return whole(b, err)
}

// chunk is state that belongs to no connection, such as sessions that are idle, or a question about
// it.
type chunk struct {
	name string
	data []byte
}

func (c chunk) append(b []byte) []byte {
	return msgp.AppendBytes(msgp.AppendString(msgp.AppendArrayHeader(b, 2), c.name), c.data)
}

func (c *chunk) parse(b []byte) error {
	n, b, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil || n != 2 {
		return malformed(err)
	}
	if c.name, b, err = msgp.ReadStringBytes(b); err != nil {
		return malformed(err)
	}
	c.data, b, err = msgp.ReadBytesZC(b)
	return whole(b, err)
}

var errUnknown = errors.New("takeover: a field that this version does not know")

// readMap calls field for each key; field returns what follows the value.
func readMap(b []byte, field func(key int, b []byte) (rest []byte, err error)) error {
	n, b, err := msgp.ReadMapHeaderBytes(b)
	for ; err == nil && n > 0; n-- {
		var key int
		if key, b, err = msgp.ReadIntBytes(b); err != nil {
			break
		}
		if key >= optional {
			b, err = msgp.Skip(b)
			continue
		}
		b, err = field(key, b)
	}
	return whole(b, err)
}

// whole is err, or an error when something follows the message.
func whole(rest []byte, err error) error {
	if err == nil && len(rest) == 0 {
		return nil
	}
	return malformed(err)
}

func malformed(err error) error {
	if errors.Is(err, errUnknown) {
		return err
	}
	return fmt.Errorf("takeover: malformed message (%v)", err)
}
