package main

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	gorilla "github.com/gorilla/websocket"
)

// TestClientCertificateIsPassedOn: the service behind the gateway, and the access log, have the
// subject of the client's certificate, and not the one that the client claims in headers.
func TestClientCertificateIsPassedOn(t *testing.T) {
	seen := make(chan http.Header, 4)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Clone()
		w.Header().Set("Content-Type", "application/websocket-events")
		w.Header().Set("Sec-WebSocket-Extensions", "grip")
		w.Write([]byte("OPEN\r\n"))
	}))
	defer service.Close()
	cert, key := certificate(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "access.log")
	for _, test := range []struct {
		name, want string
		version    uint16
		more       []string
		mine       []tls.Certificate
	}{
		{"TLS 1.2", "CN=a.test", tls.VersionTLS12, []string{"--tls-client-ca=" + cert},
			[]tls.Certificate{pair}},
		{"TLS 1.3", "CN=a.test", tls.VersionTLS13, []string{"--tls-client-ca=" + cert},
			[]tls.Certificate{pair}},
		{"not asked for", "", tls.VersionTLS13, nil, []tls.Certificate{pair}},
	} {
		_, listen, _ := startTLS(t, "compact", cert, key, append(test.more, "--app=backend",
			"--backend-url="+service.URL+"/", "--access-log="+file)...)
		dialer := gorilla.Dialer{HandshakeTimeout: patience, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, MaxVersion: test.version, Certificates: test.mine,
		}}
		forged := http.Header{}
		for _, name := range []string{"X-SSL-Client-DN", "X_SSL_Client_DN",
			"X-Forwarded-Client-Cert", "X-Forwarded-Proto"} {
			forged.Set(name, "CN=admin")
		}
		before := len(accessLines(t, file))
		c, _, err := dialer.Dial("wss://"+listen+"/", forged)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		header := <-seen
		c.Close()
		if got := header.Values("X-Ssl-Client-Dn"); test.want == "" && len(got) > 0 ||
			test.want != "" && (len(got) != 1 || got[0] != test.want) {
			t.Errorf("%s: the service has %q, want %q", test.name, got, test.want)
		}
		if got := header.Get("X-Forwarded-Proto"); got != "https" {
			t.Errorf("%s: X-Forwarded-Proto is %q, want https", test.name, got)
		}
		for name, values := range header {
			if len(values) > 0 && values[0] == "CN=admin" {
				t.Errorf("%s: the client's own %s reaches the service", test.name, name)
			}
		}
		waitFor(t, "a line", func() bool { return len(accessLines(t, file)) > before })
		got, _ := accessLines(t, file)[before]["subject"].(string)
		if got != test.want {
			t.Errorf("%s: the access log has %q, want %q", test.name, got, test.want)
		}
		<-seen // the end of the connection
	}
}
