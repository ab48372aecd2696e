#!/usr/bin/env bash
# Measures service.py behind Sluice and on Channels with Uvicorn, one worker each, with Redis:
# [HOST=127.0.0.1] compare.sh [CONNECTIONS]. From the root of the checkout, after make. The CPU and
# the memory are those of all processes of a side: gateway and gunicorn; uvicorn and redis-server.
set -eu
conns=${1:-1000}
host=${HOST:-127.0.0.1}
export REDIS=redis://$host:6399
here=scripts/examples/channels-compare
out=$(mktemp -d)
side=
stop() {
	[ -n "$side" ] || return 0
	kill -- "-$side" 2>/dev/null || true
	while kill -0 -- "-$side" 2>/dev/null; do sleep 0.1; done
	side=
}
trap 'stop; rm -rf "$out"' EXIT

start() { # a process group of all that is measured
	setsid bash -c "$1" >"$out/log" 2>&1 &
	side=$!
	for _ in $(seq 100); do
		(exec 3<>/dev/tcp/$host/9000 && exec 3<>"/dev/tcp/$host/$2") 2>/dev/null && return
		sleep 0.1
	done
	cat "$out/log" >&2
	exit 1
}

sluice="/usr/bin/python3 -m gunicorn -b $host:9000 -w 1 -k gthread --threads 4 --keep-alive 60 \
	--backlog 4096 --chdir $here service:wsgi & bin/sluice serve --listen $host:8000 \
	--admin off --log-level error --app backend --backend-url http://$host:9000/ws/ \
	--control $host:5561 & wait"
channels="redis-server --bind $host --port 6399 --save '' & cd $here; sleep 0.5; \
	/usr/bin/python3 -m uvicorn \
	--host $host --port 9000 --log-level error service:asgi & wait"

run() { # NAME URL FLAGS…
	local name=$1 url=$2
	shift 2
	bin/sluice-bench run "$url" -q -c "$conns" --ramp 200 --server-pid "$side" \
		--json "$out/result" "$@" >"$out/text" || true
	/usr/bin/python3 - "$name" "$out/result" <<'P'
import json, sys
r = json.load(open(sys.argv[2]))
c, s, m = r["counters"], r["server"], r["message"]
cpu = next((p["server_cpu_seconds"] for p in r["phases"] if p["name"] == "traffic"), 0)
n = c.get("replies", 0)
idle = s["idle"]["uss"] - s["before"]["uss"]
print(f"{sys.argv[1]:22} {s['before']['uss'] / 2**20:7.1f} MiB + {idle / c['opened']:7.0f} B "
      f"a connection; {cpu / max(n, 1) * 1e6:7.1f} µs CPU a message; p50 {m['p50_us'] / 1e3:.2f} "
      f"/ p99 {m['p99_us'] / 1e3:.2f} ms; {n} of {c.get('sent', 0)} {'; '.join(r['failures'] or [])}")
P
}

for side_name in sluice channels; do
	for traffic in echo fanout; do
		flags=(-s echo -r 500 -d 10s)
		address=9000
		[ $side_name = channels ] || address=8000
		if [ $traffic = fanout ]; then
			publish=http://$host:5561/publish
			[ $side_name = sluice ] || publish=http://$host:9000/publish
			flags=(-s fanout -r 2 -d 10s --payload 120 --publish "$publish")
		fi
		start "${!side_name}" $address
		run "$side_name $traffic" "ws://$host:$address/ws/chat/" "${flags[@]}"
		stop
	done
done
