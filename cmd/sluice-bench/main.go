// Command sluice-bench makes load for WebSocket servers, ours and others', and reports what it
// found.
//
//	sluice-bench run URL…      one load, one report
//	sluice-bench check URL     a smoke test of one gateway, step by step
//	sluice-bench capacity URL  how many connections until something gives
//	sluice-bench merge FILE…   one report of runs on several machines
//	sluice-bench million       a million connections to a gateway that it starts
//	sluice-bench baseline NAME a goroutine-per-connection server to compare with
//	sluice-bench service       a service to put behind a gateway
//	sluice-bench compare       sluice and all baselines under the same load
//	sluice-bench tls           what TLS costs, by sluice, gorilla, nginx and haproxy
//	sluice-bench faults        kill, stop, delay and empty gateways and Redis under load
//	sluice-bench version       print the version
//
// Exit status: 0 when all was well, 1 when the run found something wrong or could not be made, 2
// when the command line is wrong.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"sluice/bench/faults"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == faults.ClientCommand { // a process that faults starts
		if err := faults.ServeClient(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the program at once
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
