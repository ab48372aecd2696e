package client

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func TestPrefixes(t *testing.T) {
	p, err := NewPrefixes([]string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::ffff:198.51.100.0/120", "0.0.0.0/32"})
	if err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]bool{
		"9.255.255.255": false, "10.0.0.0": true, "10.255.255.255": true, "11.0.0.0": false,
		"192.0.2.0": false, "192.0.2.1": true, "192.0.2.2": false, "::ffff:10.1.2.3": true,
		"2001:db7:ffff::": false, "2001:db8::": true, "2001:db8:ffff::1": true, "2001:db9::": false,
		"198.51.100.255": true, "198.51.101.0": false, "fe80::1%lo": false, "0.0.0.0": true, "0.0.0.1": false,
	} {
		if got := p.Contains(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: got %v, want %v", ip, got, want)
		}
	}
	var none *Prefixes
	if none.Contains(netip.MustParseAddr("10.0.0.1")) || p.Contains(netip.Addr{}) {
		t.Error("an empty set, or no address, matches")
	}
	all, err := NewPrefixes([]string{"0.0.0.0/0", "::/0"})
	if err != nil || !all.Contains(netip.MustParseAddr("1.2.3.4")) || !all.Contains(netip.MustParseAddr("fe80::1")) {
		t.Errorf("ranges of everything: %v", err)
	}
	for _, bad := range []string{"", "10.0.0.1/8", "10.0.0.0/33", "example.com", "fe80::1%lo", "::ffff:0.0.0.0/95", "10.0.0.0/08"} {
		if _, err := NewPrefixes([]string{bad}); err == nil {
			t.Errorf("%q is taken for a range", bad)
		}
	}
}

func TestGroup(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "fe80::1%lo": "fe80::",
	} {
		if got := Group(netip.MustParseAddr(ip)).String(); got != want {
			t.Errorf("%s: got %s, want %s", ip, got, want)
		}
	}
}

func TestBucketAtItsLimit(t *testing.T) {
	rate := PerSecond(10, 3)
	var b Bucket
	now := time.Hour
	for i := range 3 {
		if !b.Take(rate, now) {
			t.Fatalf("token %d of 3 is missing", i+1)
		}
	}
	if b.Take(rate, now) || b.Take(rate, now+99*time.Millisecond) {
		t.Error("a fourth token within the time that one takes")
	}
	if !b.Take(rate, now+100*time.Millisecond) || b.Take(rate, now+100*time.Millisecond) {
		t.Error("not one token after the time that one takes")
	}
	for i, later := 0, now+time.Hour; i < 4; i++ {
		if got := b.Take(rate, later); got != (i < 3) {
			t.Errorf("token %d of a rested bucket: got %v, want three tokens", i+1, got)
		}
	}
}

func TestRatesByGroup(t *testing.T) {
	r := NewRates(PerSecond(1, 2))
	a, b := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff")
	other := netip.MustParseAddr("2001:db8:0:1::1")
	if !r.Take(a, 1) || !r.Take(b, 1) || r.Take(a, 1) {
		t.Error("two addresses of one /64 do not share a bucket of two")
	}
	if !r.Take(other, 1) {
		t.Error("another /64 shares it too")
	}
	r.Return(a)
	if !r.Take(b, 1) || r.Take(b, 1) {
		t.Error("what was given back is not there once")
	}
	r.Return(netip.MustParseAddr("192.0.2.1")) // never seen: nothing to give back
	if none := NewRates(Rate{}); !none.Take(a, 1) {
		t.Error("no rate limits")
	}
}

// TestRatesUnderFlood: very many addresses take no more memory, and do not empty the bucket of one
// that comes with them; one that is over its limit stays so while they are few.
func TestRatesUnderFlood(t *testing.T) {
	r := NewRates(PerSecond(1, 2))
	victim, abuser := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for range 3 {
		r.Take(abuser, 1)
	}
	address := func(i int) netip.Addr {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x0a000000+uint32(i))
		return netip.AddrFrom4(a)
	}
	for i := range 1000 {
		r.Take(address(i), 1)
	}
	if r.Take(abuser, 1) {
		t.Error("a thousand others have refilled the bucket of one over its limit")
	}
	allocs := testing.AllocsPerRun(1, func() {
		for i := range 60_000 {
			r.Take(address(i), 1)
		}
	})
	if allocs > 10 {
		t.Errorf("60,000 addresses allocate %v times", allocs)
	}
	if !r.Take(victim, 1) {
		t.Error("others have emptied the bucket of an address")
	}
}

func TestCountsAtTheirLimit(t *testing.T) {
	c := NewCounts(3)
	ip := netip.MustParseAddr("2001:db8::1")
	for i := range 3 {
		if !c.Add(netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i))) {
			t.Fatalf("connection %d of 3 is refused", i+1)
		}
	}
	if c.Add(ip) {
		t.Error("a fourth is held")
	}
	if !c.Add(netip.MustParseAddr("2001:db8:0:1::")) {
		t.Error("another /64 is refused")
	}
	c.Remove(ip)
	if !c.Add(ip) || c.Add(ip) || c.Held(ip) != 3 {
		t.Error("the room of one that has left is not there once")
	}
	var none *Counts
	none.Remove(ip)
	if !none.Add(ip) || NewCounts(0) != nil {
		t.Error("no limit limits")
	}
}

// TestCountsForgetNobodyAndKeepNothing: loops come and go at once.
func TestCountsForgetNobodyAndKeepNothing(t *testing.T) {
	c := NewCounts(1 << 20)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 5_000 {
				ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
				c.Add(ip)
				defer c.Remove(ip)
			}
		})
	}
	all.Wait()
	for i := range c.shards {
		if c.shards[i].held != nil {
			t.Fatalf("shard %d holds %v", i, c.shards[i].held)
		}
	}
}

func BenchmarkRatesTake(b *testing.B) {
	r := NewRates(PerSecond(200, 4000))
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			r.Take(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), time.Duration(i))
		}
	})
}
