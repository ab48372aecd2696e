#!/usr/bin/env bash
# Installs the programs that the tests start and that are missing, with apt-get (as root or through a
# sudo that asks for no password). A test that finds its program missing fails, so this is not optional.
set -eu -o pipefail

# command:Debian package
wanted=(redis-server:redis-server redis-cli:redis-tools chromium:chromium node:nodejs npm:npm)

missing() {
	local w
	for w in "${wanted[@]}"; do
		command -v "${w%%:*}" >/dev/null 2>&1 || echo "${w#*:}"
	done
}

mapfile -t packages < <(missing)
if [ ${#packages[@]} -eq 0 ]; then
	exit 0
fi
echo "== installing for the tests: ${packages[*]}"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! sudo -n true 2>/dev/null; then
		echo "install-test-deps: not root and no password-less sudo; install by hand: apt-get install ${packages[*]}" >&2
		exit 1
	fi
	as_root=(sudo -n)
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "install-test-deps: no apt-get here; install by hand: ${packages[*]}" >&2
	exit 1
fi

# RUNLEVEL=1 keeps the package scripts from starting a redis-server of their own on port 6379.
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -o Acquire::Retries=3 -qq)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null

mapfile -t packages < <(missing)
if [ ${#packages[@]} -ne 0 ]; then
	echo "install-test-deps: still missing after apt-get install: ${packages[*]}" >&2
	exit 1
fi
