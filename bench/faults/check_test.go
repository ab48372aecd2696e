package faults

import (
	"strings"
	"testing"
)

// good is a session of two connections: the first is cut with two messages of five
// unacknowledged, one of which was stored.
const good = `i 0 0 0 id
o 0 1 0 
w 0 1 0 new
s 0 1 5 
a 0 1 1 
a 0 1 2 
a 0 1 3 
c 0 1 0 cut
o 0 2 0 
w 0 2 4 resumed
s 0 2 2 
a 0 2 5 
a 0 2 6 
e 0 2 0 
b 0 2 6 
c 0 2 0 websocket: close 1000 (normal)
`

// check judges a journal whose gateways received what was stored, but for the session's own
// promises.
func check(t *testing.T, journal string, stored, received uint64) *ledger {
	t.Helper()
	l, err := checkJournal(strings.NewReader(journal), false)
	if err != nil {
		t.Fatal(err)
	}
	l.reconcile(l.settle(map[string]uint64{"id": stored}), received)
	return l
}

func TestTheCheckerAcceptsWhatIsRight(t *testing.T) {
	l := check(t, good, 6, 6)
	if !l.ok() || len(l.findings) > 0 || l.messages != 7 || l.acknowledged != 5 {
		t.Errorf("a good journal: %+v", l)
	}
	// The second uncertain message is stored late, and takes its number from the middle of a
	// connection.
	late := strings.NewReplacer("a 0 2 6", "a 0 2 7", "b 0 2 6", "b 0 2 7").Replace(good)
	if l := check(t, late, 7, 7); !l.ok() {
		t.Errorf("a late commit: %q", l.findings)
	}
}

// A checker that finds nothing is worth nothing: each of these breaks one promise, and must be
// found as that.
func TestTheCheckerFindsWhatIsWrong(t *testing.T) {
	for _, test := range []struct {
		name, old, new   string // what is changed in the good journal
		stored, received uint64
		lost, doubled    bool
		broken, missing  bool
	}{
		{name: "stored less than acknowledged", stored: 5, received: 5, lost: true},
		{name: "stored nothing", stored: 0, received: 0, lost: true},
		{name: "stored more than sent", stored: 8, received: 8, doubled: true},
		{name: "received and not stored", stored: 6, received: 7, missing: true},
		{name: "stored and not received", stored: 7, received: 6, doubled: true},
		{name: "stored more than acknowledged with nothing uncertain", old: "c 0 1 0 cut", new: "b 0 1 3 \nc 0 1 0 close 1001", stored: 7, received: 7, doubled: true},
		{name: "a welcome below what was acknowledged", old: "w 0 2 4 resumed", new: "w 0 2 2 resumed", stored: 6, received: 6, lost: true},
		{name: "a welcome above what can be stored", old: "w 0 2 4 resumed", new: "w 0 2 6 resumed", stored: 6, received: 6, doubled: true},
		{name: "a session that was not resumed", old: "w 0 2 4 resumed", new: "w 0 2 4 new", stored: 6, received: 6, broken: true},
		{name: "a total of 0 resumed", old: "w 0 1 0 new", new: "w 0 1 0 resumed", stored: 6, received: 6, broken: true},
		{name: "an acknowledgement twice", old: "a 0 1 2 ", new: "a 0 1 2 \na 0 1 2 ", stored: 6, received: 6, doubled: true, broken: true},
		{name: "an acknowledgement out of order", old: "a 0 1 2 \na 0 1 3 ", new: "a 0 1 3 \na 0 1 2 ", stored: 6, received: 6, broken: true},
		{name: "a gap", old: "a 0 1 2 \na 0 1 3 ", new: "a 0 1 2 \na 0 1 4 ", stored: 6, received: 6, broken: true},
		{name: "a gap wider than what was uncertain", old: "a 0 2 6 ", new: "a 0 2 8 ", stored: 8, received: 8, doubled: true, broken: true},
		{name: "an acknowledgement beyond what was sent", old: "a 0 2 6 ", new: "a 0 2 6 \na 0 2 7 ", stored: 7, received: 7, doubled: true},
		{name: "an acknowledgement after the bye", old: "b 0 2 6 ", new: "b 0 2 6 \na 0 2 7 ", stored: 7, received: 7, broken: true, doubled: true},
		{name: "a number given to two connections", old: "w 0 2 4 resumed\ns 0 2 2 \na 0 2 5 ", new: "w 0 2 2 resumed\ns 0 2 2 \na 0 2 3 ", stored: 6, received: 6, lost: true, doubled: true},
		{name: "a bye below the last acknowledgement", old: "b 0 2 6", new: "b 0 2 5", stored: 6, received: 6, lost: true},
		{name: "a bye above what can be stored", old: "b 0 2 6", new: "b 0 2 8", stored: 6, received: 6, lost: true, doubled: true},
		{name: "a bye before all is acknowledged", old: "a 0 2 6 \n", new: "", stored: 6, received: 6, lost: true},
		{name: "two welcomes", old: "s 0 2 2 ", new: "w 0 2 4 resumed\ns 0 2 2 ", stored: 6, received: 6, broken: true},
		{name: "another id", old: "s 0 2 2 ", new: "i 0 0 0 id2\ns 0 2 2 \ni 0 0 0 id", stored: 6, received: 6, broken: true},
		{name: "forgotten, though it had counted since the flush", old: "a 0 1 3 \nc 0 1 0 cut\no 0 2 0 \nw 0 2 4 resumed",
			new: "f 0 0 0 \nf 0 0 1 \na 0 1 3 \ns 0 1 1 \na 0 1 4 \na 0 1 5 \na 0 1 6 \nc 0 1 0 cut\no 0 2 0 \nw 0 2 0 new", stored: 6, received: 6, lost: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			journal := good
			if test.old != "" {
				if journal = strings.Replace(good, test.old, test.new, 1); journal == good {
					t.Fatalf("%q is not in the journal", test.old)
				}
			}
			l := check(t, journal, test.stored, test.received)
			if l.ok() || test.lost && l.lost == 0 || test.doubled && l.doubled == 0 || test.broken && l.broken == 0 || test.missing && l.missing == 0 {
				t.Errorf("lost %d, doubled %d, broken %d, want lost: %v, doubled: %v, broken: %v; found %q",
					l.lost, l.doubled, l.broken, test.lost, test.doubled, test.broken, l.findings)
			}
		})
	}
}

func TestAnEmptiedStoreForgetsWhomNobodyIsConnectedTo(t *testing.T) {
	// The loss comes between the two connections, and the second is welcomed as new.
	journal := strings.NewReplacer("o 0 2 0 ", "f 0 0 0 \nf 0 0 1 \no 0 2 0 ", "w 0 2 4 resumed", "w 0 2 0 new",
		"a 0 2 5", "a 0 2 1", "a 0 2 6", "a 0 2 2", "b 0 2 6", "b 0 2 2").Replace(good)
	if l := check(t, journal, 2, 5); !l.ok() || l.losses != 1 || l.forgotten != 3 {
		t.Errorf("%d losses, forgotten %d, want 1 and the 3 that were acknowledged; found %q", l.losses, l.forgotten, l.findings)
	}
	if l := check(t, journal, 2, 1); l.doubled == 0 {
		t.Error("more is stored than was received, and was not found")
	}
	// What it counts then is kept like anything else.
	if l := check(t, journal, 1, 4); l.lost == 0 {
		t.Error("a message acknowledged after the loss is missing and was not found")
	}
}

// A gateway that was connected throughout restores, with the first commit after a loss, what it
// told anybody.
func TestWhatIsRestored(t *testing.T) {
	const before = "i 0 0 0 id\no 0 1 8001 \nw 0 1 0 new\no 0 2 8001 \nw 0 2 0 new\no 0 3 8002 \nw 0 3 0 new\n" +
		"s 0 1 1 \na 0 1 1 \ns 0 2 1 \na 0 2 2 \ns 0 3 1 \na 0 3 3 \nf 0 0 0 \nf 0 0 1 \n"
	for _, test := range []struct {
		name, after string
		stored      uint64 // the least that is right
	}{
		{"nobody spoke", "", 0},
		{"a message from before is acknowledged", "s 0 1 1 \nf 0 0 0 \nf 0 0 1 \na 0 1 3 \n", 0},
		{"the first gateway spoke", "s 0 1 1 \na 0 1 3 \n", 3},
		{"the first gateway spoke, after its other client left", "c 0 2 0 \ns 0 1 1 \na 0 1 3 \n", 3},
		{"the second gateway spoke", "s 0 3 1 \na 0 3 4 \n", 4},
		{"it did, while the store forgot", "f 0 0 0 \ns 0 3 1 \na 0 3 4 \nf 0 0 1 \n", 0},
		{"a client came back", "o 0 4 8002 \nw 0 4 3 resumed\n", 0},
		{"a client came back and spoke", "o 0 4 8002 \nw 0 4 3 resumed\ns 0 4 1 \na 0 4 4 \n", 4},
		{"all had left when the next one was welcomed", "o 0 4 8001 \ne 0 1 0 \nb 0 1 2 \n" +
			"c 0 1 0 close 1000\ne 0 2 0 \nb 0 2 2 \nc 0 2 0 close 1000\n" +
			"w 0 4 0 new\ns 0 4 1 \na 0 4 1 \n", 1},
		{"a client left in order", "e 0 3 0 \nb 0 3 3 \nc 0 3 0 close 1000\n", 0},
	} {
		if l := check(t, before+test.after, test.stored, 9); !l.ok() {
			t.Errorf("%s: %d stored: %q", test.name, test.stored, l.findings)
		}
		if test.stored == 0 {
			continue
		}
		if l := check(t, before+test.after, test.stored-1, 9); l.lost == 0 {
			t.Errorf("%s: %d stored, and nothing was found", test.name, test.stored-1)
		}
	}
}

func TestSharedSessionsMayShareNumbersOnlyOnce(t *testing.T) {
	const shared = "i 0 0 0 id\no 0 1 0 \no 0 2 0 \nw 0 1 0 new\nw 0 2 0 new\ns 0 1 2 \ns 0 2 2 \n"
	const end = "e 0 1 0 \nb 0 1 4 \nc 0 1 0 close 1000\ne 0 2 0 \nb 0 2 4 \nc 0 2 0 close 1000\n"
	if l := check(t, shared+"a 0 1 1 \na 0 2 2 \na 0 2 3 \na 0 1 4 \n"+end, 4, 4); !l.ok() {
		t.Errorf("two connections in turn: %q", l.findings)
	}
	if l := check(t, shared+"a 0 1 1 \na 0 2 1 \na 0 2 2 \na 0 1 3 \n"+end, 4, 4); l.doubled == 0 {
		t.Error("one number for both was not found")
	}
	// After a flush the first connection cannot know of 2 and 3 until the second has counted as
	// well. 5 is another matter.
	const flushed = shared + "a 0 1 1 \na 0 2 2 \na 0 2 3 \nf 0 0 0 \nf 0 0 1 \na 0 1 2 \ns 0 2 2 \na 0 2 5 \n"
	if l := check(t, flushed+"a 0 2 6 \nc 0 1 0 \nc 0 2 0 ", 6, 6); !l.ok() || l.renumbered != 1 {
		t.Errorf("a number given out again after a flush: renumbered %d, want 1; found %q", l.renumbered, l.findings)
	}
	if l := check(t, flushed+"s 0 1 1 \na 0 1 5 \nc 0 1 0 \nc 0 2 0 ", 6, 6); l.doubled == 0 {
		t.Error("a number from after the flush for both was not found")
	}
}

func FuzzJournal(f *testing.F) {
	f.Add(good)                                   // everything that a journal has
	f.Add("a 0 1 1 \n")                           // a connection that was never opened
	f.Add("o 0 1 0 \na 0 1 18446744073709551615") // the largest number there is
	f.Add("x 0 0 0 \n")                           // no such event
	f.Add("s 0 0 -1 \n")                          // not a number of messages
	f.Fuzz(func(t *testing.T, text string) {
		l, err := checkJournal(strings.NewReader(text), false)
		if err == nil {
			l.settle(nil)
		}
		var b strings.Builder
		j := newJournal(&b)
		_ = readJournal(strings.NewReader(text), j.put)
		if err := j.flush(); err != nil {
			t.Fatal(err)
		}
		if err := readJournal(strings.NewReader(b.String()), func(event) {}); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	})
}
