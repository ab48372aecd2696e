package main

import (
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestReadmeNamesEverySetting keeps the table of settings complete.
func TestReadmeNamesEverySetting(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var cmds commands
	parser, err := kong.New(&cmds)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := kong.Trace(parser, []string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range ctx.Selected().Flags {
		row := "| `--" + flag.Name + "` | "
		if flag.HasDefault && flag.Default != "" && flag.Default != "true" {
			row += "`" + flag.Default + "` |"
		}
		if !strings.Contains(string(readme), row) {
			t.Errorf("cmd/sluice/README.md has no row that begins with %s", row)
		}
	}
}
