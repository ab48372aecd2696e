// Command sluice is a WebSocket gateway for very many mostly idle connections.
//
//	sluice serve      run the gateway
//	sluice config     print the effective configuration
//	sluice version    print the version
//
// Exit status: 0 after a clean drain, 1 when something failed, 2 when the command line, the environment
// or the configuration file is wrong, 130 when a second signal cut the drain short.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Two deep: the second signal must not be lost while the first is being handled.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	os.Exit(run(os.Args[1:], os.Environ(), signals, os.Stdout, os.Stderr))
}
