package gateway_test

import (
	"sluice/gateway"
	"sluice/gateway/count"
	"sluice/sessions"
)

func init() {
	gateway.Count = func(store sessions.Store) gateway.App { return count.App{Store: store} }
}
