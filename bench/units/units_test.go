package units

import "testing"

func TestFormats(t *testing.T) {
	for got, want := range map[string]string{
		Compact(950): "950", Compact(1500): "1.5k", Compact(999999): "1M", Compact(-2e6): "-2M",
		Compact(0): "0", Micros(85.2): "85.2 µs", Micros(999.9): "1 ms", Micros(1234): "1.23 ms",
		Micros(2.5e6): "2.5 s", Bytes(512.4): "512 B", Bytes(8217): "8,217 B", Bytes(-117): "-117 B",
		Bytes(10240): "10 KiB", Bytes(20 << 20): "20 MiB", Number(999): "999",
		Number(19000): "19,000", Number(int64(-1234567)): "-1,234,567", Number(-100): "-100",
		Seconds(1.005): "1.00 s", Percent(99.9): "p99.9",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
