package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// runText runs the program in this process.
func runText(t *testing.T, environ []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(args, environ, nil, &out, &errs)
	return status, out.String(), errs.String()
}

// effective is what `sluice config` prints, as text by key, and its line for each key.
func effective(t *testing.T, environ []string, args ...string) (values, lines map[string]string) {
	t.Helper()
	status, out, errs := runText(t, environ, append([]string{"config", "--show-secrets"}, args...)...)
	if status != exitClean || errs != "" {
		t.Fatalf("sluice config %q with %q: got status %d, %q, want 0", args, environ, status, errs)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(out), &doc); err != nil {
		t.Fatalf("sluice config printed what is not YAML: %v\n%s", err, out)
	}
	values, lines = map[string]string{}, map[string]string{}
	root := doc.Content[0]
	for i := 0; i < len(root.Content); i += 2 {
		text, err := scalar(root.Content[i+1], true)
		if err != nil {
			t.Fatalf("%s: %v", root.Content[i].Value, err)
		}
		values[root.Content[i].Value] = text
		lines[root.Content[i].Value] = strings.Split(out, "\n")[root.Content[i].Line-1]
	}
	return values, lines
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sluice.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settings returns the flags of a command that are settings.
func settingFlags(t *testing.T) []*kong.Flag {
	t.Helper()
	var cmds commands
	parser, err := kong.New(&cmds)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := kong.Trace(parser, []string{"serve"})
	if err != nil || ctx.Error != nil {
		t.Fatal(err, ctx.Error)
	}
	var flags []*kong.Flag
	for _, f := range ctx.Selected().Flags {
		if fileKey(f.Name) {
			flags = append(flags, f)
		}
	}
	return flags
}

// Three values for each setting, none of them its default.
var samples = map[string][3]string{
	"listen":            {":1", "127.0.0.1:2", "[::1]:3"},
	"admin":             {"off", "127.0.0.1:4", "localhost:5"},
	"allowed-origins":   {"https://a.example", "https://b.example,http://c.example:81", "*"},
	"handshake-timeout": {"1s", "1m30s", "500ms"},
	"app":               {"echo", "echo", "echo"},

	"backend-url":             {"http://a:1/", "http://b:2/ws/", "https://c"},
	"route":                   {"/a/=http://a:1", "/b/=http://b:2,/c=http://c:3", "/d/=h2c://d"},
	"admin-token":             {"0123456789abcdef", "fedcba9876543210", "0123456789ABCDEF"},
	"backend-key":             {"a", "base64:YQ==", "whsec_YQ=="},
	"backend-timeout":         {"1s", "1m30s", "500ms"},
	"backend-connect-timeout": {"2s", "1m30s", "500ms"},
	"backend-hold":            {"1s", "1m30s", "500ms"},
	"backend-requests":        {"1", "2", "3"},
	"backend-pending":         {"1KiB", "2MiB", "65535"},
	"backend-queue":           {"1MiB", "2MiB", "65537"},
	"control":                 {"127.0.0.1:1", "[::1]:2", "localhost:3"},
	"control-key":             {"a", "base64:YQ==", "whsec_YQ=="},
	"control-rate":            {"1", "2", "0"},
	"slow-policy":             {"drop", "room-*=latest,drop", "*=latest"},
	"topic-history":           {"10,1m", "room-*=100,5m,20,1h", "a=1,1s"},
	"broker-url":              {"redis://a:1", "redis://b:2", "rediss://c:3"},
	"broker-prefix":           {"a:", "b:", "c:"},
	"channels-layer":          {"redis://a:1", "redis://b:2,redis://c:3", "rediss://d:4"},
	"channels-prefix":         {"a", "b", "c"},
	"max-topics":              {"1", "2", "3"},
	"topics-per-conn":         {"1", "2", "3"},
	"topic-retain":            {"1", "2", "3"},
	"max-publish":             {"1KiB", "2MiB", "65535"},

	"trusted-proxies":   {"10.0.0.0/8", "192.0.2.1,2001:db8::/32", "127.0.0.1"},
	"tls-listen":        {"127.0.0.1:8443", "127.0.0.1:8444", ":8445"},
	"tls-cert":          {`a\,1.pem`, `b\,2.pem`, "c.pem"},
	"tls-key":           {"a.key", "b.key", "c.key"},
	"tls-min-version":   {"1.3", "1.3", "1.3"},
	"tls-client-ca":     {"a.pem", "b.pem", "c.pem"},
	"tls-ticket-keys":   {"a.keys", "b.keys", "c.keys"},
	"tls-records":       {"std", "std", "std"},
	"proxy-protocol":    {"true", "true", "true"},
	"forwarded-header":  {"forwarded", "none", "forwarded"},
	"allow":             {"10.0.0.0/8", "192.0.2.1,2001:db8::/32", "127.0.0.1"},
	"deny":              {"10.0.0.0/8", "192.0.2.1,2001:db8::/32", "127.0.0.1"},
	"max-conns-per-ip":  {"1", "2", "3"},
	"conn-rate-per-ip":  {"1", "2", "3"},
	"unfinished-per-ip": {"0", "2", "3"},
	"message-rate":      {"1", "2", "3"},
	"auth-algorithm":    {"RS256", "ES256", "EdDSA"},
	"auth-jwt-key":      {strings.Repeat("a", 32), strings.Repeat("b", 32) + "," + strings.Repeat("c", 32), strings.Repeat("d", 40)},
	"auth-jwks-url":     {"https://a.example/jwks", "https://b.example/jwks", "http://127.0.0.1:1/jwks"},
	"auth-issuer":       {"https://a.example", "https://b.example", "c"},
	"auth-audience":     {"a", "b,c", "d"},
	"auth-cookie":       {"a", "b", "c"},
	"compression":       {"true", "true", "true"},
	"compress-from":     {"1KiB", "2MiB", "65535"},
	"access-log":        {"stdout", "/tmp/b.log", "c.log"},
	"access-log-format": {"common", "common", "common"},
	"access-log-sample": {"2", "3", "4"},
	"takeover":          {"/run/a.sock", "/run/b.sock", "c.sock"},
	"reuse-port":        {"true", "true", "true"},

	"allowed-hosts":         {"a.example", "b.example,c.example:81", "localhost"},
	"drain-delay":           {"1s", "1m30s", "500ms"},
	"new-session-rate":      {"1", "2", "3"},
	"welcome":               {"false", "false", "false"},
	"heartbeat":             {"0s", "1m", "1h30m"},
	"heartbeat-ping":        {"false", "false", "false"},
	"loops":                 {"1", "2", "3"},
	"max-conns":             {"1", "2", "3"},
	"max-conns-per-loop":    {"1", "2", "3"},
	"max-message":           {"1KiB", "2MiB", "65535"},
	"max-fragments":         {"1", "2", "3"},
	"message-timeout":       {"1s", "1m30s", "500ms"},
	"max-header":            {"1KiB", "512KiB", "8193"},
	"max-buffered":          {"1MiB", "2GiB", "1048577"},
	"max-queue":             {"1KiB", "2MiB", "65535"},
	"socket-buffer":         {"4KiB", "1MiB", "65535"},
	"session-store":         {"redis", "redis", "redis"},
	"session-ttl":           {"1s", "2h", "24h"},
	"session-key":           {strings.Repeat("a", 32), strings.Repeat("b", 32) + "," + strings.Repeat("a", 33), "base64:" + strings.Repeat("YWFh", 11)},
	"max-sessions":          {"1", "2", "3"},
	"redis-url":             {"redis://a:1", "redis://u:secret@b:2/3", "rediss://c"},
	"redis-client-cache":    {"false", "false", "false"},
	"redis-durability":      {"strict", "strict", "strict"},
	"redis-wait-replicas":   {"1", "2", "3"},
	"redis-commit-interval": {"0s", "2ms", "1s"},
	"redis-key-prefix":      {"a:", "b: #", "true"},
	"drain-timeout":         {"1m", "2m", "3m"},
	"drain-spread":          {"0s", "2s", "3s"},
	"log-level":             {"debug", "warn", "error"},
	"log-format":            {"text", "text", "text"},
}

// Every flag is also a variable and a key, and the flag wins over the variable over the file over
// the default.
func TestPrecedence(t *testing.T) {
	defaults, lines := effective(t, nil)
	seen := 0
	for _, f := range settingFlags(t) {
		seen++
		t.Run(f.Name, func(t *testing.T) {
			v, ok := samples[f.Name]
			if !ok {
				t.Fatal("no sample values: add them to samples")
			}
			byFlag, byEnv, byFile := v[0], v[1], v[2]
			if !strings.HasSuffix(lines[f.Name], " # default") {
				t.Errorf("default: got line %q, want its origin", lines[f.Name])
			}
			if byFlag == byEnv { // settings of two values only: play them against each other
				byEnv = defaults[f.Name]
			}
			text, err := yaml.Marshal(map[string]any{f.Name: byFile})
			if err != nil {
				t.Fatal(err)
			}
			file := writeFile(t, string(text))
			variable := "SLUICE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")) + "=" + byEnv
			flag := "--" + f.Name + "=" + byFlag
			var also []string // what the value needs beside it
			switch {
			case f.Name == "session-store":
				also = []string{"REDIS_URL=redis://x"}
			case f.Name == "proxy-protocol":
				also = []string{"SLUICE_TRUSTED_PROXIES=10.0.0.0/8"}
			case f.Name == "tls-listen":
				also = []string{"SLUICE_TLS_CERT=x", "SLUICE_TLS_KEY=x"}
			case f.Name == "tls-cert":
				also = []string{"SLUICE_TLS_LISTEN=:8443", "SLUICE_TLS_KEY=x"}
			case f.Name == "tls-key":
				also = []string{"SLUICE_TLS_LISTEN=:8443", "SLUICE_TLS_CERT=x"}
			case f.Name == "tls-client-ca", f.Name == "tls-ticket-keys":
				also = []string{"SLUICE_TLS_LISTEN=:8443", "SLUICE_TLS_CERT=x", "SLUICE_TLS_KEY=x"}
			case f.Name == "auth-algorithm":
				also = []string{"SLUICE_AUTH_JWKS_URL=https://x", "SLUICE_AUTH_ISSUER=x", "SLUICE_AUTH_AUDIENCE=x"}
			case f.Name == "auth-jwks-url":
				also = []string{"SLUICE_AUTH_ALGORITHM=RS256", "SLUICE_AUTH_ISSUER=x", "SLUICE_AUTH_AUDIENCE=x"}
			case f.Name == "auth-jwt-key":
				also = []string{"SLUICE_AUTH_ALGORITHM=HS256"}
			case strings.HasPrefix(f.Name, "auth-"):
				also = []string{"SLUICE_AUTH_ALGORITHM=HS256", "SLUICE_AUTH_JWT_KEY=" + strings.Repeat("x", 32)}
			case f.Name == "route":
				also = []string{"SLUICE_APP=backend", "SLUICE_BACKEND_URL=http://x:1/x/"}
			case ofServices(f):
				also = []string{"SLUICE_APP=backend", "SLUICE_ROUTE=/x/=http://x:1"}
			}
			for _, step := range []struct {
				name         string
				environ      []string
				args         []string
				want, origin string
			}{
				{"file", nil, []string{"--config", file}, byFile, " # file " + file + ":1"},
				{"file by variable", []string{"SLUICE_CONFIG=" + file}, nil, byFile, " # file " + file + ":1"},
				{"empty variable is unset", []string{strings.TrimSuffix(variable, byEnv)}, []string{"--config", file}, byFile, " # file " + file + ":1"},
				{"variable over file", []string{variable}, []string{"--config", file}, byEnv, " # environment SLUICE_"},
				{"flag over variable over file", []string{variable}, []string{"--config", file, flag}, byFlag, " # flag"},
				{"flag over file", nil, []string{flag, "--config", file}, byFlag, " # flag"},
			} {
				got, lines := effective(t, append(also, step.environ...), step.args...)
				if got[f.Name] != step.want || !strings.Contains(lines[f.Name], step.origin) {
					t.Errorf("%s: got %q in line %q, want %q and %q", step.name, got[f.Name], lines[f.Name], step.want, step.origin)
				}
			}
			if byFile == defaults[f.Name] {
				t.Errorf("the sample %q is the default, so it shows nothing", byFile)
			}
		})
	}
	if seen != len(samples) || seen != len(defaults) {
		t.Errorf("got %d flags, %d samples, %d printed keys; want the same number", seen, len(samples), len(defaults))
	}
}

// ofServices tells the settings that are for --app backend only.
func ofServices(f *kong.Flag) bool {
	return f.Group != nil && (f.Group.Key == "backend" || f.Group.Key == "control" || f.Group.Key == "topics")
}

// What `sluice config` prints is a configuration file with the same meaning.
func TestConfigRoundTrip(t *testing.T) {
	var counting []string
	serving := []string{"--app=backend"}
	for _, f := range settingFlags(t) {
		arg := "--" + f.Name + "=" + samples[f.Name][1]
		if f.Name == "auth-jwt-key" {
			continue // it does not go with auth-jwks-url
		}
		if f.Name != "app" && !ofServices(f) { // echo and redis do not go together
			counting = append(counting, arg)
		}
		// A service's heartbeat is a Ping.
		if f.Name != "app" && f.Name != "session-store" && f.Name != "heartbeat-ping" {
			serving = append(serving, arg)
		}
	}
	for _, args := range [][]string{nil, counting, serving} {
		want, _ := effective(t, nil, args...)
		_, out, _ := runText(t, nil, append([]string{"config", "--show-secrets"}, args...)...)
		got, _ := effective(t, nil, "--config", writeFile(t, out))
		if !reflect.DeepEqual(got, want) {
			t.Errorf("with %q: got %v, want %v", args, got, want)
		}
	}
}

func TestConfigHidesPasswords(t *testing.T) {
	for _, tc := range []struct{ url, shown string }{
		{"redis://user:hunter2@host:6379/0", "# redis-url: redis://user:xxxxx@host:6379/0 # "},
		{"redis://:hunter2@host", "# redis-url: redis://:xxxxx@host # "},
		{"redis://host?password=hunter2", "# redis-url: redis://host?… # "},
		{"redis://user@host", "\nredis-url: redis://user@host # flag\n"},
	} {
		args := []string{"config", "--session-store=redis", "--redis-url=" + tc.url}
		status, out, errs := runText(t, nil, args...)
		if status != exitClean || strings.Contains(out+errs, "hunter2") || !strings.Contains(out, tc.shown) {
			t.Errorf("%s: got status %d and\n%s%s\nwant %q and no password", tc.url, status, out, errs, tc.shown)
		}
		if strings.Contains(tc.url, "hunter2") {
			// Fed back without its password it says what is missing.
			status, _, errs = runText(t, nil, "config", "--config", writeFile(t, out))
			if status != exitUsage || !strings.Contains(errs, "needs --redis-url") {
				t.Errorf("%s: fed back: got status %d, %q, want 2 and what is missing", tc.url, status, errs)
			}
		}
		if _, out, _ = runText(t, nil, append(args, "--show-secrets")...); !strings.Contains(out, tc.url) {
			t.Errorf("%s: --show-secrets does not show it:\n%s", tc.url, out)
		}
	}
}

func TestRedisURLVariables(t *testing.T) {
	got, _ := effective(t, []string{"REDIS_URL=redis://platform", "SLUICE_REDIS_URL=redis://own"})
	if got["redis-url"] != "redis://own" {
		t.Errorf("both variables: got %q, want the one of this program", got["redis-url"])
	}
	got, _ = effective(t, []string{"REDIS_URL=redis://platform"})
	if got["redis-url"] != "redis://platform" {
		t.Errorf("REDIS_URL alone: got %q", got["redis-url"])
	}
}

// Wrong input is one line that names the place, and status 2.
func TestUsageErrors(t *testing.T) {
	const file = "FILE" // stands for the path of the configuration file
	for _, tc := range []struct {
		name    string
		yaml    string
		environ []string
		args    []string
		want    string
	}{
		{"short admin token", "", nil, []string{"serve", "--admin-token=0123456789abcde"},
			"--admin-token: 15 characters can be guessed (want 16 or more)"},
		{"no command", "", nil, []string{}, `expected one of "serve", "config", "upgrade", "version" (try sluice --help)`},
		{"unknown command", "", nil, []string{"run"}, `unexpected argument run`},
		{"unknown flag", "", nil, []string{"serve", "--heartbeet=1s"}, `unknown flag --heartbeet, did you mean "--heartbeat"?`},
		{"argument too many", "", nil, []string{"serve", "now"}, `unexpected argument now`},

		{"flag duration", "", nil, []string{"serve", "--heartbeat=soon"}, `--heartbeat: "soon" is not a duration (want for example 30s, 1m30s or 500ms)`},
		{"flag negative", "", nil, []string{"serve", "--heartbeat=-1s"}, `--heartbeat: "-1s" is not a duration (want for example 30s, 1m30s or 500ms)`},
		{"flag size", "", nil, []string{"serve", "--max-message=64KB"}, `--max-message: "64KB" is not a size (want for example 65536, 64KiB or 1MiB)`},
		{"flag count", "", nil, []string{"serve", "--loops=1.5"}, `--loops: "1.5" is not a count (want a whole number from 0 to 2147483647)`},
		{"flag choice", "", nil, []string{"serve", "--app=chat"}, `--app must be one of "count","echo","backend" but got "chat"`},
		{"flag bool", "", nil, []string{"serve", "--welcome=perhaps"}, `--welcome: bool value must be true, 1, yes, false, 0 or no but got "perhaps"`},

		{"variable duration", "", []string{"SLUICE_HEARTBEAT=soon"}, []string{"serve"}, `SLUICE_HEARTBEAT: "soon" is not a duration (want for example 30s, 1m30s or 500ms)`},
		{"variable choice", "", []string{"SLUICE_LOG_LEVEL=loud"}, []string{"serve"}, `SLUICE_LOG_LEVEL: "loud" is not one of debug, info, warn, error`},
		{"variable bool", "", []string{"SLUICE_WELCOME=perhaps"}, []string{"serve"}, `SLUICE_WELCOME: bool value must be true, 1, yes, false, 0 or no but got "perhaps"`},
		{"platform variable", "", []string{"REDIS_URL=host:6379"}, []string{"serve", "--session-store=redis"}, `REDIS_URL: not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)`},

		{"file key", "loops: 2\nheartbeet: 1s\n", nil, []string{"serve"}, `FILE:2: unknown key "heartbeet" (` + "`sluice config`" + ` prints all keys)`},
		{"file key by another spelling", "max_conns: 2\n", nil, []string{"serve"}, `FILE:1: unknown key "max_conns" (did you mean "max-conns"?)`},
		{"file names a file", "config: other.yaml\n", nil, []string{"serve"}, `FILE:1: unknown key "config" (a file cannot name another file)`},
		{"file has a command's flag", "show-secrets: true\n", nil, []string{"config"}, `FILE:1: unknown key "show-secrets" (` + "`sluice config`" + ` prints all keys)`},
		{"file value", "\n\nheartbeat: soon # or not\n", nil, []string{"serve"}, `FILE:3: heartbeat: "soon" is not a duration (want for example 30s, 1m30s or 500ms)`},
		{"file choice", "app: chat\n", nil, []string{"serve"}, `FILE:1: app: "chat" is not one of count, echo, backend`},
		{"file without a value", "loops:\n", nil, []string{"serve"}, `FILE:1: loops: has no value`},
		{"file with a list", "loops: [1]\n", nil, []string{"serve"}, `FILE:1: loops: want a single value`},
		{"file with a map", "allowed-origins: {a: b}\n", nil, []string{"serve"}, `FILE:1: allowed-origins: want a list or a single value`},
		{"file with a list of lists", "allowed-origins: [[a]]\n", nil, []string{"serve"}, `FILE:1: allowed-origins: item 1 of the list is not a plain value`},
		{"file sets twice", "loops: 1\nloops: 2\n", nil, []string{"serve"}, `FILE:2: loops: is set twice (first at FILE:1: loops)`},
		{"file is a list", "- loops\n", nil, []string{"serve"}, "FILE:1: want settings, one `name: value` a line"},
		{"file is not YAML", "loops: 1\n\tx", nil, []string{"serve"}, `FILE:2: not YAML: found a tab character that violates indentation`},
		{"file of two documents", "loops: 1\n---\nloops: 2\n", nil, []string{"serve"}, `FILE:2: a second YAML document; want one`},
		{"bad file value though a flag is given", "loops: x\n", nil, []string{"serve", "--loops=1"}, `FILE:1: loops: "x" is not a count (want a whole number from 0 to 2147483647)`},

		{"address", "", nil, []string{"serve", "--listen=8000"}, `--listen: "8000" is not an address (want host:port, or :port for all interfaces)`},
		{"host name", "", nil, []string{"serve", "--listen=example.com:80"}, `--listen: host "example.com": want an IP address, localhost or nothing`},
		{"named port", "", nil, []string{"serve", "--listen=:http"}, `--listen: ":http" is not an address (want host:port, or :port for all interfaces)`},
		{"port", "", nil, []string{"serve", "--listen=:65536"}, `--listen: ":65536" is not an address (want host:port, or :port for all interfaces)`},
		{"admin address", "", []string{"SLUICE_ADMIN=none"}, []string{"serve"}, `SLUICE_ADMIN: "none" is not an address (want host:port, or :port for all interfaces) (or off)`},
		{"one address twice", "admin: 127.0.0.1:8000\n", nil, []string{"serve", "--listen=127.0.0.1:8000"}, `FILE:1: admin: 127.0.0.1:8000 is the --listen address too; give it another port`},
		{"origin", "", nil, []string{"serve", "--allowed-origins=example.com"}, `--allowed-origins: "example.com" is not an origin: want scheme://host[:port] without a path, or *`},
		{"second origin", "allowed-origins: ['https://a.example', 'https://b.example/']\n", nil, []string{"serve"}, `FILE:1: allowed-origins: "https://b.example/" is not an origin: want scheme://host[:port] without a path, or *`},
		{"trusted proxies", "trusted-proxies: [10.0.0.0/8, 10.0.0.1/8]\n", nil, []string{"serve"}, `FILE:1: trusted-proxies: "10.0.0.1/8" is not a range of addresses: bits are set behind the first 8 (10.0.0.0/8?)`},
		{"TLS without an address", "", nil, []string{"serve", "--tls-cert=x"},
			`--tls-cert: there is no address with TLS: set --tls-listen`},
		{"a key without an address", "", []string{"SLUICE_TLS_KEY=x"}, []string{"serve"},
			`SLUICE_TLS_KEY: there is no address with TLS: set --tls-listen`},
		{"client CA without an address", "tls-client-ca: x\n", nil, []string{"serve"},
			`FILE:1: tls-client-ca: there is no address with TLS: set --tls-listen`},
		{"ticket keys without an address", "", nil, []string{"serve", "--tls-ticket-keys=x"},
			`--tls-ticket-keys: there is no address with TLS: set --tls-listen`},
		{"TLS without a certificate", "", nil, []string{"serve", "--tls-listen=:8443"},
			`--tls-cert: 0 certificates and 0 keys: want one key for each certificate, and one ` +
				`certificate at least`},
		{"TLS on the plain address", "", nil, []string{"serve", "--tls-listen=:8000"},
			`--tls-listen: :8000 is another address of this gateway too`},
		{"PROXY of nobody", "", nil, []string{"serve", "--proxy-protocol"}, `--proxy-protocol: whose headers count? Set --trusted-proxies to the addresses of the proxies`},
		{"allow", "", nil, []string{"serve", "--allow=example.com"}, `--allow: "example.com" is not a range of addresses: want for example 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1`},
		{"weak secret keeps itself", "", []string{"SLUICE_AUTH_JWT_KEY=hunter2"}, []string{"serve", "--auth-algorithm=HS256"}, `SLUICE_AUTH_JWT_KEY: the secret has 7 bytes; HS256 needs at least 32`},
		{"no algorithm", "", nil, []string{"serve", "--auth-jwt-key=hunter2"}, `--auth-algorithm: which algorithm are tokens signed with? HS256, RS256, ES256 or EdDSA`},
		{"no audience", "", nil, []string{"serve", "--auth-algorithm=RS256", "--auth-jwks-url=https://x"}, `--auth-jwks-url: needs --auth-issuer and --auth-audience: tokens that the issuer makes for others would count here too`},
		{"keys over http", "", nil, []string{"serve", "--auth-algorithm=RS256", "--auth-jwks-url=http://x", "--auth-issuer=x", "--auth-audience=x"}, `--auth-jwks-url: "http://x": keys that come over http could be anybody's (want https://…)`},
		{"cookie of any page", "", nil, []string{"serve", "--auth-algorithm=HS256", "--auth-jwt-key=hunter2", "--auth-cookie=c", "--allowed-origins=*"}, `--auth-cookie: browsers send cookies for any page; with --allowed-origins * any page could act as its reader`},
		{"issuer for nothing", "", nil, []string{"serve", "--auth-issuer=x"}, `--auth-issuer: nobody is asked for a token without --auth-jwt-key or --auth-jwks-url`},
		{"heartbeat too short", "", nil, []string{"serve", "--heartbeat=9ms"}, `--heartbeat: 9ms is too short (want 10ms or more)`},
		{"no handshake timeout", "", nil, []string{"serve", "--handshake-timeout=0"}, `--handshake-timeout: 0s is too short (want 10ms or more)`},
		{"spread beyond timeout", "drain-spread: 11s\n", nil, []string{"serve"}, `FILE:1: drain-spread: 11s is longer than the 8s that --drain-timeout 10s leaves for clients, which would cut off those told last`},
		{"timeout below the default spread", "", nil, []string{"serve", "--drain-timeout=1s"}, `--drain-spread: 1s is longer than the 750ms that --drain-timeout 1s leaves for clients, which would cut off those told last`},
		{"heartbeat too long", "", nil, []string{"serve", "--heartbeat=8760h1ns"}, `--heartbeat: 8760h0m0.000000001s is too long (want 8760h or less)`},
		{"commit interval too long", "", nil, []string{"serve", "--redis-commit-interval=1000001us"},
			`--redis-commit-interval: 1.000001s is too long (want 1s or less)`},
		{"drain timeout too long", "", nil, []string{"serve", "--drain-timeout=2562047h47m16s"}, `--drain-timeout: 2562047h47m16s is too long (want 8760h or less)`},
		{"origin that matches nothing", "", nil, []string{"serve", "--allowed-origins=https://api*.example.com"}, `--allowed-origins: "https://api*.example.com" is not an origin: * stands for the first names of a host, as in https://*.example.com, or alone for any origin`},
		{"redis without a URL", "", []string{"SLUICE_SESSION_STORE=redis"}, []string{"serve"}, `SLUICE_SESSION_STORE: redis needs --redis-url (or SLUICE_REDIS_URL, or REDIS_URL), for example redis://127.0.0.1:6379/0`},
		{"redis URL keeps its secret", "", nil, []string{"serve", "--session-store=redis", "--redis-url=http://u:hunter2@h"}, `--redis-url: not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)`},
		{"no service", "", nil, []string{"serve", "--app=backend"}, `--app: backend needs --backend-url or --route, for example --backend-url http://127.0.0.1:9000/ws/`},
		{"service for nothing", "", nil, []string{"serve", "--backend-url=http://h"}, `--backend-url: --app count has no service behind it (set --app backend)`},
		{"control for nothing", "control: 127.0.0.1:1\n", nil, []string{"serve", "--app=echo"}, `FILE:1: control: --app echo has no topics to publish to (set --app backend)`},
		{"service's URL", "", nil, []string{"serve", "--app=backend", "--backend-url=h:9000"}, `--backend-url: "h:9000" is not a backend's URL (want http://host:port/path)`},
		{"service's scheme", "", nil, []string{"serve", "--app=backend", "--backend-url=ftp://h"}, `--backend-url: "ftp://h": scheme "ftp" (want http, https or h2c)`},
		{"pattern in the URL", "", nil, []string{"serve", "--app=backend", "--backend-url=/a/=http://h"}, `--backend-url: want a URL; patterns belong into --route`},
		{"route twice", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h/a/", "--route=/a/=http://i"}, `--route: the paths /a/ go to two services`},
		{"backend key", "", []string{"SLUICE_BACKEND_KEY=base64:?"}, []string{"serve", "--app=backend", "--backend-url=http://h"}, `SLUICE_BACKEND_KEY: what follows base64: or whsec_ is not base64`},
		{"open control address", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h", "--control=:5561"}, `--control: :5561 can be reached from elsewhere, so it needs --control-key`},
		{"control address of clients", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h", "--listen=127.0.0.1:1", "--control=127.0.0.1:1"}, `--control: 127.0.0.1:1 is another address of this gateway too; give it another port`},
		{"slow policy", "", nil, []string{"serve", "--slow-policy=wait"}, `--slow-policy: "wait" is not a policy for slow subscribers (want close, latest or drop)`},
		{"slow policy of nothing", "", nil, []string{"serve", "--slow-policy==drop"}, `--slow-policy: "=drop" has no pattern before the = (want * for all topics)`},
		{"history without a time", "", nil, []string{"serve", "--topic-history=100"}, `--topic-history: "100" is not a size and a time, or several (want [PATTERN=]SIZE,TTL, for example room-*=100,5m)`},
		{"history too long", "", nil, []string{"serve", "--topic-history=a=10001,1m"}, `--topic-history: "a=10001,1m": "10001" is not a number of messages from 1 to 10000 (want [PATTERN=]SIZE,TTL, for example room-*=100,5m)`},
		{"history too short", "topic-history: a=1,999ms\n", nil, []string{"serve"}, `FILE:1: topic-history: "a=1,999ms": "999ms" is not a time of a second to a year (want [PATTERN=]SIZE,TTL, for example room-*=100,5m)`},
		{"broker for nothing", "", nil, []string{"serve", "--broker-url=redis://h"}, `--broker-url: --app count has no topics (set --app backend)`},
		{"channels for nothing", "", nil, []string{"serve", "--channels-layer=redis://h"}, `--channels-layer: --app count has no topics (set --app backend)`},
		{"channels keeps its secret", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h", "--channels-layer=http://u:hunter2@h"}, `--channels-layer: not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)`},
		{"channels keep the second's secret", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h", "--channels-layer=redis://h,http://u:hunter2@h"}, `--channels-layer: not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)`},
		{"broker keeps its secret", "", nil, []string{"serve", "--app=backend", "--backend-url=http://h", "--broker-url=http://u:hunter2@h"}, `--broker-url: not a Redis URL (want redis://, rediss:// or unix://, for example redis://user:password@host:6379/0)`},
		{"no topics", "", nil, []string{"serve", "--max-topics=0"}, `--max-topics: 0 is out of range (want 1 to 10000000)`},
		{"publications too long", "", nil, []string{"serve", "--max-publish=65MiB"}, `--max-publish: 65MiB is out of range (want 125 bytes to 64MiB)`},
		{"no requests", "", nil, []string{"serve", "--backend-requests=0"}, `--backend-requests: 0 is out of range (want 1 to 10000)`},
		{"redis for nothing", "", nil, []string{"serve", "--session-store=redis", "--redis-url=redis://h", "--app=echo"}, `--session-store: --app echo counts nothing, so there is nothing to keep in Redis; leave out one of the two`},
		{"message too small", "", nil, []string{"serve", "--max-message=124"}, `--max-message: 124 is out of range (want 125 bytes to 1GiB)`},
		{"socket buffer too small", "", nil, []string{"serve", "--socket-buffer=4095"}, `--socket-buffer: 4095 is out of range (want 4KiB to 64MiB, or 0 for the kernel's choice)`},
		{"queue too small", "", nil, []string{"serve", "--max-queue=1023"}, `--max-queue: 1023 is out of range (want 1KiB to 1GiB)`},
		{"no sessions", "", nil, []string{"serve", "--max-sessions=0"}, `--max-sessions: must be at least 1`},
		{"negative", "", nil, []string{"serve", "--loops", "-3"}, `--loops: "-3" is negative`},
		{"origin with a dot", "", nil, []string{"serve", "--allowed-origins=https://*."}, `--allowed-origins: "https://*." is not an origin: no name is left behind *.`},
		{"loops", "", nil, []string{"serve", "--loops=1025"}, `--loops: 1025 is too many (want 0 for one per core, and at most 1024)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := ""
			args := tc.args
			if tc.yaml != "" {
				path = writeFile(t, tc.yaml)
				args = append(args, "--config", path)
			}
			status, out, errs := runText(t, tc.environ, args...)
			want := "sluice: " + tc.want + "\n"
			if path != "" {
				errs = strings.ReplaceAll(errs, path, file)
			}
			if status != exitUsage || errs != want || out != "" {
				t.Errorf("got status %d, stderr %q, stdout %q\nwant status 2, stderr %q", status, errs, out, want)
			}
		})
	}
}

func TestConfigFileThatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	status, _, errs := runText(t, nil, "serve", "--config", missing)
	if want := fmt.Sprintf("sluice: read the configuration: open %s: no such file or directory\n", missing); status != exitUsage || errs != want {
		t.Errorf("missing: got %d %q, want 2 %q", status, errs, want)
	}
	status, _, errs = runText(t, nil, "serve", "--config", "/dev/zero")
	if want := "sluice: /dev/zero: larger than 1048576 bytes, so not a configuration file\n"; status != exitUsage || errs != want {
		t.Errorf("endless: got %d %q, want 2 %q", status, errs, want)
	}
	for _, empty := range []string{"", "# nothing\n", "---\n", "null\n"} {
		if status, _, errs = runText(t, nil, "config", "--config", writeFile(t, empty)); status != exitClean {
			t.Errorf("a file of %q: got %d %q, want 0", empty, status, errs)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	broken := []string{"SLUICE_CONFIG=/nowhere", "SLUICE_LOOPS=x"}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--help"}, "Usage: sluice <command>"},
		{[]string{"serve", "--help"}, "[$SLUICE_REDIS_URL, $REDIS_URL]"},
		{[]string{"config", "-h"}, "--show-secrets"},
		{[]string{"version"}, "sluice "},
	} {
		status, out, errs := runText(t, broken, tc.args...)
		if status != exitClean || errs != "" || !strings.Contains(out, tc.want) {
			t.Errorf("%q: got status %d, stderr %q, stdout\n%s\nwant %q", tc.args, status, errs, out, tc.want)
		}
	}
	_, out, _ := runText(t, nil, "serve", "--help")
	for _, f := range settingFlags(t) {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), "$"+variable(f.Name)) {
			t.Errorf("--help does not say $%s", variable(f.Name))
		}
	}
}

func TestStrangeVariables(t *testing.T) {
	src, err := readSources(settingFlags(t), []string{"SLUICE_LOOP=1", "SLUICE_LOOPS=1", "SLUICE_PORT_80_TCP=x", "SLUICE_SERVICE_HOST=x", "LOOPS=1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"SLUICE_LOOP"}; !reflect.DeepEqual(src.strange, want) {
		t.Errorf("got %q, want %q", src.strange, want)
	}
}

// A client that has vanished is let go of before the drain's time for clients is over, also when it
// was told last.
func TestDrainOutlastsPeersThatDoNotAnswer(t *testing.T) {
	for _, tc := range []struct{ timeout, spread, want time.Duration }{
		{10 * time.Second, time.Second, 3750 * time.Millisecond},
		{10 * time.Second, 0, 4500 * time.Millisecond},
		{7 * time.Second, time.Second, 1687500 * time.Microsecond},
		{time.Minute, 10 * time.Second, 5 * time.Second},
		{time.Minute, 50 * time.Second, 4500 * time.Millisecond},
		{time.Second, 0, time.Second}, // too little for any
	} {
		c := config{DrainTimeout: duration(tc.timeout), DrainSpread: duration(tc.spread)}
		got := c.closeTimeout()
		if got != tc.want {
			t.Errorf("timeout %v, spread %v: got %v, want %v", tc.timeout, tc.spread, got, tc.want)
		}
		if needed := tc.spread + got + 2*time.Second; tc.timeout > time.Second && needed >= c.peersTime() {
			t.Errorf("timeout %v, spread %v: %v needed, %v there", tc.timeout, tc.spread, needed, c.peersTime())
		}
	}
}
