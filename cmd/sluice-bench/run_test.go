package main

import (
	"testing"
	"time"
)

func TestParseStart(t *testing.T) {
	now := time.Date(2026, 11, 25, 20, 33, 20, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-11-25T22:00:00+01:00": "2026-11-25T21:00:00Z",
		"20:34":                     "2026-11-25T20:34:00Z",
		"20:33:21":                  "2026-11-25T20:33:21Z",
		"20:33:19":                  "2026-11-26T20:33:19Z",
		"every:5m":                  "2026-11-25T20:35:00Z",
		"every:1h":                  "2026-11-25T21:00:00Z",
	} {
		got, err := parseStart(text, now)
		if err != nil || got.Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	if got, err := parseStart("", now); err != nil || !got.IsZero() {
		t.Errorf("nothing: %v, %v; want now", got, err)
	}
	for _, text := range []string{"soon", "25:00", "every:x", "every:0s", "every:25h", "2026-11-25"} {
		if got, err := parseStart(text, now); err == nil {
			t.Errorf("%s: %v, want an error", text, got)
		}
	}
}
