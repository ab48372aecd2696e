package faults

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/bench/load"
	"sluice/bench/procfs"
)

// Throughput measures acknowledged messages per second, at a fixed rate and as fast as it goes,
// with gateway, Redis and load generator on this machine. With replica there is a replica too: it
// is waited for in every second row.
func Throughput(
	ctx context.Context, out io.Writer, bin string, rate float64, conns int, d time.Duration, replica bool,
) error {
	fmt.Fprintf(out, "%d connections, %v a row.\n\n", conns, d)
	fmt.Fprintln(out, "| appendfsync | load | acknowledged/s | p50 ms | p99 ms "+
		"| CPU gateway | CPU Redis | CPU client | messages a commit "+
		"| commits a batch: mean | distribution (up to: share of the batches) |")
	fmt.Fprintln(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|")
	plans := []plan{{bin: bin, gateways: 1, bare: true}}
	if replica {
		plans[0].topology = sentinel
		plans = append(plans, plans[0])
		plans[1].waits = true
	}
	bad := false
	for _, fsync := range []string{"always", "everysec"} {
		for _, rate := range []float64{rate, 0} {
			for _, p := range plans {
				spec := load.Spec{Rate: rate, AllowBehind: true, Window: conns, Conns: conns, Duration: d}
				failures, err := throughputRow(ctx, out, p, fsync, spec)
				if err != nil {
					return err
				}
				for _, text := range failures {
					bad = true
					fmt.Fprintf(out, "%s\n", text)
				}
			}
		}
	}
	if bad {
		return ErrBroken
	}
	return nil
}

func throughputRow(
	ctx context.Context, out io.Writer, p plan, fsync string, spec load.Spec,
) (failures []string, err error) {
	r, err := newFixture(ctx, p)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(r.dir)
	defer r.close()
	for _, server := range r.store.servers {
		if _, err := server.do("CONFIG", "SET", "appendfsync", fsync); err != nil {
			return nil, err
		}
	}
	spec.Targets, spec.Scenario, spec.Loops = []string{"ws://" + r.gateways[0].addr + "/ws/chat/"}, load.Count, 1
	var metrics [2]map[string]float64
	var redis [2]procfs.Usage
	var gateway [2]procfs.Usage
	var sampleErr error
	sample := func(i int) {
		if metrics[i], err = r.gateways[0].metrics(); err != nil {
			sampleErr = err
		}
		if redis[i], err = procfs.Sample(r.redis.cmd.Process.Pid); err != nil {
			sampleErr = err
		}
		if gateway[i], err = procfs.Sample(r.gateways[0].cmd.Process.Pid); err != nil {
			sampleErr = err
		}
	}
	spec.OnPhase = func(phase string) {
		switch phase {
		case "idle":
			sample(0)
		case "after":
			sample(1)
		}
	}
	result, err := load.Run(ctx, spec)
	if err != nil || sampleErr != nil {
		return nil, fmt.Errorf("throughput: %w", cmp.Or(err, sampleErr))
	}
	load := "closed loop, as fast as it goes"
	if spec.Rate > 0 {
		load = fmt.Sprintf("open loop, %.0f/s", spec.Rate)
	}
	if p.topology == sentinel {
		load += map[bool]string{true: ", replica waited for", false: ", replica"}[p.waits]
	}
	delta := func(name string) float64 { return metrics[1][name] - metrics[0][name] }
	seconds := result.TrafficSeconds
	fmt.Fprintf(out, "| %s | %s | %.0f | %.1f | %.1f | %.2f | %.2f | %.2f | %.2f | %.0f | %s |\n", fsync, load, result.MessagesPerSecond(),
		float64(result.Message.P50US)/1e3, float64(result.Message.P99US)/1e3,
		(gateway[1].CPUSeconds-gateway[0].CPUSeconds)/seconds, (redis[1].CPUSeconds-redis[0].CPUSeconds)/seconds,
		result.Tool.CPUPerMessageUS*result.MessagesPerSecond()/1e6,
		delta("sluice_messages_received_total")/delta("sluice_redis_commits_total"),
		delta("sluice_redis_commit_batch_size_sum")/delta("sluice_redis_commit_batch_size_count"),
		distribution(metrics, "sluice_redis_commit_batch_size"))
	return result.Failures, nil
}

// distribution is the shares of a histogram's buckets between two readings: "1: 3%, 8: 10%, …".
func distribution(metrics [2]map[string]float64, name string) string {
	total := metrics[1][name+"_count"] - metrics[0][name+"_count"]
	var shares []string
	below := 0.0
	for _, bound := range bounds(metrics[1], name) {
		key := fmt.Sprintf("%s_bucket{le=%q}", name, bound)
		n := metrics[1][key] - metrics[0][key]
		if share := 100 * (n - below) / total; share >= 0.5 {
			shares = append(shares, fmt.Sprintf("%s: %.0f%%", bound, share))
		}
		below = n
	}
	return strings.Join(shares, ", ")
}

// bounds are the upper bounds of a histogram's buckets, in order.
func bounds(metrics map[string]float64, name string) (all []string) {
	for key := range metrics {
		rest, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		if bound, ok2 := strings.CutSuffix(rest, `"}`); ok && ok2 {
			all = append(all, bound)
		}
	}
	slices.SortFunc(all, func(a, b string) int {
		x, _ := strconv.ParseFloat(a, 64) // +Inf too
		y, _ := strconv.ParseFloat(b, 64)
		return cmp.Compare(x, y)
	})
	return all
}
