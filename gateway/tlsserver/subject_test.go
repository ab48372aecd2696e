package tlsserver

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"strings"
	"testing"
)

func stateOf(name pkix.Name) tls.ConnectionState {
	return tls.ConnectionState{PeerCertificates: []*x509.Certificate{{Subject: name}}}
}

func TestSubject(t *testing.T) {
	for _, test := range []struct {
		name pkix.Name
		want string
	}{
		{pkix.Name{CommonName: "client.test"}, "CN=client.test"},
		{pkix.Name{CommonName: "a", Organization: []string{"x,y"}}, `CN=a,O=x\,y`},
		{pkix.Name{CommonName: "a\r\nX-Admin: 1"}, `CN=a\0D\0AX-Admin: 1`},
		{pkix.Name{CommonName: "a\x00\x7f"}, `CN=a\00\7F`},
		{pkix.Name{CommonName: "é"}, `CN=\C3\A9`},
		{pkix.Name{}, ""},
	} {
		if got := Subject(stateOf(test.name)); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if got := Subject(tls.ConnectionState{}); got != "" {
		t.Errorf("without a certificate: got %q", got)
	}
	for n := MaxSubject - 1; n <= MaxSubject+1; n++ {
		state := stateOf(pkix.Name{CommonName: strings.Repeat("x", n-len("CN="))})
		if err := checkSubject(state); (err == nil) != (n <= MaxSubject) {
			t.Errorf("a subject of %d bytes: %v", n, err)
		}
	}
}
