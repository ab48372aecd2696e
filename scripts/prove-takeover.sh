#!/usr/bin/env bash
# Replaces a gateway ROUNDS times under load, by `sluice upgrade`, and prints what the clients saw:
# each count is checked, nobody may be closed, and the greatest latency bounds the longest pause.
#   CONNS=100000 RATE=10000 ROUNDS=10 TLS=1 REDIS=redis://… scripts/prove-takeover.sh
# With TLS a certificate is made for it. Without REDIS sessions are in memory. LOAD=topics
# publishes RATE times a second to 100 topics, to which the clients are dealt, through the Redis
# at BROKER when there is one; LOAD=service has a service behind the gateway echo what clients
# say, 50 ms after it was asked; LOAD=slow has a tenth of the clients stop reading for good;
# LOAD=fragments sends each message as two, a second apart, so that RATE clients are in the middle
# of one when they are handed over. With COMING=N so many clients more connect each second, and
# leave: how long they waited is printed too. VISIT=resume has each count, leave, and come back for
# its session.
set -eu -o pipefail
cd "$(dirname "$0")/.."
: "${CONNS:=20000}" "${RATE:=10000}" "${ROUNDS:=10}" "${TLS:=}" "${REDIS:=}" "${PAUSE:=4}" "${COMING:=}" "${BROKER:=}"
: "${LOAD:=count}" "${VISIT:=churn}"
[ "$LOAD" = service ] && : "${RAMP:=1000}" # its answer to an OPEN is part of a handshake
: "${RAMP:=auto}"

dir=$(mktemp -d)
load='' service='' coming=''
least=$CONNS # connections that must be there after a takeover
[ "$LOAD" != slow ] || least=$((CONNS * 9 / 10)) # the others are cut off in time
newest() { sed -n 's/.*"msg":"start".*"pid":\([0-9]*\).*/\1/p' "$dir/log" 2>/dev/null | tail -1; }
finish() {
	[ -z "$load" ] || kill "$load" 2>/dev/null || true
	[ -z "$service" ] || kill "$service" 2>/dev/null || true
	[ -z "$coming" ] || kill "$coming" 2>/dev/null || true
	pid=$(newest)
	[ -z "$pid" ] || kill "$pid" 2>/dev/null || true
	wait
	while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; done # it is no child
	rm -rf "$dir"
}
trap finish EXIT

bin=${SLUICE:-bin/sluice} bench=${SLUICE_BENCH:-bin/sluice-bench}
args=(serve --listen 127.0.0.1:18000 --admin 127.0.0.1:18001 --takeover "$dir/sock"
	--max-conns "$((CONNS + 10 * COMING))" --heartbeat 30s --log-level info)
url=ws://127.0.0.1:18000/ws/chat/ client=() visitor=()
if [ -n "$TLS" ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
		-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout "$dir/key" -out "$dir/cert" 2>/dev/null
	args+=(--tls-listen 127.0.0.1:18443 --tls-cert "$dir/cert" --tls-key "$dir/key")
	url=wss://127.0.0.1:18443/ws/chat/ client=(--insecure) visitor=(--insecure)
fi
[ -z "$REDIS" ] || args+=(--session-store redis --redis-url "$REDIS")
case $LOAD in
count | slow) client+=(-s "$LOAD") ;;
fragments) client+=(-s count --fragment-pause 1s) ;;
topics | service)
	delay=50ms
	client+=(-s echo)
	if [ "$LOAD" = topics ]; then
		delay=0s client=("${client[@]/echo/fanout}" --topics 100 --publish http://127.0.0.1:18003/publish)
	fi
	args+=(--app backend --backend-url http://127.0.0.1:18002/ws/ --control 127.0.0.1:18003 --control-rate 0)
	[ -z "$BROKER" ] || args+=(--broker-url "$BROKER")
	"$bench" service --listen 127.0.0.1:18002 --delay "$delay" >/dev/null &
	service=$!
	;;
*)
	echo "prove-takeover: LOAD is count, slow, fragments, topics or service, not $LOAD" >&2
	exit 2
	;;
esac

metric() { curl -s http://127.0.0.1:18001/metrics | awk -v name="$1" '$1 == name { print $2 }'; }
value() { metric "$1" | awk '{ printf "%d", $1 }'; }
serving() { # waits until the process of the admin address has all connections
	for _ in $(seq 600); do
		[ "$(value sluice_connections)" -ge "$least" ] && return
		sleep 0.1
	done
	echo "prove-takeover: $(value sluice_connections) of $CONNS connections" >&2
	return 1
}

peak() { # the most memory, in MiB, that all processes of the gateway had together, until killed
	local most=0 sum
	trap 'echo "$most"; exit 0' TERM
	while :; do
		sum=$(pgrep -f "serve.*--takeover $dir/sock" | sed 's,.*,/proc/&/statm,' |
			xargs cat 2>/dev/null | awk '{ n += $2 } END { print int(n / 256) }') || true # one has ended
		[ "$sum" -le "$most" ] || most=$sum
		sleep 0.3 # more often it takes a share of the machine that clients feel
	done
}

"$bin" "${args[@]}" >"$dir/log" 2>&1 &
until curl -sf http://127.0.0.1:18001/readyz >/dev/null; do
	kill -0 $! 2>/dev/null || { echo "prove-takeover: the gateway does not start" >&2; cat "$dir/log" >&2; exit 1; }
	sleep 0.1
done

"$bench" run "$url" "${client[@]}" -c "$CONNS" --ramp "$RAMP" -r "$RATE" --hold 2s \
	-d "$((ROUNDS * (PAUSE + 12) + 5))s" --timeout 30s -q >"$dir/report" 2>&1 &
load=$!
for _ in $(seq 1200); do
	[ "$(value sluice_connections)" = "$CONNS" ] && break
	sleep 0.5
done
serving
if [ -n "$COMING" ]; then
	"$bench" run "$url" "${visitor[@]}" -s "$VISIT" -c "$COMING" -r "$COMING" \
		-d "$((ROUNDS * (PAUSE + 4)))s" --timeout 30s -q >"$dir/visits" 2>&1 &
	coming=$!
fi
sleep 4
echo "open: $CONNS connections; descriptors $(value process_open_fds)"
for i in $(seq "$ROUNDS"); do
	peak >"$dir/peak" &
	watch=$!
	before=$(date +%s%N)
	"$bin" upgrade --takeover "$dir/sock" >"$dir/upgrade" 2>&1 || { cat "$dir/upgrade" >&2; exit 1; }
	after=$(date +%s%N)
	kill "$watch"
	wait "$watch" || true
	serving
	echo "takeover $i: $(((after - before) / 1000000)) ms; $(value process_open_fds) descriptors," \
		"$(($(value process_resident_memory_bytes) >> 20)) MiB, of both at most $(cat "$dir/peak") MiB;" \
		"$(tail -1 "$dir/upgrade")"
	sleep "$PAUSE"
done
status=0
wait "$load" || status=$?
load=
cat "$dir/report"
if [ -n "$coming" ]; then
	wait "$coming" || status=$?
	coming=
	cat "$dir/visits"
fi
exit "$status"
