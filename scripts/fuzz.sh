#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME, one after the other (go test fuzzes one at a
# time).
set -eu -o pipefail
cd "$(dirname "$0")/.."
: "${FUZZTIME:=30s}"

found=0
# Each command stands alone, so that a package that does not compile ends the script.
packages=$(go list ./...)
for pkg in $packages; do
	listed=$(go test -list '^Fuzz' "$pkg")
	targets=$(grep '^Fuzz' <<<"$listed" || true)
	for target in $targets; do
		echo "== $pkg $target for $FUZZTIME"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$FUZZTIME" "$pkg"
		found=$((found + 1))
	done
done
if [ "$found" -eq 0 ]; then
	echo "fuzz: no fuzz target found" >&2
	exit 1
fi
echo "== $found fuzz targets passed"
