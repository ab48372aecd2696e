package backend

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Messages behind a request that has had no answer in time are not sent: the backend may still
// handle it, after them. Behind one that was answered, with whatever, they are.
func TestNothingOvertakesAStalledRequest(t *testing.T) {
	for name, tt := range map[string]struct {
		status  int // 0: no answer in time
		want    string
		follows bool
	}{
		"stalled":   {0, "closed 1013", false},
		"gone away": {http.StatusGatewayTimeout, "closed 1013", false},
		"broken":    {http.StatusInternalServerError, "closed 1011", true},
	} {
		t.Run(name, func(t *testing.T) {
			gate, first := make(chan struct{}), make(chan struct{})
			b := newService(t, func(w http.ResponseWriter, r *http.Request, body string) {
				if strings.Contains(body, "first") {
					close(first)
					select {
					case <-gate:
					case <-r.Context().Done():
						return
					}
					w.WriteHeader(tt.status)
					return
				}
				echo(w, body)
			})
			timeout := testPatience
			if tt.status == 0 {
				timeout = 500 * time.Millisecond
			}
			e := newEdge(t, Config{Timeout: timeout}, b.URL)
			c := e.dial(t, "/ws/chat/")
			c.send("first")
			<-first
			c.send("second")
			await(t, "the second waits", func() bool { return waitingBytes(e) > 0 })
			if tt.status != 0 {
				close(gate)
			}
			c.want(tt.want)
			await(t, "the backend has heard of the end", func() bool {
				return strings.Contains(b.bodies(), "CLOSE") || strings.Contains(b.bodies(), "DISCONNECT")
			})
			if got := strings.Contains(b.bodies(), "second"); got != tt.follows {
				t.Errorf("the second message came: %v, want %v\n%s", got, tt.follows, b.bodies())
			}
			await(t, "nothing is held", func() bool { return buffered.Load() == 0 })
		})
	}
}
