package bench

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

func TestJSONHasNoHeaderValues(t *testing.T) {
	r := Result{Spec: Spec{Headers: http.Header{"Authorization": {"Bearer secret"}}}}
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.Contains(got, "secret") || !strings.Contains(got, "Authorization") {
		t.Errorf("want the header's name and not its value: %s", got)
	}
	if r.Spec.Headers.Get("Authorization") != "Bearer secret" {
		t.Error("writing changed the result")
	}
}

// Keys come from the other side: a server that closes with every code there is must not fill the tool's memory or its reports.
func TestKindsAreBounded(t *testing.T) {
	m := map[string]int64{}
	for i := range 1000 {
		count(m, strconv.Itoa(3000+i), "others")
		count(m, "3000", "others")
	}
	want(t, "kinds", int64(len(m)), kinds+1)
	want(t, "others", m["others"], 1000-kinds)
	want(t, "a known one", m["3000"], 1001)
}

func TestTextSaysOnlyWhatIsKnown(t *testing.T) {
	r := Result{Spec: Spec{Scenario: Count, Conns: 53, Targets: strings.Fields(strings.Repeat("ws://a:1/ ", 53))}, Tool: ToolUsage{Processes: 2}}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"to ws://a:1/ ws://a:1/ ws://a:1/ … (53 URLs) (cut short: so far)\n", "this tool: 2 process(es)\n", "\n  ok so far\n"} {
		if !strings.Contains(b.String(), part) {
			t.Errorf("%q is not in %s", part, b.String())
		}
	}
}
