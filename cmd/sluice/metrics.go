package main

import "github.com/VictoriaMetrics/metrics"

var upgradesFailed = metrics.NewCounter(`sluice_upgrades_failed_total`)
