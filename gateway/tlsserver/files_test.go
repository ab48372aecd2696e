package tlsserver

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// eventually polls for what the watching goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	pair := writePair(t, dir, "a.test", hour)
	s := newServer(t, Config{Certificates: []KeyPair{pair}, Check: 5 * time.Millisecond})
	if got := s.NotAfter(); !got.Equal(hour) {
		t.Errorf("first expires %v, want %v", got, hour)
	}

	failed := reloadErrors.Get()
	kept, err := os.ReadFile(pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	other := writePair(t, dir, "other.test", hour)
	mismatch, err := os.ReadFile(other.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{mismatch, nil, []byte("no key"), make([]byte, maxFile+1)} {
		before := reloadErrors.Get()
		if err := os.WriteFile(pair.Key, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the bad key is refused", func() bool { return reloadErrors.Get() > before })
		if o := connect(t, s, &tls.Config{}); o.client != nil {
			t.Fatalf("with a bad key on disk: %v", o.client)
		}
		if err := os.WriteFile(pair.Key, kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if reloadErrors.Get() == failed {
		t.Error("no failed reload was counted")
	}

	day := hour.Add(24 * time.Hour)
	writePair(t, dir, "a.test", day)
	eventually(t, "the new pair is in force", func() bool { return s.NotAfter().Equal(day) })
	o := connect(t, s, &tls.Config{})
	if o.client != nil || !o.state.PeerCertificates[0].NotAfter.Equal(day) {
		t.Errorf("got %v, want the new certificate", o.client)
	}
}

func TestServerName(t *testing.T) {
	dir := t.TempDir()
	var pairs []KeyPair
	for _, name := range []string{"a.test", "b.test"} {
		pairs = append(pairs, writePair(t, dir, name, time.Now().Add(time.Hour)))
	}
	s := newServer(t, Config{Certificates: pairs})
	for asked, want := range map[string]string{
		"a.test": "a.test", "b.test": "b.test", "c.test": "a.test", "": "a.test",
	} {
		o := connect(t, s, &tls.Config{ServerName: asked})
		if o.client != nil {
			t.Fatal(o.client)
		}
		if got := o.state.PeerCertificates[0].Subject.CommonName; got != want {
			t.Errorf("%q: got the certificate of %s, want that of %s", asked, got, want)
		}
	}
}

// Servers with the same file take each other's tickets, and others do not.
func TestTicketKeysShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tickets")
	key := hex.EncodeToString(bytes.Repeat([]byte{7}, ticketKeySize))
	if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pair := writePair(t, t.TempDir(), "a.test", time.Now().Add(time.Hour))
	server := func(tickets string) *Server {
		return newServer(t, Config{Certificates: []KeyPair{pair}, TicketKeys: tickets, Compact: true})
	}
	cfg := &tls.Config{ServerName: "a.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for i, test := range []struct {
		s       *Server
		resumed bool
	}{{server(path), false}, {server(path), true}, {server(""), false}} {
		o := connect(t, test.s, cfg)
		if o.client != nil || o.state.DidResume != test.resumed {
			t.Errorf("connection %d: %v, resumed %v, want %v", i, o.client, o.state.DidResume,
				test.resumed)
		}
	}
}

// A key is rotated by adding it at the end and then moving it to the front: tickets of the old key
// are taken at each step, and no longer once it is gone.
func TestTicketKeysRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tickets")
	older := hex.EncodeToString(bytes.Repeat([]byte{7}, ticketKeySize)) + "\n"
	newer := hex.EncodeToString(bytes.Repeat([]byte{8}, ticketKeySize)) + "\n"
	write := func(keys string) {
		if err := os.WriteFile(path, []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(older)
	s := newServer(t, Config{TicketKeys: path, Check: 5 * time.Millisecond, Compact: true})
	cfg := &tls.Config{ServerName: "a.test", ClientSessionCache: &keepFirst{}}
	for i, test := range []struct {
		keys    string
		resumed bool
	}{{older, false}, {older + newer, true}, {newer + older, true}, {newer, false}} {
		before := s.certs.Load()
		write(test.keys)
		if i > 0 {
			eventually(t, "the keys are read", func() bool { return s.certs.Load() != before })
		}
		if o := connect(t, s, cfg); o.client != nil || o.state.DidResume != test.resumed {
			t.Errorf("step %d: %v, resumed %v, want %v", i, o.client, o.state.DidResume, test.resumed)
		}
	}
}

// keepFirst is a client's cache that keeps the first ticket it is given.
type keepFirst struct{ state *tls.ClientSessionState }

func (k *keepFirst) Get(string) (*tls.ClientSessionState, bool) { return k.state, k.state != nil }
func (k *keepFirst) Put(_ string, state *tls.ClientSessionState) {
	if k.state == nil {
		k.state = state
	}
}

func TestParseTicketKeys(t *testing.T) {
	key := bytes.Repeat([]byte{9}, ticketKeySize)
	inHex, inBase64 := hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key)
	for _, test := range []struct {
		file string
		want int // 0: an error
	}{
		{inHex, 1},
		{"# a comment\n\n" + inBase64 + " # first\n" + inHex + "\n", 2},
		{"", 0},
		{"# nothing else\n", 0},
		{inHex[2:], 0},
		{inHex + "00", 0},
		{strings.Repeat("z", 64), 0},
		{base64.StdEncoding.EncodeToString(key[1:]), 0},
		{strings.Repeat(inHex+"\n", maxTicketKeys-1), maxTicketKeys - 1},
		{strings.Repeat(inHex+"\n", maxTicketKeys), maxTicketKeys},
		{strings.Repeat(inHex+"\n", maxTicketKeys+1), 0},
	} {
		keys, err := parseTicketKeys([]byte(test.file))
		if len(keys) != test.want || (err == nil) != (test.want > 0) {
			t.Errorf("%.70q: got %d keys, %v, want %d", test.file, len(keys), err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), inHex[:8]) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
}

// A key of our own is replaced each day and kept for a week.
func TestTicketKeysRenewed(t *testing.T) {
	var keys ticketKeys
	now := time.Unix(0, 0)
	for day := range 20 {
		next, err := keys.renewed(nil, false, now)
		if err != nil {
			t.Fatal(err)
		}
		if want := min(day+1, 7); len(next.list) != want {
			t.Errorf("day %d: %d keys, want %d", day, len(next.list), want)
		}
		if day > 0 && next.list[1] != keys.list[0] {
			t.Errorf("day %d: the key of the day before is not the second", day)
		}
		keys = next
		if same, _ := keys.renewed(nil, false, now.Add(ticketKeyEvery-1)); same.list[0] != next.list[0] {
			t.Errorf("day %d: the key was replaced early", day)
		}
		now = now.Add(ticketKeyEvery)
	}
}

func TestNewRefuses(t *testing.T) {
	pair := writePair(t, t.TempDir(), "a.test", time.Now().Add(time.Hour))
	for i, cfg := range []Config{
		{},
		{Certificates: []KeyPair{{pair.Cert, pair.Cert}}},
		{Certificates: []KeyPair{{pair.Cert, pair.Key + "-"}}},
		{Certificates: []KeyPair{pair}, ClientCA: pair.Key},
		{Certificates: []KeyPair{pair}, TicketKeys: pair.Cert},
		{Certificates: []KeyPair{pair}, MinVersion: tls.VersionTLS11},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("configuration %d was taken", i)
		}
	}
}

// Whatever a file holds gives between 1 and maxTicketKeys keys, or an error; and keys that are
// written out again are the same keys.
func FuzzParseTicketKeys(f *testing.F) {
	key := bytes.Repeat([]byte{9}, ticketKeySize)
	f.Add([]byte(hex.EncodeToString(key) + "\n"))                           // hex
	f.Add([]byte("# first\n" + base64.StdEncoding.EncodeToString(key)))     // base64, a comment
	f.Add([]byte(hex.EncodeToString(key[1:])))                              // a byte short
	f.Add([]byte(strings.Repeat(hex.EncodeToString(key)+"\r\n", 65)))       // one too many
	f.Add([]byte("\n\n#\n"))                                                // nothing
	f.Add([]byte(base64.StdEncoding.EncodeToString(append(key, 1)) + "\n")) // a byte long
	f.Fuzz(func(t *testing.T, file []byte) {
		keys, err := parseTicketKeys(file)
		if (err == nil) != (len(keys) > 0) || len(keys) > maxTicketKeys {
			t.Fatalf("got %d keys, %v", len(keys), err)
		}
		var again []byte
		for _, k := range keys {
			again = append(hex.AppendEncode(again, k.key[:]), '\n')
		}
		if len(keys) == 0 {
			return
		}
		same, err := parseTicketKeys(again)
		if err != nil || !slices.Equal(same, keys) {
			t.Fatalf("written out and read again: %d keys, %v, want the same %d", len(same), err, len(keys))
		}
	})
}
