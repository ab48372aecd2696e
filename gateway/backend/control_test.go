package backend

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// subscriberService accepts, and subscribes each client to the topics in its query: ?topics=a,b.
func subscriberService(t testing.TB) *service {
	return newService(t, func(w http.ResponseWriter, r *http.Request, body string) {
		var subscribe []string
		if strings.HasPrefix(body, "OPEN") {
			for topic := range strings.SplitSeq(r.URL.Query().Get("topics"), ",") {
				subscribe = append(subscribe, `c:{"type":"subscribe","channel":"`+topic+`"}`)
			}
			subscribe = append(subscribe, "m:ready "+r.Header.Get("Connection-Id"))
		}
		echo(w, body, subscribe...)
	})
}

func newControl(t testing.TB, e *edge, cfg ControlConfig) *httptest.Server {
	t.Helper()
	cfg.Hub, cfg.App = e.hub, e.app
	c := NewControl(cfg)
	s := httptest.NewServer(c)
	t.Cleanup(func() { s.Close(); c.Close() })
	return s
}

// ask sends a request and returns the status and the answer; header alternates names and values.
func ask(t testing.TB, method, url, body string, header ...string) (int, controlAnswer,
	http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	var a controlAnswer
	if err := json.Unmarshal(text, &a); err != nil {
		a.Error = string(text)
	}
	return res.StatusCode, a, res.Header
}

func TestPublish(t *testing.T) {
	b := subscriberService(t)
	e := newEdge(t, Config{}, b.URL)
	control := newControl(t, e, ControlConfig{})
	one, both, other := e.dial(t, "/?topics=a"), e.dial(t, "/?topics=a,b"), e.dial(t, "/?topics=b")
	ids := make(map[*client]string)
	for _, c := range []*client{one, both, other} {
		text := c.next()
		ids[c], _ = strings.CutPrefix(text, "ready ")
	}
	for _, tt := range []struct {
		path, body  string
		status      int
		subscribers int
		one, both   string // what they get; "" is nothing
	}{
		{"/publish/", `{"items":[{"channel":"a","formats":{"ws-message":{"content":"1"}}}]}`, 200, 2, "1",
			"1"},
		{"/publish", `{"items":[{"channel":"a","formats":{"ws-message":{"content-bin":"AAE="}}}]}`, 200,
			2, "binary \x00\x01", "binary \x00\x01"},
		{"/publish?topic=a", "raw", 200, 2, "raw", "raw"},
		{"/publish?topic=a&type=binary", "\xff", 200, 2, "binary \xff", "binary \xff"},
		{"/publish/", `{"items":[{"connection":"` + ids[one] +
			`","ws-message":{"content":"you"}},{"channel":"nobody","ws-message":{"content":"x"}}]}`, 200, 1,
			"you", ""},
		{"/connections/" + ids[one] + "/send", "just you", 200, 1, "just you", ""},
		{"/publish?topic=a", "\xff", 400, 0, "", ""},
		{"/publish?topic=" + strings.Repeat("x", 201), "raw", 400, 0, "", ""},
		{"/publish/", `{"items":[{}]}`, 400, 0, "", ""},
		{"/publish/", `not JSON`, 400, 0, "", ""},
		{"/publish?topic=a", strings.Repeat("x", 70_000), 413, 0, "", ""}, // longer than a message may be
		{"/publish?topic=a", strings.Repeat("x", 1_000_001), 413, 0, "", ""},
		{"/connections/nonsense/send", "x", 400, 0, "", ""},
		{"/connections/123e4567-e89b-42d3-a456-426614170000/send", "x", 404, 0, "", ""},
		{"/connections/123e4567-e89b-42d3-a456-42661417ffff/send", "x", 404, 0, "", ""}, // no such loop
	} {
		status, a, _ := ask(t, "POST", control.URL+tt.path, tt.body)
		n := 0
		if a.Subscribers != nil {
			n = *a.Subscribers
		}
		if status != tt.status || n != tt.subscribers && status == 200 {
			t.Errorf("%s %.60q: got %d, %+v; want %d, %d subscribers", tt.path, tt.body, status, a,
				tt.status, tt.subscribers)
		}
		if tt.one != "" {
			one.want(tt.one)
		}
		if tt.both != "" {
			both.want(tt.both)
		}
	}
	// The order of items, by their ids.
	items := func(ids ...int) string {
		var all []string
		for _, id := range ids {
			all = append(all, fmt.Sprintf(`{"channel":"b","id":"%d","prev-id":"%d","formats":{"ws-message":{"content":"%d"}}}`, id, id-1, id))
		}
		return `{"items":[` + strings.Join(all, ",") + `]}`
	}
	ask(t, "POST", control.URL+"/publish/", items(1, 3, 4, 2, 3, 5))
	other.want("1", "2", "3", "4", "5")
	both.want("1", "2", "3", "4", "5")
	// What is known of connections and topics.
	res, err := http.Get(control.URL + "/connections/" + ids[both])
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	for _, want := range []string{`"state":"open"`, `"topics":["a","b"]`, `"target":"/?topics=a,b"`,
		`"address":"127.0.0.1:`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("GET /connections/…: got %s, want %s in it", text, want)
		}
	}
	res, err = http.Get(control.URL + "/topics?pattern=a*")
	if err != nil {
		t.Fatal(err)
	}
	text, _ = io.ReadAll(res.Body)
	res.Body.Close()
	want := `{"subscriptions":4,"topics":[{"topic":"a","subscribers":2}]}` + "\n"
	if string(text) != want {
		t.Errorf("GET /topics: got %s, want %s", text, want)
	}
	// Close: one by its id, the others by topic.
	if status, a, _ := ask(t, "POST", control.URL+"/connections/"+ids[one]+
		"/close?code=4001&reason=you", ""); status != 200 {
		t.Errorf("close one: %d %+v", status, a)
	}
	one.want("closed 4001 you")
	ask(t, "POST", control.URL+"/publish/", `{"items":[{"channel":"b","formats":
		{"ws-message":{"action":"close","code":4002,"reason":"all"}}}]}`)
	both.want("closed 4002 all")
	other.want("closed 4002 all")
	await(t, "the backend has heard of all three", func() bool {
		return strings.HasSuffix(b.bodies(), "|CLOSE|CLOSE|CLOSE")
	})
}

func TestControlKey(t *testing.T) {
	e := newEdge(t, Config{}, "http://127.0.0.1:1")
	const key = "secret"
	token := func(method jwt.SigningMethod, key any, life time.Duration) string {
		text, err := jwt.NewWithClaims(method,
			jwt.MapClaims{"iss": "app", "exp": time.Now().Add(life).Unix()}).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + text
	}
	forever, _ := jwt.NewWithClaims(jwt.SigningMethodHS256,
		jwt.MapClaims{"iss": "app"}).SignedString([]byte(key))
	for _, tt := range []struct {
		name   string
		key    string
		header []string
		status int
	}{
		{"no key wanted", "", nil, 200},
		{"no key wanted, from a page", "", []string{"Origin", "http://127.0.0.1"}, 403},
		{"no key wanted, a name that leads here", "", []string{"Host", "evil.example:80"}, 403},
		{"no key wanted, localhost", "", []string{"Host", "localhost:80"}, 200},
		{"no key wanted, IPv6", "", []string{"Host", "[::1]:80"}, 200},
		{"none given", key, nil, 401},
		{"the key", key, []string{"Authorization", "Bearer " + key}, 200},
		{"the key, from a page", key, []string{"Authorization", "bearer " + key, "Origin", "http://x"},
			200},
		{"another key", key, []string{"Authorization", "Bearer secret2"}, 401},
		{"password", key, []string{"Authorization", "Basic " +
			base64.StdEncoding.EncodeToString([]byte("any:"+key))}, 200},
		{"another password", key, []string{"Authorization", "Basic " +
			base64.StdEncoding.EncodeToString([]byte("any:x"))}, 401},
		{"token", key, []string{"Authorization", token(jwt.SigningMethodHS256, []byte(key), time.Hour)},
			200},
		{"token of another key", key,
			[]string{"Authorization", token(jwt.SigningMethodHS256, []byte("x"), time.Hour)}, 401},
		{"token that has expired", key,
			[]string{"Authorization", token(jwt.SigningMethodHS256, []byte(key), -time.Minute)}, 401},
		{"token that never expires", key, []string{"Authorization", "Bearer " + forever}, 401},
		{"token without a signature", key,
			[]string{"Authorization",
				token(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, time.Hour)}, 401},
		{"token of another method", key,
			[]string{"Authorization", token(jwt.SigningMethodHS512, []byte(key), time.Hour)}, 401},
		{"another scheme", key, []string{"Authorization", "Digest " + key}, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := ControlConfig{}
			if tt.key != "" {
				cfg.Key = []byte(tt.key)
			}
			control := newControl(t, e, cfg)
			status, a, header := ask(t, "POST", control.URL+"/publish?topic=a", "x", tt.header...)
			if status != tt.status {
				t.Errorf("got %d, %+v; want %d", status, a, tt.status)
			}
			if (header.Get("WWW-Authenticate") != "") != (status == 401) {
				t.Errorf("WWW-Authenticate with %d: %q", status, header.Get("WWW-Authenticate"))
			}
		})
	}
}

func TestControlRate(t *testing.T) {
	e := newEdge(t, Config{}, "http://127.0.0.1:1")
	control := newControl(t, e, ControlConfig{Rate: 2, MaxItems: 3})
	three := `{"items":[` +
		strings.TrimSuffix(strings.Repeat(`{"channel":"a","ws-message":{"content":""}},`, 3), ",") + `]}`
	if status, a, _ := ask(t, "POST", control.URL+"/publish/", three); status != 200 {
		t.Fatalf("as many items as one request may have: %d, %+v", status, a)
	}
	status, _, header := ask(t, "POST", control.URL+"/publish/", three)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "2" {
		t.Errorf("got %d, Retry-After %q; want 429 and 2", status, header.Get("Retry-After"))
	}
}

// Pushpin's answers to requests that are not for it.
func TestControlMethods(t *testing.T) {
	e := newEdge(t, Config{}, "http://127.0.0.1:1")
	control := newControl(t, e, ControlConfig{})
	for _, tt := range []struct {
		method, path string
		status       int
	}{{"GET", "/", 200}, {"GET", "/publish/", 405}, {"PUT", "/publish", 405}, {"POST", "/topics", 405},
		{"GET", "/nothing", 404}, {"GET", "/topics?limit=0", 400}, {"GET", "/connections/x", 400}} {
		if status, _, _ := ask(t, tt.method, control.URL+tt.path, ""); status != tt.status {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, status, tt.status)
		}
	}
}
