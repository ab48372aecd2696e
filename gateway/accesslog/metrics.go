package accesslog

import (
	"github.com/VictoriaMetrics/metrics"

	"sluice/gateway"
)

var (
	linesWritten = metrics.NewCounter(`sluice_access_log_lines_total{result="written"}`)
	linesLost    = metrics.NewCounter(`sluice_access_log_lines_total{result="lost"}`)
)

func init() {
	gateway.DescribeMetric("sluice_access_log_lines_total",
		"Lines of the access log, by what became of them.")
}
