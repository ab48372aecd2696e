package bench

import (
	"bytes"
	"net/http"
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
