package gateway

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"sluice/gateway/gatewaytest"
	"sluice/gateway/tls13"
)

// TestTLSKeysShare: the loops divide the AEADs that all may hold, but each has the least.
func TestTLSKeysShare(t *testing.T) {
	for _, tc := range []struct{ loops, want int }{
		{1, tlsKeysInAll},
		{2, tlsKeysInAll / 2},
		{tlsKeysInAll / tls13.DefaultKeys, tls13.DefaultKeys},
		{tlsKeysInAll/tls13.DefaultKeys + 1, tls13.DefaultKeys},
	} {
		s := serveTLS(t, Config{Loops: 1}, true)
		onLoops(s, func(w *worker) {
			var k tlsKeys
			k.init(w.loop, tc.loops)
			if k.Max != tc.want {
				t.Errorf("%d loops: got %d AEADs a loop, want %d", tc.loops, k.Max, tc.want)
			}
		})
	}
}

// TestTLSKeysOfQuietConnections: a connection that goes quiet gives its AEADs back, and goes on
// when it speaks again. The timer is armed while there are any.
func TestTLSKeysOfQuietConnections(t *testing.T) {
	s := serveTLS(t, Config{Loops: 1, Heartbeat: time.Hour}, true)
	c, _ := openTLS(t, s, tls.VersionTLS13)
	echo := func(text string) {
		t.Helper()
		c.Write(gatewaytest.Text(text))
		c.Expect(fmt.Sprintf("text %s", text))
	}
	check := func(when string, held int, armed bool) {
		t.Helper()
		// The timer follows at the end of the round, which may be after the client has its echo.
		await(t, fmt.Sprintf("%s: %d AEADs held, timer armed: %v", when, held, armed), func() (as bool) {
			onLoops(s, func(w *worker) {
				as = w.tlsKeys.Held() == held && w.tlsKeys.timer.Armed() == armed
			})
			return as
		})
	}
	expire := func() { onLoops(s, func(w *worker) { w.loop.Disarm(&w.tlsKeys.timer); w.tlsKeys.Expire() }) }
	for range 2 {
		echo("once")
		check("after a message", 2, true)
		expire()
		check("used since the last time", 2, true)
		expire()
		check("not used since", 0, false)
	}
	echo("again")
	c.Close()
	quietTLS(t, s)
}
