#!/usr/bin/env bash
# Loads one gateway for SOAK_DURATION (5m), a scenario after the other, every reply checked by the
# load generator. Fails when a reply is wrong, or when descriptors, goroutines or memory stay
# behind.
#   SOAK_DURATION=1h SOAK_CONNS=15000 SOAK_RATE=20000 scripts/soak.sh [flags of sluice serve]
set -eu -o pipefail
cd "$(dirname "$0")/.."

: "${SOAK_DURATION:=300}" "${SOAK_CONNS:=5000}" "${SOAK_RATE:=10000}" "${SOAK_ROUND:=20}"
# seconds turns 300, 300s, 5m or 1h into a number of seconds.
seconds() {
	local n=${1%[smh]} unit=1
	case "$1" in *m) unit=60 ;; *h) unit=3600 ;; esac
	if ! [[ $n =~ ^[1-9][0-9]{0,6}$ ]]; then
		echo "soak: $2=$1 is not a time (want for example 300, 300s, 5m or 1h)" >&2
		exit 2
	fi
	echo $((n * unit))
}
SOAK_DURATION=$(seconds "$SOAK_DURATION" SOAK_DURATION)
SOAK_ROUND=$(seconds "$SOAK_ROUND" SOAK_ROUND)
if ! command -v curl >/dev/null; then
	echo "soak: curl is not installed; it reads the gateway's metrics" >&2
	exit 1
fi
log=$(mktemp)
gateway=
cleanup() {
	[ -z "$gateway" ] || kill -KILL "$gateway" 2>/dev/null || true
}
trap cleanup EXIT
fail() {
	echo "soak: $*; the log of the gateway is $log" >&2
	exit 1
}

bin/sluice serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --heartbeat 5s --log-format json "$@" 2>"$log" &
gateway=$!
ready=
for _ in $(seq 200); do
	ready=$(grep '"msg":"ready"' "$log" || true)
	[ -z "$ready" ] || break
	kill -0 "$gateway" 2>/dev/null || fail "the gateway did not start"
	sleep 0.05
done
[ -n "$ready" ] || fail "the gateway was not ready after 10 s"
address() { sed -E "s/.*\"$1\":\"([^\"]*)\".*/\1/" <<<"$ready"; }
url="ws://$(address listen)/ws/chat/"
metrics="http://$(address admin)/metrics"

# metric NAME prints one value, without its fraction.
metric() { curl -fsS --max-time 10 "$metrics" | awk -v name="$1" '$1 == name { printf "%.0f", $2 }'; }
descriptors() { find "/proc/$gateway/fd" -mindepth 1 -maxdepth 1 | wc -l; }
# What a round left open is gone when the last Close has been answered.
settle() {
	for _ in $(seq 100); do
		[ "$(metric sluice_connections)" != 0 ] || return 0
		sleep 0.1
	done
	fail "$(metric sluice_connections) connections were left 10 s after their clients"
}

round() {
	echo "== $1: $SOAK_CONNS connections, ${SOAK_ROUND} s"
	local load=()
	# Open loop where messages are counted; visits and returns as fast as they are answered.
	[ "$1" != count ] || load=(--rate "$SOAK_RATE")
	bin/sluice-bench run "$url" --quiet --scenario "$1" --allow-behind --conns "$SOAK_CONNS" --duration "${SOAK_ROUND}s" \
		--server-pid "$gateway" "${load[@]}" || fail "$1 found something wrong"
	settle
	fds=$(descriptors) goroutines=$(metric go_goroutines) rss=$(metric process_resident_memory_bytes)
	echo "== after $1: $fds descriptors, $goroutines goroutines, $((rss >> 20)) MiB resident"
}

end=$((SECONDS + SOAK_DURATION))
first_fds='' first_goroutines='' first_rss=''
while :; do
	for scenario in count resume churn storm; do
		round "$scenario"
	done
	# The first pass warms up pools, sessions and the heap; later ones must not need more.
	if [ -z "$first_fds" ]; then
		first_fds=$fds first_goroutines=$goroutines first_rss=$rss
	fi
	[ "$SECONDS" -lt "$end" ] || break
done
[ "$fds" -le $((first_fds + 8)) ] || fail "descriptors grew from $first_fds to $fds"
[ "$goroutines" -le $((first_goroutines + 8)) ] || fail "goroutines grew from $first_goroutines to $goroutines"
[ "$rss" -le $((first_rss * 3 / 2 + (64 << 20))) ] || fail "resident memory grew from $first_rss to $rss bytes"

kill -TERM "$gateway"
rc=0
wait "$gateway" || rc=$?
gateway=
[ "$rc" -eq 0 ] || fail "the gateway ended with status $rc"
rm -f "$log"
echo "== soak passed: $SECONDS s"
