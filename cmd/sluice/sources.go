package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxConfigFile bounds the configuration file, in bytes: a wrong path to something huge is an
// error, not a process that swallows the machine.
const maxConfigFile = 1 << 20

// setting is a value that does not come from the command line.
type setting struct {
	raw   string
	place string // as an error names it: "SLUICE_LOOPS", or "sluice.yaml:3: loops"
}

// sources holds what the environment and the configuration file say, by flag name, the stronger of
// the two only. It is the resolver that kong asks about flags which the command line leaves open;
// kong's own env tags are not used since a resolver would win over them, and a file must not.
type sources struct {
	settings map[string]setting
	strange  []string // SLUICE_ variables that no flag has: most likely misspelt
}

func (s *sources) Validate(*kong.Application) error { return nil }

func (s *sources) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if v, ok := s.settings[flag.Name]; ok {
		return v.raw, nil
	}
	return nil, nil
}

// readSources collects and judges the settings for flags. configFlag is what --config says, if it
// was given.
func readSources(flags []*kong.Flag, environ []string, configFlag string) (*sources, error) {
	s := &sources{settings: make(map[string]setting)}
	env := make(map[string]string)
	for _, kv := range environ {
		// A variable that is set and empty is what `VAR=${UNSET}` leaves behind in unit and compose
		// files.
		if k, v, ok := strings.Cut(kv, "="); ok && v != "" {
			env[k] = v
		}
	}
	path := configFlag
	if path == "" {
		path = env[variable("config")]
	}
	byName := make(map[string]*kong.Flag)
	for _, f := range flags {
		byName[f.Name] = f
	}
	if path != "" {
		if err := s.readFile(path, byName); err != nil {
			return nil, err
		}
	}
	known := make(map[string]bool)
	for _, f := range flags {
		for _, name := range variables(f.Name) {
			known[name] = true
			if v, ok := env[name]; ok {
				s.settings[f.Name] = setting{raw: v, place: name}
				break
			}
		}
	}
	for name := range env {
		// Kubernetes sets SLUICE_PORT… and SLUICE_SERVICE_… in every pod beside a service of this
		// name.
		if strings.HasPrefix(name, "SLUICE_") && !known[name] &&
			!strings.HasPrefix(name, "SLUICE_PORT") && !strings.HasPrefix(name, "SLUICE_SERVICE_") {
			s.strange = append(s.strange, name)
		}
	}
	slices.Sort(s.strange)
	return s, s.check(flags)
}

// variable is the name of the environment variable for a flag.
func variable(flag string) string {
	return "SLUICE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// variables lists the variables for a flag, strongest first.
func variables(flag string) []string {
	if flag == "redis-url" {
		return []string{variable(flag), "REDIS_URL"} // the second is what hosting platforms set
	}
	return []string{variable(flag)}
}

// check reads every setting the way that kong will, so that the error can say where it was written.
func (s *sources) check(flags []*kong.Flag) error {
	for _, f := range flags {
		v, ok := s.settings[f.Name]
		if !ok {
			continue
		}
		target := reflect.New(f.Target.Type()).Elem()
		scan := kong.Scan().PushTyped(v.raw, kong.FlagValueToken)
		if err := f.Mapper.Decode(&kong.DecodeContext{Value: f.Value, Scan: scan}, target); err != nil {
			return fmt.Errorf("%s: %w", v.place, err)
		}
		if f.Enum != "" && !slices.Contains(f.EnumSlice(), v.raw) {
			return fmt.Errorf("%s: %q is not one of %s", v.place, v.raw, strings.Join(f.EnumSlice(), ", "))
		}
	}
	return nil
}

// readFile takes over the settings of a YAML file. Every error names the file, and the line if
// there is one.
func (s *sources) readFile(path string, flags map[string]*kong.Flag) error {
	root, err := parseYAML(path)
	if err != nil || root == nil {
		return err
	}
	if root.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want settings, one `name: value` a line", path, root.Line)
	}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		place := fmt.Sprintf("%s:%d: %s", path, key.Line, key.Value)
		flag, ok := flags[key.Value]
		if !ok || !fileKey(key.Value) {
			return fmt.Errorf("%s:%d: unknown key %q%s", path, key.Line, key.Value, suggestion(key.Value, flags))
		}
		if old, ok := s.settings[key.Value]; ok {
			return fmt.Errorf("%s: is set twice (first at %s)", place, old.place)
		}
		raw, err := scalar(value, flag.IsSlice())
		if err != nil {
			return fmt.Errorf("%s: %w", place, err)
		}
		if raw == "" && flag.IsSlice() {
			continue // an empty list: the default
		}
		s.settings[key.Value] = setting{raw: raw, place: place}
	}
	return nil
}

// fileKey tells the settings of a gateway from the flags that are only about a command.
func fileKey(flag string) bool {
	return flag != "config" && flag != "help" && flag != "show-secrets" && flag != "diff"
}

// parseYAML returns the one document of the file, or nil when the file says nothing.
func parseYAML(path string) (*yaml.Node, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(text) > maxConfigFile {
		return nil, fmt.Errorf("%s: larger than %d bytes, so not a configuration file", path, maxConfigFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, rest yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, yamlError(path, err)
	}
	if err := dec.Decode(&rest); err == nil {
		return nil, fmt.Errorf("%s:%d: a second YAML document; want one", path, rest.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(path, err)
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

// yamlError turns "yaml: line 3: did not find…" into "sluice.yaml:3: did not find…".
func yamlError(path string, err error) error {
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
		return fmt.Errorf("%s:%d: not YAML: %s", path, line, text)
	}
	return fmt.Errorf("%s: not YAML: %s", path, text)
}

// scalar is the text of a value as it would stand on the command line; a list, where a list is
// wanted, becomes what commas separate there.
func scalar(n *yaml.Node, list bool) (string, error) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return "", errors.New("has no value")
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode && list:
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return "", fmt.Errorf("item %d of the list is not a plain value", len(items)+1)
			}
			items = append(items, item.Value)
		}
		return kong.JoinEscaped(items, ','), nil
	case list:
		return "", errors.New("want a list or a single value")
	}
	return "", errors.New("want a single value")
}

// suggestion names the flag that was probably meant.
func suggestion(key string, flags map[string]*kong.Flag) string {
	if key == "config" {
		return " (a file cannot name another file)"
	}
	plain := func(s string) string { return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(s)) }
	for name := range flags {
		if fileKey(name) && plain(name) == plain(key) {
			return fmt.Sprintf(" (did you mean %q?)", name)
		}
	}
	return " (`sluice config` prints all keys)"
}
