package backend

import (
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/gobwas/ws"
)

// The messages are what Python's msgpack.packb makes of the dictionaries beside them, as the layer
// does.
var channelsMessages = []struct {
	text string
	hex  string
	want item
	bad  bool
}{
	{"{'type':'websocket.send','text':'grüße'}",
		"82a474797065ae776562736f636b65742e73656e64a474657874a76772c3bcc39f65", item{action: publishSend,
			op: ws.OpText, content: []byte("grüße")}, false},
	{"{'type':'websocket.send','bytes':b'\\x00\\x01','text':None}",
		"83a474797065ae776562736f636b65742e73656e64a56279746573c4020001a474657874c0",
		item{action: publishSend, op: ws.OpBinary, content: []byte{0, 1}}, false},
	{"{'type':'websocket.close','code':4001,'reason':'x'}",
		"83a474797065af776562736f636b65742e636c6f7365a4636f6465cd0fa1a6726561736f6ea178",
		item{action: publishClose, code: 4001, reason: "x"}, false},
	{"{'type':'chat.message','message':{'a':[1,2]}}",
		"82a474797065ac636861742e6d657373616765a76d65737361676581a161920102", item{}, false},
	{"a number", "07", item{}, true},
	{"nothing", "", item{}, true},
	{"a map cut short", "82a474797065ae776562736f636b65742e73656e64a474657874a767", item{}, true},
	{"a map of 4,294,967,295 fields", "dfffffffff", item{}, true},
	{"text of 4,294,967,295 bytes", "82a474797065ae776562736f636b65742e73656e64a474657874dbffffffff61",
		item{}, true},
	{"websocket.send without a text", "81a474797065ae776562736f636b65742e73656e64", item{}, true},
}

func TestParseChannels(t *testing.T) {
	for _, tt := range channelsMessages {
		b, err := hex.DecodeString(tt.hex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseChannels(b)
		if (err != nil) != tt.bad || !tt.bad && fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", tt.want) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func FuzzChannels(f *testing.F) {
	for _, tt := range channelsMessages { // each says what it is
		b, _ := hex.DecodeString(tt.hex)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		it, err := parseChannels(b)
		if err == nil && (it.action == publishClose && !sendable(it.code) || len(it.content) > len(b)) {
			t.Fatalf("%x: %+v", b, it)
		}
	})
}
