// Package launch starts child processes that do not outlive this one.
package launch

import (
	"bytes"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Process is a running child. Any goroutine may call its methods.
type Process struct {
	cmd   *exec.Cmd
	tail  *Tail
	ended chan struct{} // closed when it has been waited for
	exit  error         // valid after that
}

// Start starts cmd in a process group of its own, so that Ctrl-C reaches the parent only, and has
// the kernel kill it when this process ends, however that happens. Where cmd has no Stdout or
// Stderr, what it writes there is kept for LastOutput.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, tail: &Tail{}, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.tail
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.tail
	}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

// run keeps its thread: the kernel sends Pdeathsig when the thread that forked the child ends.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.exit = p.cmd.Wait()
		close(p.ended)
	}
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends s to the child; a child that has ended is no error.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Ended is closed when the child has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Wait waits for the child's end and says how it ended: nil is exit status 0.
func (p *Process) Wait() error {
	<-p.ended
	return p.exit
}

// Stop sends SIGTERM, kills the child when that has not ended it within grace, and waits.
func (p *Process) Stop(grace time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(grace):
		p.Signal(syscall.SIGKILL)
	}
	return p.Wait()
}

// LastOutput is the end of what the child wrote, without white space around it.
func (p *Process) LastOutput() string { return p.tail.String() }

// tailBytes is how much of a process's output is kept.
const tailBytes = 4 << 10

// Tail is a writer that keeps the last 4 KiB. Any goroutine may use it.
type Tail struct {
	mu  sync.Mutex
	end []byte
}

// Write implements io.Writer.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = append(t.end, p...)
	if over := len(t.end) - tailBytes; over > 0 {
		t.end = append(t.end[:0], t.end[over:]...)
	}
	return len(p), nil
}

// String is what was kept, without white space around it.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.end))
}
