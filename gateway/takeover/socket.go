package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen opens the socket at path, for its owner only. It takes the place of whatever socket is
// there: that is how a new process follows an old one, and how the socket of one that was killed
// goes away. The socket is not removed when the listener is closed, for it may be another's by
// then.
func Listen(path string) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("takeover: %s exists and is not a socket (set --takeover)", path)
	}
	if info, err := os.Lstat(path); err == nil && !ours(info) {
		return nil, fmt.Errorf("takeover: %s belongs to another user", path)
	}
	// In a directory that only we can enter until it has its mode, and then renamed over the old
	// one: there is no moment without a socket, nor with one that anybody may write to.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".takeover-")
	if err != nil {
		return nil, fmt.Errorf("takeover: %w", err)
	}
	defer os.RemoveAll(dir)
	aside := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("takeover: %w", err)
	}
	ln.SetUnlinkOnClose(false)
	if err = os.Chmod(aside, 0o600); err == nil {
		err = os.Rename(aside, path)
	}
	if err != nil {
		ln.Close()
		return nil, fmt.Errorf("takeover: %w", err)
	}
	return ln, nil
}

// ErrNobody is Dial's answer when no process listens at the path: there is nothing to take over.
var ErrNobody = errors.New("takeover: nobody listens")

// Dial connects to the process that listens at path.
func Dial(path string) (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, ErrNobody
	default:
		return nil, fmt.Errorf("takeover: %w", err)
	}
	if _, err := peer(conn); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// peer is the process at the other end, which must be of the same user.
func peer(conn *net.UnixConn) (pid int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("takeover: %w", err)
	}
	var cred *unix.Ucred
	var failed error
	if err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err == nil {
		err = failed
	}
	if err != nil {
		return 0, fmt.Errorf("takeover: who asks: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return 0, fmt.Errorf("takeover: the process %d is of user %d, not of ours, %d", cred.Pid, cred.Uid,
			os.Geteuid())
	}
	return int(cred.Pid), nil
}

func ours(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
