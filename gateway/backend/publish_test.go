package backend

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

func TestParseItems(t *testing.T) {
	for _, tt := range []struct {
		text string
		want item
		bad  string // part of the error
	}{
		{text: `{"channel":"a","formats":{"ws-message":{"content":"hi"}}}`,
			want: item{topic: "a", action: publishSend, op: ws.OpText, content: []byte("hi")}},
		{text: `{"channel":"a","ws-message":{"content":"hi"}}`,
			want: item{topic: "a", action: publishSend, op: ws.OpText, content: []byte("hi")}},
		{text: `{"channel":"a","id":"2","prev-id":"1","formats":{"ws-message":{"content-bin":"AAE="}}}`,
			want: item{topic: "a", id: "2", prevID: "1", seq: true, action: publishSend, op: ws.OpBinary,
				content: []byte{0, 1}}},
		{text: `{"channel":"a","prev-id":"1","no-seq":true,
			"formats":{"ws-message":{"type":"text","content-bin":"aGk="}}}`, want: item{topic: "a", action: publishSend, op: ws.OpText, content: []byte("hi")}},
		{text: `{"channel":"a","formats":{"ws-message":{"type":"ping"}}}`,
			want: item{topic: "a", action: publishSend, op: ws.OpPing}},
		{text: `{"channel":"a","formats":{"ws-message":{"content":""}}}`,
			want: item{topic: "a", action: publishSend, op: ws.OpText}},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"close"}}}`,
			want: item{topic: "a", action: publishClose, code: 1000}},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"close","code":4001,"reason":"gone"}}}`,
			want: item{topic: "a", action: publishClose, code: 4001, reason: "gone"}},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"refresh"}}}`,
			want: item{topic: "a", action: publishRefresh}},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"hint"}}}`, want: item{topic: "a"}},
		{text: `{"channel":"a","formats":{"http-stream":{"content":"hi"}}}`, want: item{topic: "a"}},
		{text: `{"channel":"a","http-response":{"body":"hi"}}`, want: item{topic: "a"}},
		{text: `{"formats":{"ws-message":{"content":"hi"}}}`, bad: "channel"},
		{text: `{"connection":"c","ws-message":{"content":"hi"}}`,
			want: item{connection: "c", action: publishSend, op: ws.OpText, content: []byte("hi")}},
		{text: `{"channel":"a","connection":"c","ws-message":{"content":"hi"}}`, bad: "not both"},
		{text: `{"channel":"","formats":{"ws-message":{"content":"hi"}}}`, bad: "channel"},
		{text: `{"channel":"a"}`, bad: "no formats"},
		{text: `{"channel":"a","formats":{}}`, bad: "no formats"},
		{text: `{"channel":"a","formats":{"ws-message":{}}}`, bad: "neither content"},
		{text: `{"channel":"a","formats":{"ws-message":{"content":7}}}`, bad: "ws-message"},
		{text: `{"channel":"a","formats":{"ws-message":{"content-bin":"!"}}}`, bad: "base64"},
		{text: `{"channel":"a","formats":{"ws-message":{"type":"text","content-bin":"/w=="}}}`,
			bad: "UTF-8"},
		{text: `{"channel":"a","formats":{"ws-message":{"type":"close"}}}`, bad: "type of message"},
		{text: `{"channel":"a","formats":{"ws-message":{"type":"ping","content":"` +
			strings.Repeat("x", 125) +
			`"}}}`, want: item{topic: "a", action: publishSend, op: ws.OpPing,
			content: []byte(strings.Repeat("x", 125))}},
		{text: `{"channel":"a","formats":{"ws-message":{"type":"ping","content":"` +
			strings.Repeat("x", 126) + `"}}}`, bad: "too many"},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"close","code":1006}}}`, bad: "1006"},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"close","code":66536}}}`, bad: "66536"},
		{text: `{"channel":"a","formats":{"ws-message":{"action":"dance"}}}`, bad: "dance"},
		{text: `7`, bad: "number"},
	} {
		got, err := parseItems([]byte(`{"items":[`+tt.text+`]}`), 10)
		if tt.bad != "" {
			if err == nil || !strings.Contains(err.Error(), tt.bad) {
				t.Errorf("%s: got %v, want an error about %q", tt.text, err, tt.bad)
			}
			continue
		}
		if err != nil || len(got) != 1 || fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
	for _, n := range []int{9, 10, 11} {
		_, err := parseItems([]byte(`{"items":[`+
			strings.TrimSuffix(strings.Repeat(`{"channel":"a","ws-message":{"content":""}},`, n), ",")+`]}`),
			10)
		if (err == nil) != (n <= 10) {
			t.Errorf("%d items of 10: %v", n, err)
		}
	}
	for _, text := range []string{``, `[]`, `{}`, `{"items":7}`, `{"items":null}`} {
		if _, err := parseItems([]byte(text), 10); err == nil {
			t.Errorf("%s: want an error", text)
		}
	}
}

func TestSequencer(t *testing.T) {
	q := newSequencer(nil)
	defer q.close()
	var got []string
	publish := func(it item) { got = append(got, it.topic+it.id) }
	add := func(topic, id, prev string) bool {
		return q.add(item{topic: topic, id: id, prevID: prev, seq: prev != ""}, publish)
	}
	for _, it := range []struct {
		topic, id, prev string
		ok              bool
	}{
		{"a", "1", "0", true}, // the first that is heard of a topic is taken as it comes
		{"a", "3", "2", true}, // waits
		{"a", "4", "3", true}, // waits
		{"b", "9", "8", true}, // another topic
		{"a", "3", "2", false},
		{"a", "2", "1", true}, // and the two behind it
		{"a", "2", "1", false},
		{"a", "", "", true}, // no id, no order
		{"a", "7", "6", true},
	} {
		if ok := add(it.topic, it.id, it.prev); ok != it.ok {
			t.Errorf("%v: got %v", it, ok)
		}
	}
	if want := []string{"a1", "b9", "a2", "a3", "a4", "a", "a7"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range sequenceQueue + 1 {
		if ok := add("a", fmt.Sprint("x", i), fmt.Sprint("y", i)); ok != (i < sequenceQueue) {
			t.Errorf("item %d of %d that wait: got %v", i, sequenceQueue, ok)
		}
	}
	if q.count != sequenceQueue {
		t.Errorf("%d wait, want %d", q.count, sequenceQueue)
	}
}

func TestRecentForgets(t *testing.T) {
	r := newRecent[int, int](3)
	for i := range 4 {
		r.put(i, i)
	}
	r.put(1, 10)
	r.put(4, 4)
	for key, want := range map[int]bool{0: false, 1: true, 2: false, 3: true, 4: true} {
		if _, ok := r.get(key, 0); ok != want {
			t.Errorf("%d: got %v, want %v", key, ok, want)
		}
	}
}

func FuzzItems(f *testing.F) {
	// the usual one
	f.Add([]byte(`{"items":[{"channel":"a","id":"2","prev-id":"1",
		"formats":{"ws-message":{"content":"hi"}}}]}`))
	// a code beyond all
	f.Add([]byte(`{"items":[{"channel":"a","ws-message":{"action":"close","code":1e9}}]}`))
	// text that is none
	f.Add([]byte(`{"items":[{"channel":"a",
		"formats":{"ws-message":{"content-bin":"////","type":"text"}}}]}`))
	f.Add([]byte(`{"items":[[[[[[[[[[`))
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := parseItems(text, 5)
		if err != nil {
			return
		}
		if len(items) > 5 {
			t.Fatalf("%d items", len(items))
		}
		for _, it := range items {
			if it.topic == "" && it.connection == "" || it.action == publishClose && !sendable(it.code) {
				t.Fatalf("%q: %+v", text, it)
			}
		}
	})
}
