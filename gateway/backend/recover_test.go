package backend

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"sluice/gateway/topics"
)

// A subscription with "since" tells the client where it begins, and a client that comes back with
// that gets what it has missed.
func TestSubscribeSince(t *testing.T) {
	b := newService(t, func(w http.ResponseWriter, r *http.Request, body string) {
		var more []string
		if strings.HasPrefix(body, "OPEN") {
			since, _ := json.Marshal(r.URL.Query().Get("since"))
			more = append(more, `c:{"type":"subscribe","channel":"kept","since":`+string(since)+
				`}`, "m:ready")
		}
		echo(w, body, more...)
	})
	e := newEdge(t, Config{}, b.URL)
	type answer struct {
		Type, Topic, Position string
		Recovered             bool
		Messages              int
	}
	dial := func(since string, missed ...string) answer {
		t.Helper()
		c := e.dial(t, "/?since="+url.QueryEscape(since))
		var a answer
		if text := c.next(); json.Unmarshal([]byte(text), &a) != nil || a.Type != "subscribed" ||
			a.Topic != "kept" {
			t.Fatalf("got %s, want what the subscription begins with", text)
		}
		c.want(append(missed, "ready")...)
		return a
	}
	first := dial("")
	if first.Recovered || !strings.HasSuffix(first.Position, ":0") {
		t.Errorf("got %+v, want the beginning", first)
	}
	for _, text := range []string{"one", "two"} {
		if err := e.hub.Publish("kept", topics.Message{Payload: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	back := dial(first.Position, "one", "two")
	if !back.Recovered || back.Messages != 2 || !strings.HasSuffix(back.Position, ":2") {
		t.Errorf("got %+v, want two messages", back)
	}
	if again := dial(back.Position); !again.Recovered || again.Messages != 0 {
		t.Errorf("got %+v, want that nothing was missed", again)
	}
	if strange := dial("'; drop"); strange.Recovered || strange.Position != back.Position {
		t.Errorf("got %+v, want that it cannot be recovered", strange)
	}
}
