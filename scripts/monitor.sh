#!/usr/bin/env bash
# Follows a gateway: errors in its log, and every 10 s the five counters that grow fastest.
#   scripts/monitor.sh [--every SECONDS] [--rounds N] [METRICS-URL [LOG-FILE | UNIT]]
# The URL is http://127.0.0.1:8001/metrics by default. A log that is no file is a unit's, read by
# journalctl.
# SLUICE_ADMIN_TOKEN is shown to the admin address where it is set.
set -eu -o pipefail
export LC_ALL=C
usage() {
	echo "monitor: $*" >&2
	sed -n '3,6s/^# *//p' "$0" >&2
	exit 2
}
every=10 rounds=0
while [[ ${1:-} = --* ]]; do
	[[ ${2:-} =~ ^[1-9][0-9]{0,5}$ ]] || usage "$1 wants a number"
	case $1 in
	--every) every=$2 ;;
	--rounds) rounds=$2 ;;
	*) usage "$1 is unknown" ;;
	esac
	shift 2
done
[ $# -le 2 ] || usage "too many arguments"
url=${1:-http://127.0.0.1:8001/metrics} log=${2:-}
[[ $url =~ ^https?:// ]] || usage "$url is no http:// URL"
command -v curl >/dev/null || usage "curl is not installed"

now=$(mktemp) before=$(mktemp)
follower=
cleanup() {
	[ -z "$follower" ] || kill "$follower" 2>/dev/null || true
	rm -f "$now" "$before"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Lines of warnings and errors, of either log format. A file that is rotated is followed by name.
if [ -n "$log" ]; then
	if [ -f "$log" ]; then follow=(tail -n 0 -F "$log"); else follow=(journalctl -n 0 -f -o cat -u "$log"); fi
	# The follower must be a process that can be ended: of a pipe $! would be the last one.
	exec 3> >(grep --line-buffered -E '"level":"(WARN|ERROR)"|level=(WARN|ERROR)|^(panic|fatal error)')
	"${follow[@]}" >&3 2>/dev/null &
	follower=$!
fi

# scrape prints counters: name and labels, a tab, the value.
scrape() {
	# Through a file descriptor: the token must not be in the process list.
	curl -fsS --max-time 5 -K - "$url" <<<"${SLUICE_ADMIN_TOKEN:+header = \"Authorization: Bearer $SLUICE_ADMIN_TOKEN\"}" |
		sed -nE 's/^(sluice_[a-z_]+_total(\{.*\})?) ([0-9.e+]+)$/\1\t\3/p' | sort -t $'\t' -k 1,1
}

last=
for ((round = 0; rounds == 0 || round <= rounds; round++)); do
	[ "$round" -eq 0 ] || sleep "$every"
	if ! scrape >"$now"; then
		echo "$(date +%T) $url does not answer"
		last=
		continue
	fi
	at=$(date +%s.%N)
	if [ -n "$last" ]; then
		echo "$(date +%T) a second:"
		join -t $'\t' "$before" "$now" | awk -F '\t' -v from="$last" -v to="$at" \
			'$3 > $2 { printf "%12.1f  %s\n", ($3 - $2) / (to - from), $1 }' | sort -rn | head -n 5
	fi
	last=$at
	cp "$now" "$before"
done
