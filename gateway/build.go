package gateway

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Build says what this binary was built from.
type Build struct {
	Version  string `json:"version"`            // the module's version, or "devel"
	Go       string `json:"go"`                 // the toolchain, for example "go1.26.0"
	Commit   string `json:"commit"`             // the revision, or "unknown" for a build outside of a checkout
	Modified bool   `json:"modified,omitempty"` // the checkout had changes that the commit does not have
}

// ReadBuild reads what the Go toolchain stamped into the binary.
func ReadBuild() Build {
	b := Build{Version: "devel", Go: runtime.Version(), Commit: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	return b
}

// String is the build in one line.
func (b Build) String() string {
	commit := b.Commit
	if len(commit) > 12 {
		commit = commit[:12]
	}
	if b.Modified {
		commit += ", modified"
	}
	return fmt.Sprintf("%s (commit %s) %s %s/%s", b.Version, commit, b.Go, runtime.GOOS, runtime.GOARCH)
}
