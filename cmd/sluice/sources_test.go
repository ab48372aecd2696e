package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Whatever a file holds, it is read as settings or refused in one line.
func FuzzConfigFile(f *testing.F) {
	f.Add("loops: 2\nallowed-origins: [https://a.example, https://b.example]\n") // as meant
	f.Add("a: &a [*a]\n")                                                        // an alias of itself
	f.Add("loops: &x 1\nmax-conns: *x\n")                                        // an alias of a value
	f.Add("? {a: b}\n: c\n")                                                     // a key that is a map
	f.Add("<<: {loops: 1}\n")                                                    // a merge key
	f.Add("loops: !!binary aGk=\n")                                              // a tag
	f.Add("--- 1\n--- 2\n")                                                      // two documents
	f.Add("\xff\xfe\x00")                                                        // another encoding
	f.Add("loops: |\n  1\n  2\n")                                                // text of several lines
	path := filepath.Join(f.TempDir(), "fuzz.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		status, _, errs := runText(t, nil, "config", "--config", path)
		switch {
		case status == exitClean && errs == "":
		case status == exitUsage && strings.Count(errs, "\n") == 1 && strings.HasSuffix(errs, "\n"):
		default:
			t.Errorf("%q: got status %d and %q, want settings, or one line and status 2", text, status, errs)
		}
	})
}

func TestYAMLErrorNamesTheLine(t *testing.T) {
	for _, tc := range []struct{ err, want string }{
		{"yaml: line 3: mapping values are not allowed in this context", "f.yaml:3: not YAML: mapping values are not allowed in this context"},
		{"yaml: control characters are not allowed", "f.yaml: not YAML: control characters are not allowed"},
	} {
		if got := yamlError("f.yaml", errors.New(tc.err)).Error(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	// The wording above is the library's.
	var n yaml.Node
	if err := yaml.Unmarshal([]byte("a: b: c"), &n); err == nil || !strings.HasPrefix(err.Error(), "yaml: ") {
		t.Errorf("the library says %q, which no longer begins with yaml:", err)
	}
}
