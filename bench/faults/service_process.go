package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sluice/bench/service"
)

// serviceProcess is a service that can be killed as a crash does. It writes down what it hears
// before it answers, so its death loses nothing of the books.
type serviceProcess struct {
	command []string // of a sluice-bench
	addr    string
	dir     string
	heard   func(connection, kind string, content []byte)

	process *process
	read    chan struct{} // closed when all that it wrote has been noted
}

func (s *serviceProcess) start() error {
	cmd := exec.Command(s.command[0], append(s.command[1:], "--listen", s.addr, "--events")...)
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout = in
	s.process, err = startProcess(cmd, filepath.Join(s.dir, fmt.Sprintf("service-%d.log", time.Now().UnixNano())))
	in.Close()
	if err != nil {
		out.Close()
		return err
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "listening on ") {
		out.Close()
		<-s.process.done
		return errors.Join(fmt.Errorf("the service said %q", lines.Text()), s.process.dead())
	}
	s.read = make(chan struct{})
	go func() {
		defer close(s.read)
		defer out.Close()
		for lines.Scan() {
			var e service.Event
			if json.Unmarshal(lines.Bytes(), &e) == nil { // its last line may be cut off
				s.heard(e.Connection, e.Kind, e.Content)
			}
		}
	}()
	return nil
}

// kill ends it, and returns when the books have all that it heard: the next one must not be heard
// first.
func (s *serviceProcess) kill() error {
	if s.process != nil {
		s.process.kill()
		if s.read != nil {
			<-s.read
		}
	}
	return nil
}
