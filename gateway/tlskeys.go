package gateway

import (
	"time"

	"sluice/gateway/tls13"
	"sluice/poller"
)

// The AEADs of connections that are busy are worth their memory: to build one costs as much CPU as
// all else of a message, and 1.3 KB of garbage. Those of idle connections are not.
const (
	// tlsKeysInAll bounds the AEADs of all loops together, 42 MB: 16,384 connections that are
	// busy at one time. More of them build their AEADs for each message.
	tlsKeysInAll = 32768

	// tlsKeysIdle is how long an AEAD is kept at least after its last use; at most twice as long.
	tlsKeysIdle = 5 * time.Second
)

// tlsKeys are the AEADs of a loop's connections. The timer is armed while any is held.
type tlsKeys struct {
	tls13.Keys
	loop  *poller.Loop
	timer poller.Timer
}

// init prepares k, on the loop.
func (k *tlsKeys) init(loop *poller.Loop, loops int) {
	k.Max = max(tlsKeysInAll/loops, tls13.DefaultKeys)
	k.loop = loop
	k.timer.Init(k)
	loop.OnRound(k.settle)
}

// settle arms or disarms the timer: at the end of each round, and when a connection has ended.
func (k *tlsKeys) settle() {
	if held := k.Held() > 0; held != k.timer.Armed() {
		if held {
			k.loop.Arm(&k.timer, tlsKeysIdle)
		} else {
			k.loop.Disarm(&k.timer)
		}
	}
}

// Expire implements poller.Expirer.
func (k *tlsKeys) Expire() { k.Trim() }
