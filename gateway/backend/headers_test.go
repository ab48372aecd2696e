package backend

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPassOn(t *testing.T) {
	for _, name := range []string{"Cookie", "Authorization", "User-Agent", "Accept-Language", "Origin",
		"Sec-Websocket-Protocol", "Sec-Websocket-Version", "X-Custom", "Metadata", "X-Request-Id"} {
		if !passOn(name, []string{"Upgrade", "x-hop"}) {
			t.Errorf("%s does not reach the backend", name)
		}
	}
	for _, name := range []string{"Connection", "Upgrade", "Te", "Keep-Alive", "Proxy-Authorization",
		"Host", "Accept", "Accept-Encoding", "Content-Type", "Content-Length", "Expect",
		"Connection-Id", "Meta-User", "Grip-Sig", "Webhook-Id", "Set-Meta-X", "Meta_user", "X_Y",
		"X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Forwarded-User", "X-Ssl-Client-Dn",
		"X-Forwarded-Client-Cert", "Client-Cert", "Client-Cert-Chain", "X-Ssl_Client-Dn", "Sec-Websocket-Extensions",
		"Sec-Websocket-Key", "X-Hop"} {
		if passOn(name, []string{"Upgrade", "x-hop"}) {
			t.Errorf("a client's %s reaches the backend", name)
		}
	}
}

func TestHead(t *testing.T) {
	h := newHead("/a?b", []string{"Cookie", "a=1", "Cookie", "", "X-Y", "z: z"})
	if got := h.target(); got != "/a?b" {
		t.Errorf("target: got %q", got)
	}
	header := h.header(0)
	if !slices.Equal(header["Cookie"], []string{"a=1", ""}) || header.Get("X-Y") != "z: z" ||
		len(header) != 2 {
		t.Errorf("header: got %v", header)
	}
	if bare := newHead("/", nil); bare.target() != "/" || len(bare.header(0)) != 0 {
		t.Errorf("without headers: got %q and %v", bare.target(), bare.header(0))
	}
}

func TestMeta(t *testing.T) {
	old := []meta{{"User", "7"}, {"Old", "x"}}
	got, ok := applyMeta(old,
		http.Header{"Set-Meta-User": {"8"}, "Set-Meta-Old": {""}, "Set-Meta-": {"x"}, "Server": {"y"}})
	if !ok || !slices.Equal(got, []meta{{"User", "8"}}) {
		t.Errorf("got %v, %v", got, ok)
	}
	if !slices.Equal(old, []meta{{"User", "7"}, {"Old", "x"}}) {
		t.Errorf("the old ones changed: %v", old)
	}
	if got, _ := applyMeta(old, http.Header{"Server": {"y"}}); &got[0] != &old[0] {
		t.Error("a copy without need")
	}
	for _, n := range []int{maxMeta - 1, maxMeta, maxMeta + 1} {
		many := http.Header{}
		for i := range n {
			many["Set-Meta-"+strings.Repeat("A", i+1)] = []string{"1"}
		}
		got, ok := applyMeta(nil, many)
		if len(got) != min(n, maxMeta) || ok != (n <= maxMeta) {
			t.Errorf("%d of them: got %d, %v", n, len(got), ok)
		}
	}
	for _, n := range []int{maxMetaSize - 1, maxMetaSize, maxMetaSize + 1} {
		got, ok := applyMeta(nil, http.Header{"Set-Meta-A": {strings.Repeat("x", n-1)}})
		if ok != (n <= maxMetaSize) || (len(got) == 1) != ok {
			t.Errorf("%d bytes: got %d, %v", n, len(got), ok)
		}
	}
}

func TestPollInterval(t *testing.T) {
	for text, want := range map[string]time.Duration{"30": 30 * time.Second, "1": leastPoll,
		"20": leastPoll, "21": 21 * time.Second, "0": 0, "-5": 0, "x": 0, "999999999999": longestTimeout,
		"99999999": longestTimeout} {
		if got, ok := pollInterval(http.Header{"Keep-Alive-Interval": {text}}); got != want || !ok {
			t.Errorf("%q: got %v, %v; want %v", text, got, ok, want)
		}
	}
	if _, ok := pollInterval(http.Header{}); ok {
		t.Error("nothing said is something")
	}
}

func TestResponseLines(t *testing.T) {
	answer := http.Header{"Content-Type": {"text/plain"}, "Content-Length": {"5"},
		"Set-Cookie": {"a=1", "b=2"}, "Connection": {"close"}, "Set-Meta-User": {"7"}, "Grip-Hold": {"x"},
		"Keep-Alive-Interval": {"30"}, "Sec-Websocket-Extensions": {"grip"}, "X-Bad": {"a\rInjected: b"},
		"X-Large": {strings.Repeat("x", maxHandshakeHeader)}}
	for accepted, want := range map[bool][]string{true: {"Set-Cookie: a=1", "Set-Cookie: b=2"},
		false: {"Content-Type: text/plain", "Set-Cookie: a=1", "Set-Cookie: b=2"}} {
		got := strings.Split(strings.TrimSuffix(responseLines(answer, accepted), "\r\n"), "\r\n")
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("accepted %v: got %q, want %q", accepted, got, want)
		}
	}
}

// What a backend's headers say never passes the bounds, and never ends a line of the client's
// answer.
func FuzzAnswerHeader(f *testing.F) {
	f.Add("Set-Meta-User", "7", "Set-Meta-Room", "lobby")                // what it is for
	f.Add("Set-Meta-User", "7", "Set-Meta-User", "")                     // set, and taken back
	f.Add("Set-Cookie", "a=1", "X", "y\r\nInjected: z")                  // a line end
	f.Add("Keep-Alive-Interval", "-1", "Keep-Alive-Interval", "1e9")     // no such number
	f.Add("Keep-Alive-Interval", "9223372036854775807", "Set-Meta-", "") // the largest
	f.Add("Content-Bytes-Accepted", "5", "Content-Bytes-Accepted", "+6") // as many as there are
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string) {
		header := http.Header{}
		header[name1] = append(header[name1], value1)
		header[name2] = append(header[name2], value2)
		metas, _ := applyMeta([]meta{{"Old", "x"}}, header)
		size := 0
		for _, m := range metas {
			size += len(m.name) + len(m.value)
		}
		if len(metas) > maxMeta || size > maxMetaSize {
			t.Errorf("%q: %d of %d bytes are kept", header, len(metas), size)
		}
		if d, _ := pollInterval(header); d != 0 && d < leastPoll || d > longestTimeout {
			t.Errorf("%q: an interval of %v", header, d)
		}
		for _, accepted := range []bool{false, true} {
			lines := responseLines(header, accepted)
			clean := !strings.Contains(name1+name2, "\n") // net/http lets no such name through
			if len(lines) > maxHandshakeHeader || clean && strings.Count(lines, "\n") > 2 {
				t.Errorf("%q: the lines %q", header, lines)
			}
		}
		got := answer{header: header}
		r := &request{body: appendEvent(nil, eventText, []byte("hello"))}
		if n := bytesAccepted(r, &got); n < -1 || n > 5 {
			t.Errorf("%q: %d bytes accepted of 5", header, n)
		}
	})
}
