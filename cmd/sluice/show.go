package main

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// printConfig writes the values of flags as YAML that --config reads back, each with its origin. A
// key, or a URL with a password, is a comment unless secrets is set: fed back, a URL with a masked
// password would fail far from here, while a missing one is an error that says what to do.
func printConfig(w io.Writer, flags []*kong.Flag, from originOf, secrets bool) error {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	var group string
	var comments []string // above the next key
	for _, f := range flags {
		if !fileKey(f.Name) {
			continue
		}
		if f.Group != nil && f.Group.Key != group {
			group = f.Group.Key
			comments = append(comments, "# "+strings.TrimSuffix(f.Group.Title, ":"))
		}
		value := valueNode(f)
		value.LineComment = from.comment(f.Name)
		masked, ok := maskSecret(f.Name, value.Value)
		for _, item := range value.Content {
			if masked, ok = maskSecret(f.Name, item.Value); ok {
				break
			}
		}
		if ok && !secrets {
			comments = append(comments, fmt.Sprintf("# %s: %s # %s; --show-secrets shows it", f.Name, masked, value.LineComment))
			continue
		}
		key := textNode(f.Name)
		key.HeadComment = strings.Join(comments, "\n")
		comments = nil
		doc.Content = append(doc.Content, key, value)
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	// The encoder has no way to leave a line empty before a heading.
	_, err = w.Write(bytes.ReplaceAll(text, []byte("\n# "), []byte("\n\n# ")))
	return err
}

func (o originOf) comment(flag string) string {
	p, ok := o.places[flag]
	switch {
	case !ok:
		return "default"
	case strings.HasPrefix(p, "--"):
		return "flag"
	case strings.HasSuffix(p, ": "+flag):
		return "file " + strings.TrimSuffix(p, ": "+flag)
	}
	return "environment " + p
}

// valueNode is the value of f as text; the encoder quotes what YAML would otherwise read as
// something else.
func valueNode(f *kong.Flag) *yaml.Node {
	switch v := f.Target.Interface().(type) {
	case []string:
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range v {
			list.Content = append(list.Content, textNode(item))
		}
		return list
	case string:
		return textNode(v)
	default: // bool, count, duration, size
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)}
	}
}

func textNode(s string) *yaml.Node {
	// The tag makes the encoder quote a text that would read as a number, a bool or null.
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
}

// maskSecret hides what of a setting must not be shown; ok is false when there is nothing to hide.
func maskSecret(flag, value string) (masked string, ok bool) {
	switch flag {
	case "redis-url", "broker-url", "channels-layer":
		return maskPassword(value)
	case "auth-jwt-key":
		return "…", value != "" && !strings.HasPrefix(value, "file:")
	case "admin-token", "backend-key", "control-key", "session-key":
		return "…", value != ""
	}
	return value, false
}

// maskPassword hides the password of a URL; ok is false when there is none.
func maskPassword(raw string) (masked string, ok bool) {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)", true
	}
	// Clients take a password as a query parameter too.
	secret := u.RawQuery != "" && strings.Contains(strings.ToLower(u.RawQuery), "password")
	if secret {
		u.RawQuery = "…"
	}
	if _, has := u.User.Password(); has {
		secret = true
	}
	return u.Redacted(), secret
}
