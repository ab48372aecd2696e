package gateway

// refusalReason is why a request did not become a WebSocket: the label of its metric.
type refusalReason uint8

const (
	refusedRequest refusalReason = iota // malformed
	refusedHeaders                      // too many or too large
	refusedTimeout
	refusedPath
	refusedMethod
	refusedUpgrade
	refusedHost
	refusedOrigin
	refusedSessionID
	refusedSessionRate
	refusedStore
	refusedFull
	refusedDraining
	refusedHandler     // it did not answer in time
	refusedProxy       // no PROXY header where one must be
	refusedAddress     // Clients.Allow, Clients.Deny
	refusedTooMany     // of one address
	refusedApplication // NewRefusal, NewResponse
	refusalReasons
)

var refusalNames = [refusalReasons]string{
	refusedRequest:     "request",
	refusedHeaders:     "headers",
	refusedTimeout:     "timeout",
	refusedPath:        "path",
	refusedMethod:      "method",
	refusedUpgrade:     "upgrade",
	refusedHost:        "host",
	refusedOrigin:      "origin",
	refusedSessionID:   "session_id",
	refusedSessionRate: "session_rate",
	refusedStore:       "store",
	refusedFull:        "full",
	refusedDraining:    "draining",
	refusedHandler:     "handler",
	refusedProxy:       "proxy",
	refusedAddress:     "address",
	refusedTooMany:     "address_rate",
	refusedApplication: "application",
}

func (r refusalReason) String() string { return refusalNames[r] }

// failure is why a connection failed, or what failed in the gateway: the label of its metric.
type failure uint8

const (
	failedProtocol failure = iota
	failedUTF8
	failedCloseFrame
	failedControlRate
	failedMessageSize
	failedFragments
	failedMessageTimeout
	failedMessageRate
	failedDeflate // what is no DEFLATE stream
	failedMemory
	failedDeadPeer
	failedTLS      // records that cannot be read
	failedRegister // a new socket with the reactor
	failures
)

var failureNames = [failures]string{
	failedProtocol:       "protocol",
	failedUTF8:           "utf8",
	failedCloseFrame:     "close_frame",
	failedControlRate:    "control_rate",
	failedMessageSize:    "message_size",
	failedFragments:      "fragments",
	failedMessageTimeout: "message_timeout",
	failedMessageRate:    "message_rate",
	failedDeflate:        "deflate",
	failedMemory:         "memory",
	failedDeadPeer:       "dead_peer",
	failedTLS:            "tls",
	failedRegister:       "register",
}

func (f failure) String() string { return failureNames[f] }

// slowReason is why a slow consumer was cut off.
type slowReason uint8

const (
	slowOverflow slowReason = iota // its queue was full and there was more to send
	slowStall                      // it took nothing for StallTimeout
	slowMemory                     // it held much when the loop's share of MaxBuffered was full
	slowReasons
)

var slowNames = [slowReasons]string{
	slowOverflow: "overflow",
	slowStall:    "stall",
	slowMemory:   "memory",
}

func (r slowReason) String() string { return slowNames[r] }
