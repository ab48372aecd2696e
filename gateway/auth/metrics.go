package auth

import (
	"fmt"

	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway"
)

var (
	tokens = func() (series [verdicts]*metrics.Counter) {
		for i := range series {
			name := fmt.Sprintf(`sluice_auth_tokens_total{result=%q}`, verdict(i).String())
			series[i] = metrics.NewCounter(name)
		}
		return series
	}()

	// Of readings of a key set: those that succeeded, and those that failed.
	keyReads = [2]*metrics.Counter{
		metrics.NewCounter(`sluice_auth_key_reads_total{result="ok"}`),
		metrics.NewCounter(`sluice_auth_key_reads_total{result="error"}`),
	}

	expirations = metrics.NewCounter(`sluice_auth_expirations_total`)
)

func init() {
	gateway.DescribeMetric("sluice_auth_tokens_total", "Handshakes by what became of their token.")
	gateway.DescribeMetric("sluice_auth_key_reads_total", "Readings of the key set, by result.")
	gateway.DescribeMetric("sluice_auth_expirations_total",
		"Connections ended because their token expired.")
}
