#!/usr/bin/env bash
# Installs what the tests start and is missing, with apt-get (as root or through a sudo that asks
# for no password). A test that finds its program missing fails, so this is not optional, but for
# what Python's programs, the balancers, GnuTLS, shellcheck and the comparison with Pushpin are
# needed for: where apt-get cannot get them, the test says so and skips.
set -eu -o pipefail

# command:Debian package; gcc and the C library's headers are for the race detector.
wanted=(redis-server:redis-server redis-cli:redis-tools chromium:chromium node:nodejs npm:npm gcc:gcc promtool:prometheus
	curl:curl openssl:openssl)

missing() {
	local w
	for w in "${wanted[@]}"; do
		command -v "${w%%:*}" >/dev/null 2>&1 || echo "${w#*:}"
	done
	echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1 || echo libc6-dev
}
# The distribution's interpreter is the one that the package is for; another may come first on the
# PATH.
websockets() {
	python3 -c 'import websockets' 2>/dev/null || /usr/bin/python3 -c 'import websockets' 2>/dev/null
}

# Those whose absence makes a test skip.
optional_missing() {
	websockets || echo python3-websockets
	command -v pushpin >/dev/null 2>&1 || echo pushpin
	local program
	command -v gnutls-cli >/dev/null 2>&1 || echo gnutls-bin
	for program in haproxy nginx socat shellcheck; do
		command -v $program >/dev/null 2>&1 || echo $program
	done
	/usr/bin/python3 -c 'import django' 2>/dev/null || echo python3-django
	/usr/bin/python3 -c 'import channels' 2>/dev/null || echo python3-django-channels
	/usr/bin/python3 -c 'import channels_redis' 2>/dev/null || echo python3-channels-redis
}

mapfile -t packages < <(missing)
mapfile -t optional < <(optional_missing)
all=("${packages[@]}" "${optional[@]}")
if [ ${#all[@]} -eq 0 ]; then
	exit 0
fi
echo "== installing for the tests: ${all[*]}"

# give_up ends the script, unless nothing is missing that the tests must have.
give_up() {
	echo "install-test-deps: $*" >&2
	[ ${#packages[@]} -ne 0 ] || exit 0
	exit 1
}

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	sudo -n true 2>/dev/null ||
		give_up "not root and no password-less sudo; install by hand: apt-get install ${all[*]}"
	as_root=(sudo -n)
fi
command -v apt-get >/dev/null 2>&1 || give_up "no apt-get here; install by hand: ${all[*]}"

# RUNLEVEL=1 keeps the package scripts from starting a redis-server of their own on port 6379.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o Acquire::Retries=3 -qq)
"${apt[@]}" update || give_up "apt-get update failed; still missing: ${all[*]}"
if [ ${#packages[@]} -ne 0 ]; then
	"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
fi
mapfile -t packages < <(missing)
if [ ${#packages[@]} -ne 0 ]; then
	give_up "still missing after apt-get install: ${packages[*]}"
fi
if [ ${#optional[@]} -ne 0 ]; then
	"${apt[@]}" install -y --no-install-recommends "${optional[@]}" >/dev/null || true
	mapfile -t optional < <(optional_missing)
	[ ${#optional[@]} -eq 0 ] || give_up "no ${optional[*]}: the tests that need them will skip"
fi
