#!/usr/bin/env bash
# Switches versions ten times under 200 clients that count, by takeover and through HAProxy, nginx
# and Traefik, and prints what the clients saw. Traefik is built from its Go module, apart from this
# one (10 minutes the first time, then kept in ~/.cache/sluice); the others are those that are
# installed.
#   scripts/prove-deploys.sh [flags of go test, such as -run TestPromoteInterrupted]
set -eu -o pipefail
cd "$(dirname "$0")/.."

: "${TRAEFIK_VERSION:=v3.7.9}" "${PROMOTE_SWITCHES:=10}" "${PROMOTE_CLIENTS:=200}"
export PROMOTE_SWITCHES PROMOTE_CLIENTS
bin=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/traefik-$TRAEFIK_VERSION
if ! [ -x "$bin/traefik" ]; then
	source=$(mktemp -d)
	trap 'rm -rf "$source"' EXIT
	module=$(cd "$source" && GO111MODULE=on go mod download -json "github.com/traefik/traefik/v3@$TRAEFIK_VERSION" |
		sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	[ -d "$module" ] || { echo "prove-deploys: the module proxy has no Traefik $TRAEFIK_VERSION" >&2 && exit 1; }
	cp -r --no-preserve=mode "$module/." "$source"
	# What the module leaves out: the page, which is built by npm, and a module of its own, of two
	# empty types.
	mkdir -p "$source/webui/static" "$source/pkg/config/dynamic/ext"
	echo none >"$source/webui/static/index.html"
	printf 'module github.com/traefik/traefik/dynamic/ext\n' >"$source/pkg/config/dynamic/ext/go.mod"
	printf 'package ext\n\ntype HTTP struct{}\n\ntype Router struct{}\n' >"$source/pkg/config/dynamic/ext/ext.go"
	mkdir -p "$bin"
	echo "== building Traefik $TRAEFIK_VERSION"
	(cd "$source" && CGO_ENABLED=0 go build -trimpath -o "$bin/traefik" ./cmd/traefik)
fi
PATH=$bin:$PATH go test -count=1 -v -run 'TestPromote$' "$@" ./cmd/sluice |
	grep -E '^ *(e2e_[a-z]*_test.go|---|ok|FAIL|panic)|: got|: want'
