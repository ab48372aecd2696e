package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The types of settings. Each reads the same text from a flag, a variable or a file, and writes
// text that it reads back as the same value.

// duration is a time that is not negative; "off" reads as 0.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	if string(text) == "off" {
		*d = 0
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration (want for example 30s, 1m30s or 500ms)", text)
	}
	*d = duration(v)
	return nil
}

// String writes 1h where time.Duration writes 1h0m0s.
func (d duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// size is a number of bytes. A bare k, M or G is a power of 1024, as KiB, MiB and GiB are; KB is
// refused, since half of the world reads it as 1000.
type size int

var sizeUnits = []struct {
	suffix string
	bytes  int
}{
	{"gib", 1 << 30}, {"mib", 1 << 20}, {"kib", 1 << 10},
	{"g", 1 << 30}, {"m", 1 << 20}, {"k", 1 << 10},
}

func (s *size) UnmarshalText(text []byte) error {
	number, unit := strings.ToLower(string(text)), 1
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSuffix(n, " "), u.bytes
			break
		}
	}
	v, err := strconv.ParseUint(number, 10, 63)
	if err != nil {
		return fmt.Errorf("%q is not a size (want for example 65536, 64KiB or 1MiB)", text)
	}
	if v > uint64(math.MaxInt/unit) {
		return fmt.Errorf("%q is too large for a size", text)
	}
	*s = size(int(v) * unit)
	return nil
}

func (s size) String() string {
	for _, u := range []struct {
		name  string
		bytes size
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if s >= u.bytes && s%u.bytes == 0 {
			return strconv.Itoa(int(s/u.bytes)) + u.name
		}
	}
	return strconv.Itoa(int(s))
}

// count is a number of things, 0 or more.
type count int

func (c *count) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return fmt.Errorf("%q is not a count (want a whole number from 0 to %d)", text, math.MaxInt32)
	}
	*c = count(v)
	return nil
}
