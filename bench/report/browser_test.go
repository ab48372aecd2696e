package report

import (
	"strings"
	"testing"

	"sluice/bench/report/reporttest"
)

func TestPageInBrowser(t *testing.T) {
	dom, console := reporttest.Open(t, render(t, sample(t)))
	if len(console) > 0 {
		t.Errorf("the page complains on the console:\n%s", strings.Join(console, "\n"))
	}
	if got := strings.Count(dom, `<svg class="chart"`); got != 6 {
		t.Errorf("%d charts in the document, want 6", got)
	}
	for _, want := range []string{">p99.99</text>", ">seconds since the start</text>", "All as it should be"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the document does not contain %q", want)
		}
	}
}

// The other way round: what TestPageInBrowser looks for is seen when it is there.
func TestBrowserSeesConsoleErrors(t *testing.T) {
	_, console := reporttest.Open(t, `<!doctype html><script>console.error("on purpose")</script>`)
	if len(console) == 0 || !strings.Contains(console[0], "on purpose") {
		t.Errorf("a console error was not seen: %q", console)
	}
	policy := `<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src 'none'"><img src="http://127.0.0.1:1/x.png">`
	if _, console = reporttest.Open(t, policy); len(console) == 0 {
		t.Error("a blocked load was not seen")
	}
}
