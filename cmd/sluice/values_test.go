package main

import (
	"encoding"
	"fmt"
	"math"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for _, tc := range []struct {
		text string
		want size
	}{
		{"0", 0}, {"65536", 65536}, {"64KiB", 65536}, {"64k", 65536}, {"64K", 65536}, {"64 KiB", 65536}, {"1MiB", 1 << 20},
		{"2g", 2 << 30}, {"1GiB", 1 << 30}, {"9223372036854775807", math.MaxInt64}, {"8589934591g", 8589934591 << 30},
	} {
		var s size
		if err := s.UnmarshalText([]byte(tc.text)); err != nil || s != tc.want {
			t.Errorf("%q: got %d, %v, want %d", tc.text, s, err, tc.want)
		}
	}
	for _, text := range []string{"", "k", "-1", "1.5k", "64KB", "64kb", "0x10", "1e3", " 1", "9223372036854775808", "8589934592g", "18014398509481984k", "1kk"} {
		var s size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, s)
		}
	}
	for s, want := range map[size]string{0: "0", 1: "1", 1023: "1023", 1024: "1KiB", 65537: "65537", 3 << 20: "3MiB", 1 << 30: "1GiB"} {
		if got := s.String(); got != want {
			t.Errorf("%d: got %q, want %q", int(s), got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0s", "off": "0s", "30s": "30s", "60s": "1m", "90m": "1h30m", "1h": "1h", "10m": "10m", "100h": "100h", "500ms": "500ms", "1h0m1s": "1h0m1s",
	} {
		var d duration
		if err := d.UnmarshalText([]byte(text)); err != nil || d.String() != want {
			t.Errorf("%q: got %v, %v, want %s", text, d, err, want)
		}
		if back, err := time.ParseDuration(d.String()); err != nil || back != time.Duration(d) {
			t.Errorf("%q: %v reads back as %v, %v", text, d, back, err)
		}
	}
	for _, text := range []string{"", "30", "-1s", "1 s", "1d", "never", "3000000h"} {
		var d duration
		if err := d.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, d)
		}
	}
}

func TestCount(t *testing.T) {
	for text, want := range map[string]count{"0": 0, "19000": 19000, "2147483647": math.MaxInt32} {
		var c count
		if err := c.UnmarshalText([]byte(text)); err != nil || c != want {
			t.Errorf("%q: got %d, %v, want %d", text, c, err, want)
		}
	}
	for _, text := range []string{"", "-1", "1k", "1.0", "2147483648", "0x1", "auto"} {
		var c count
		if err := c.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, c)
		}
	}
}

// Whatever a value reads, it prints as a text that it reads as the same value.
func FuzzValues(f *testing.F) {
	f.Add("64KiB")    // a size
	f.Add("1h30m")    // a duration with a tail of zeros in time.Duration's own text
	f.Add("10m0.5ns") // the smallest unit
	f.Add("off")      // a word for 0
	f.Add("007")      // leading zeros
	f.Fuzz(func(t *testing.T, text string) {
		for _, v := range []interface {
			encoding.TextUnmarshaler
			text() string
		}{&fuzzed[size, *size]{}, &fuzzed[duration, *duration]{}, &fuzzed[count, *count]{}} {
			if v.UnmarshalText([]byte(text)) != nil {
				continue
			}
			first := v.text()
			if err := v.UnmarshalText([]byte(first)); err != nil {
				t.Fatalf("%q reads as %s, which does not read back: %v", text, first, err)
			}
			if second := v.text(); second != first {
				t.Fatalf("%q reads as %s, which reads back as %s", text, first, second)
			}
		}
	})
}

// fuzzed is a value of type T with its text.
type fuzzed[T any, P interface {
	*T
	encoding.TextUnmarshaler
}] struct{ v T }

func (f *fuzzed[T, P]) UnmarshalText(text []byte) error { return P(&f.v).UnmarshalText(text) }

func (f *fuzzed[T, P]) text() string { return fmt.Sprint(f.v) }
