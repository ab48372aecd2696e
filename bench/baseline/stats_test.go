package baseline

import (
	"encoding/json"
	"runtime"
	"slices"
	"testing"
)

// It is compared with what sluice tells of itself, which is the longest of runtime.MemStats and not
// the bound of a histogram's bucket.
func TestLongestPauseIsOneThatWas(t *testing.T) {
	runtime.GC()
	var before, after runtime.MemStats
	var st Stats
	for done := false; !done; done = before.NumGC == after.NumGC {
		runtime.ReadMemStats(&before)
		if err := json.Unmarshal(newService(Options{}).stats(), &st); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
	}
	if want := slices.Max(after.PauseNs[:]); st.GCPauseMaxNS != want || want == 0 {
		t.Errorf("got %d ns, want %d", st.GCPauseMaxNS, want)
	}
}
