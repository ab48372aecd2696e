#!/usr/bin/env bash
# Starts a redis-server of its own on a free port, append-only files in a temporary directory, and
# the gateway on it with the arguments given. Both are gone, and the directory too, when this script
# ends.
# RUN_REDIS_GATEWAY names another binary than bin/sluice.
set -eu -o pipefail
cd "$(dirname "$0")/.."

if ! command -v redis-server >/dev/null || ! command -v redis-cli >/dev/null; then
	echo "run-redis: redis-server is not installed; scripts/install-test-deps.sh installs it" >&2
	exit 1
fi

dir=$(mktemp -d)
redis=
gateway=
cleanup() {
	for pid in $gateway $redis; do
		kill -KILL "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true # without it bash reports the kill
	done
	rm -rf "$dir"
}
trap cleanup EXIT

# Nobody can reserve a port for redis-server, so try until one binds.
port=
for _ in $(seq 20); do
	try=$((20000 + RANDOM % 20000))
	# setsid: Ctrl-C must reach the gateway, which needs its Redis for the final commits of the
	# drain.
	setsid redis-server --bind 127.0.0.1 --port "$try" --dir "$dir" --daemonize no \
		--appendonly yes --appendfsync always --save '' --maxmemory-policy noeviction \
		>"$dir/redis.log" 2>&1 </dev/null &
	redis=$!
	for _ in $(seq 100); do
		# The process id tells our server from another that had the port already.
		if redis-cli -p "$try" info server 2>/dev/null | tr -d '\r' | grep -qx "process_id:$redis"; then
			port=$try
			break 2
		fi
		kill -0 "$redis" 2>/dev/null || break
		sleep 0.05
	done
	kill -KILL "$redis" 2>/dev/null || true
	wait "$redis" 2>/dev/null || true
	redis=
done
if [ -z "$port" ]; then
	echo "run-redis: redis-server did not start; its last words:" >&2
	tail -n 20 "$dir/redis.log" >&2
	exit 1
fi
echo "redis-server: process $redis, port $port, append-only files in $dir" >&2

# setsid: signals of the terminal reach this script only, which passes each on once, so that one
# Ctrl-C drains and a second ends at once.
setsid "${RUN_REDIS_GATEWAY:-bin/sluice}" serve --session-store redis --redis-url "redis://127.0.0.1:$port/0" "$@" &
gateway=$!
interrupted=
trap 'interrupted=1; kill -INT "$gateway" 2>/dev/null || true' INT
trap 'interrupted=1; kill -TERM "$gateway" 2>/dev/null || true' TERM
trap 'interrupted=1; kill -HUP "$gateway" 2>/dev/null || true' HUP
# A trapped signal ends wait early, with a status of its own: wait again until the gateway is really
# gone.
rc=0
while :; do
	interrupted='' status=0
	wait "$gateway" || status=$?
	[ "$status" -eq 127 ] || rc=$status # 127: the round before had it
	[ -n "$interrupted" ] || break
done
gateway=
exit "$rc"
