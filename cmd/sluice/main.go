// Command sluice is a WebSocket gateway for very many mostly idle connections.
//
//	sluice serve      run the gateway
//	sluice upgrade    have a running gateway replace itself, closing no connection
//	sluice config     print the effective configuration
//	sluice version    print the version
//
// Exit status: 0 after a clean drain, 1 when something failed, 2 when the command line, the
// environment or the configuration file is wrong, 130 when a second signal cut the drain short. A
// signal that comes before the settings have been read ends the process as it ends any other.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), takeSignals, os.Stdout, os.Stderr))
}

// takeSignals has a gateway decide what signals do. Not earlier: a configuration file may be a pipe
// that nobody writes to, and whoever waits for it has to be stoppable.
func takeSignals() <-chan os.Signal {
	// Two deep: the second signal must not be lost while the first is being handled.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT,
		syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	return signals
}
