// Package units writes numbers for people: counts, times and sizes in few characters.
package units

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Number writes a count with commas: 19,000.
func Number[T int | int64](n T) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Compact writes a number in few characters: 950, 1.5k, 20k, 3M.
func Compact(v float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= u.size*0.99995 {
			return Trim(v/u.size) + u.name
		}
	}
	return Trim(v)
}

// Trim writes three significant digits, without zeros at the end.
func Trim(v float64) string {
	s := strconv.FormatFloat(v, 'g', 3, 64)
	f, _ := strconv.ParseFloat(s, 64)
	return strconv.FormatFloat(f, 'f', -1, 64)
}

// Micros writes a time given in microseconds: 85 µs, 1.2 ms, 3 s.
func Micros(us float64) string {
	switch {
	case math.Abs(us) >= 999_500:
		return Trim(us/1e6) + " s"
	case math.Abs(us) >= 999.5:
		return Trim(us/1e3) + " ms"
	}
	return Trim(us) + " µs"
}

// Bytes writes a size in bytes: 512 B, 8,217 B, 20 MiB. Sizes below 10 KiB are written in full:
// what a connection costs is compared to the byte.
func Bytes(b float64) string {
	if math.Abs(b) < 10<<10 {
		return Number(int64(math.Round(b))) + " B"
	}
	for _, u := range []struct {
		size float64
		name string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}} {
		if math.Abs(b) >= u.size {
			return Trim(b/u.size) + " " + u.name
		}
	}
	return Trim(b/(1<<10)) + " KiB"
}

// Seconds writes a time given in seconds: 2.50 s.
func Seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

// Percent writes a percentile's name: p50, p99.9.
func Percent(p float64) string { return "p" + strconv.FormatFloat(p, 'f', -1, 64) }

// Day writes a moment: 2006-01-02 15:04 UTC.
func Day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
