package backend

import (
	"net/url"
	gopath "path"
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	for _, tt := range []struct{ text, pattern, url string }{
		{"http://127.0.0.1:9000", "/", "http://127.0.0.1:9000"},
		{"http://127.0.0.1:9000/ws/", "/ws/", "http://127.0.0.1:9000/ws/"},
		{"/chat/=http://a:1/x", "/chat/", "http://a:1/x"},
		{"/a=b/=https://a", "/a=b/", "https://a"},
		{"/=h2c://a", "/", "h2c://a"},
		{"/x=http://a/y=z", "/x", "http://a/y=z"},
		{"/x=http://[::1]:9/", "/x", "http://[::1]:9/"},
	} {
		r, err := ParseRoute(tt.text)
		if err != nil || r.Pattern != tt.pattern || r.URL != tt.url {
			t.Errorf("%q: got %+v, %v; want %q and %q", tt.text, r, err, tt.pattern, tt.url)
		}
	}
	for _, text := range []string{"", "chat", "/chat/", "/chat/http://a", "=http://a", "ftp://a",
		"http://", "http://:80", "http://u:p@a/", "http://a/?q", "http://a/#f", "/a/../=http://a",
		"/a*=http://a", "http://a/%zz", "/a?b=http://a", "http://a/./"} {
		if r, err := ParseRoute(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, r)
		}
	}
}

func TestRoutes(t *testing.T) {
	var routes []route
	for _, text := range []string{"http://all:1", "/chat/=http://chat:1",
		"/chat/vip=http://vip:1/room", "/moved/=http://moved:1/ws/", "/gone/=http://gone:1/"} {
		r, err := ParseRoute(text)
		if err != nil {
			t.Fatal(err)
		}
		u, err := parseURL(r.URL)
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, newRoute(r, u, &target{name: u.Hostname()}))
	}
	sortRoutes(routes)
	for _, tt := range []struct{ path, query, want string }{
		{"/", "", "all /"},
		{"/chat", "", "all /chat"},
		{"/chat/", "a=1&b", "chat /chat/?a=1&b"},
		{"/chat/r%2f1/", "", "chat /chat/r%2f1/"},
		{"/chat/vip", "x", "vip /room?x"},
		{"/chat/vip/", "", "chat /chat/vip/"},
		{"/moved/a/b", "", "moved /ws/a/b"},
		{"/gone/a", "", "gone /a"},
	} {
		r := matchRoute(routes, []byte(tt.path))
		if r == nil {
			t.Errorf("%s: no route", tt.path)
			continue
		}
		got := r.target.name + " " + r.requestTarget([]byte(tt.path), []byte(tt.query))
		if got != tt.want {
			t.Errorf("%s?%s: got %q, want %q", tt.path, tt.query, got, tt.want)
		}
	}
	if r := matchRoute(routes[:len(routes)-1], []byte("/elsewhere")); r != nil {
		t.Errorf("/elsewhere: got %q, want no route", r.pattern)
	}
}

func TestBadPath(t *testing.T) {
	for path, want := range map[string]bool{
		"/": false, "/a/b": false, "/a..b/...": false, "/a//b": false, "/%41": false, "/a/%2fb": false,
		"/ü": false,
		"":   true, "a": true, "/..": true, "/a/../b": true, "/a/./b": true, "/a/.": true,
		"/%2e%2E/b": true, "/a/..%2fb": true, `/a/..\b`: true, "/%": true, "/%zz": true,
	} {
		if got := badPath(path); got != want {
			t.Errorf("%q: got %v, want %v", path, got, want)
		}
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("/chat/=http://127.0.0.1:9000/ws/") // the usual one
	f.Add("/a=b=https://[::1]/=")             // equal signs in all parts
	f.Add("/%2e%2e/=h2c://a")                 // escaped dots
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRoute(text)
		if err != nil {
			return
		}
		if !strings.HasPrefix(r.Pattern, "/") {
			t.Fatalf("%q: pattern %q", text, r.Pattern)
		}
		u, err := parseURL(r.URL)
		if err != nil {
			t.Fatalf("%q: accepted with a URL that is refused: %v", text, err)
		}
		one := []route{newRoute(r, u, &target{})}
		m := matchRoute(one, []byte(r.Pattern))
		if m == nil {
			t.Fatalf("%q: the pattern does not match itself", text)
		}
		if got := m.requestTarget([]byte(r.Pattern), nil); !strings.HasPrefix(got, "/") {
			t.Fatalf("%q: request target %q", text, got)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add("/ws/chat/", "a=b")                // the usual one
	f.Add("/ws/%2e%2E/secret", "")           // escaped dots
	f.Add("/ws/..\\..//", "?#")              // backslashes, slashes
	f.Add("/ws/%", "%zz")                    // cut off
	f.Add("/ws/ü\x00\x7f", "\xff")           // not ASCII
	f.Add("//evil.example/ws/", "http://x/") // another host's
	r := Route{Pattern: "/ws/", URL: "http://127.0.0.1:1/in/"}
	u, err := parseURL(r.URL)
	if err != nil {
		f.Fatal(err)
	}
	routes := []route{newRoute(r, u, &target{})}
	f.Fuzz(func(t *testing.T, path, query string) {
		m := matchRoute(routes, []byte(path))
		if m == nil || badPath(path) {
			return
		}
		if !strings.HasPrefix(path, "/ws/") {
			t.Fatalf("%q matches", path)
		}
		got := m.requestTarget([]byte(path), []byte(query))
		if !strings.HasPrefix(got, "/in/") {
			t.Fatalf("%q, %q: request target %q", path, query, got)
		}
		parsed, err := url.ParseRequestURI(got)
		if err != nil {
			return // the request fails, and nothing was sent
		}
		if parsed.Host != "" || !strings.HasPrefix(gopath.Clean(parsed.Path), "/in") {
			t.Fatalf("%q, %q: leads to %v", path, query, parsed)
		}
	})
}

func FuzzConnID(f *testing.F) {
	f.Add(newConnID(3).String())                    // as it is given out
	f.Add("urn:uuid:00000000-0000-0000-0000-0000")  // another form of a UUID, as long
	f.Add("{00000000-0000-0000-0000-000000000000}") // and one that is longer
	f.Add("00000000000000000000000000000000")       // and one that is shorter
	f.Fuzz(func(t *testing.T, text string) {
		id, ok := parseConnID(text)
		if ok && !strings.EqualFold(id.String(), text) {
			t.Errorf("%q was read as %v", text, id)
		}
	})
}
