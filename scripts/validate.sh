#!/usr/bin/env bash
# Has others' programs judge what is here for containers: kustomize builds scripts/k8s,
# kubectl-validate holds it against the schemas of Kubernetes 1.30 (which it has within), Compose's
# own library loads compose.yaml, and BuildKit's parses and lints the Dockerfile. All come through
# the Go module proxy, in versions that stand here, and are kept in ~/.cache/sluice; this module
# does not know them.
set -eu -o pipefail
cd "$(dirname "$0")/.."

kustomize=v5.8.1 validate=v0.0.4 compose=v2.16.2 buildkit=v0.34.2
bin=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/validate-$kustomize-$validate-$compose-$buildkit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$bin"
[ -x "$bin/kustomize" ] || GOBIN=$bin go install "sigs.k8s.io/kustomize/kustomize/v5@$kustomize"
[ -x "$bin/kubectl-validate" ] || GOBIN=$bin go install "sigs.k8s.io/kubectl-validate@$validate"
if ! [ -x "$bin/containers" ]; then
	cat >"$work/main.go" <<'GO'
// Loads the Compose file and the Dockerfile that are its arguments.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

func main() {
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(compose, dockerfile string) error {
	options, err := cli.NewProjectOptions([]string{compose}, cli.WithName("sluice"))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	f, err := os.Open(dockerfile)
	if err != nil {
		return err
	}
	defer f.Close()
	ast, err := parser.Parse(f)
	if err != nil {
		return err
	}
	warnings := 0
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, msg string, at []parser.Range) {
		warnings++
		fmt.Fprintln(os.Stderr, dockerfile, rule, msg, at)
	}})
	stages, _, err := instructions.Parse(ast.AST, lint)
	if err != nil {
		return err
	}
	if warnings > 0 {
		return fmt.Errorf("%s: %d warnings", dockerfile, warnings)
	}
	fmt.Printf("%s: %v; %s: %d stages\n", compose, project.ServiceNames(), dockerfile, len(stages))
	return nil
}
GO
	(cd "$work" && go mod init check && go get "github.com/compose-spec/compose-go/v2@$compose" \
		"github.com/moby/buildkit@$buildkit" && go mod tidy && go build -o "$bin/containers" .) 2>&1 |
		grep -vE '^go: |^\sgo mod tidy' || [ -x "$bin/containers" ]
fi

for kind in deployment daemonset; do
	"$bin/kustomize" build "scripts/k8s/$kind" >"$work/$kind.yaml"
	"$bin/kubectl-validate" --version 1.30 "$work/$kind.yaml"
done
"$bin/kubectl-validate" --version 1.30 scripts/k8s/bench-job.yaml
# A validator that finds nothing wrong with anything is none.
sed 's/minReadySeconds: 10/minReadySecond: 10/' "$work/deployment.yaml" >"$work/wrong.yaml"
if "$bin/kubectl-validate" --version 1.30 "$work/wrong.yaml" >"$work/wrong.log" 2>&1; then
	echo "validate: kubectl-validate accepts a field that does not exist" >&2
	exit 1
fi
"$bin/containers" scripts/compose.yaml scripts/Dockerfile
echo "== valid"
