#!/usr/bin/env bash
# Changes the version of a gateway while clients are connected.
#
#   promote.sh deploy     start the idle colour with $PROMOTE_BINARY and check it; without clients
#   promote.sh promote    give it the clients: switch, check through the balancer, drain the old one
#   promote.sh rollback   end what was deployed; after promote: give the clients back to the old one
#   promote.sh status     which colour serves, which waits
#
# A step that fails is undone. Each command can be interrupted, killed, and given again. Status 0:
# done, or there was nothing to do; 1: failed, and the clients are where they were; 2: wrong usage.
# The settings are PROMOTE_ variables, or lines of the file that PROMOTE_CONFIG names:
# scripts/README.md.
set -eu -o pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "promote: $*"; }
die() {
	echo "promote: $*" >&2
	exit 1
}
usage() {
	echo "promote: $*" >&2
	exit 2
}

if [ -n "${PROMOTE_CONFIG:-}" ]; then
	# shellcheck disable=SC1090
	. "$PROMOTE_CONFIG" || usage "cannot read $PROMOTE_CONFIG (PROMOTE_CONFIG)"
fi
: "${PROMOTE_SWITCH:=}" "${PROMOTE_RUNNER:=process}" "${PROMOTE_DIR:=/var/lib/sluice}"
: "${PROMOTE_BINARY:=$here/bin/sluice}" "${PROMOTE_BENCH:=$here/bin/sluice-bench}"
: "${PROMOTE_URL:=ws://127.0.0.1:8000/ws/chat/}" "${PROMOTE_WAIT:=60}" "${PROMOTE_CHECK:=}"
: "${PROMOTE_BLUE_URL:=ws://127.0.0.1:8010/ws/chat/}" "${PROMOTE_GREEN_URL:=ws://127.0.0.1:8020/ws/chat/}"
: "${PROMOTE_ARGS:=}" "${PROMOTE_LIVE_ARGS:=--listen=:8000 --admin=127.0.0.1:8001}"
: "${PROMOTE_BLUE_ARGS:=--listen=127.0.0.1:8010 --admin=127.0.0.1:8011}"
: "${PROMOTE_GREEN_ARGS:=--listen=127.0.0.1:8020 --admin=127.0.0.1:8021}"
: "${PROMOTE_LIVE:=$PROMOTE_DIR/live/sluice}" "${PROMOTE_TAKEOVER:=$PROMOTE_DIR/takeover.sock}"
: "${PROMOTE_FILE:=}" "${PROMOTE_SOCKET:=/run/haproxy/sluice.sock}" "${PROMOTE_RELOAD:=nginx -s reload}"

command=${1:-}
[[ $# -eq 1 && $command =~ ^(deploy|promote|rollback|status)$ ]] || usage "want deploy, promote, rollback or status"
case $PROMOTE_SWITCH in
takeover) ;;
haproxy | nginx | traefik)
	[ -f "$PROMOTE_FILE" ] || usage "PROMOTE_FILE=$PROMOTE_FILE is not the file in which $PROMOTE_SWITCH has the active colour"
	;;
*) usage "PROMOTE_SWITCH=$PROMOTE_SWITCH: want takeover, haproxy, nginx or traefik" ;;
esac
for url in "$PROMOTE_URL" "$PROMOTE_BLUE_URL" "$PROMOTE_GREEN_URL"; do
	[[ $url =~ ^wss?://[^/]+ ]] || usage "$url is no ws:// or wss:// URL"
done
case $PROMOTE_RUNNER in process | systemd) ;; *) usage "PROMOTE_RUNNER=$PROMOTE_RUNNER: want process or systemd" ;; esac
[[ $PROMOTE_WAIT =~ ^[1-9][0-9]{0,3}$ ]] || usage "PROMOTE_WAIT=$PROMOTE_WAIT: want seconds, 1 to 9999"
[ -x "$PROMOTE_BENCH" ] || usage "PROMOTE_BENCH=$PROMOTE_BENCH is no program (make build)"
for program in curl flock; do
	command -v $program >/dev/null || usage "$program is not installed"
done
[ "$PROMOTE_SWITCH" != haproxy ] || command -v socat >/dev/null || usage "socat is not installed; it speaks to haproxy"
mkdir -p "$PROMOTE_DIR/blue" "$PROMOTE_DIR/green" "$PROMOTE_DIR/live" 2>/dev/null ||
	usage "PROMOTE_DIR=$PROMOTE_DIR cannot be written"

# The state, each a colour or -: active has the clients; staged was deployed; previous is where
# rollback goes; retiring drains; given is the one that the balancer was last told to use, active
# unless a switch was interrupted. One line, replaced by rename: whatever kills this script, it is
# whole.
state=$PROMOTE_DIR/state
active=- staged=- previous=- retiring=- given=-
load() {
	[ -e "$state" ] || return 0
	read -r active staged previous retiring given <"$state" || die "$state cannot be read"
	local colours='^((blue|green|-) ){4}(blue|green|-)$'
	[[ "$active $staged $previous $retiring $given" =~ $colours ]] || die "$state is damaged"
}
save() {
	echo "$active $staged $previous $retiring $given" >"$state.new"
	sync "$state.new"
	mv -f "$state.new" "$state"
}

# of COLOUR NAME is a setting of the colour: PROMOTE_BLUE_URL.
of() {
	local name=PROMOTE_${1^^}_$2
	[ "$1 $2" != "live URL" ] || name=PROMOTE_URL
	echo "${!name}"
}
# site URL is where it is asked over HTTP: ws://host:1/ws becomes http://host:1.
site() {
	[[ $1 =~ ^ws(s?://[^/]+) ]] && echo "http${BASH_REMATCH[1]}"
}
ask() { curl -sS -k --max-time 5 -o /dev/null "$@"; }
ready() { ask -f "$(site "$1")/readyz" 2>/dev/null; }

# poll COMMAND until it succeeds, for as long as each thing may take.
poll() {
	local end=$((SECONDS + PROMOTE_WAIT))
	until "$@"; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

# A process is its number and when it began: a number alone may be somebody else's by now.
running() {
	if [ "$PROMOTE_RUNNER" = systemd ]; then
		systemctl is-active --quiet "$(unit "$1")"
		return
	fi
	local pid began stat
	read -r pid began 2>/dev/null <"$PROMOTE_DIR/$1/pid" || return 1
	read -r -a stat 2>/dev/null <"/proc/$pid/stat" || return 1
	[ "${stat[21]}" = "$began" ] && [ "${stat[2]}" != Z ]
}
unit() { if [ "$1" = live ]; then echo sluice.service; else echo "sluice@$1.service"; fi; }

start() {
	if running "$1"; then return; fi
	if [ "$PROMOTE_RUNNER" = systemd ]; then
		systemctl start "$(unit "$1")" || die "$(unit "$1") does not start: journalctl -u $(unit "$1")"
		return
	fi
	local dir=$PROMOTE_DIR/$1 args binary=$PROMOTE_DIR/$1/sluice
	args="$(of "$1" ARGS) $PROMOTE_ARGS"
	[ "$1" != live ] || binary=$PROMOTE_LIVE args="$args --takeover=$PROMOTE_TAKEOVER"
	rm -f "$dir/pid" "$dir/stopping"
	[ ! -e "$dir/log" ] || mv -f "$dir/log" "$dir/log.1"
	# It writes its number itself, and only then lets go of the lock: whatever happens to this
	# script, the next one finds the process.
	# shellcheck disable=SC2016,SC2086
	setsid bash -c 'read -r -a stat <"/proc/$$/stat"; echo "$$ ${stat[21]}" >"$1/pid"; exec 9>&-; exec "${@:2}"' \
		start "$dir" "$binary" serve $args >"$dir/log" 2>&1 </dev/null &
	poll test -s "$dir/pid" || die "$1 was not started"
}

settled() { ready "$(of "$1" URL)" || ended "$1"; }
ended() { ! running "$1"; }

# up COLOUR waits until it is ready.
up() {
	start "$1"
	poll settled "$1" || die "$1 is not ready after $PROMOTE_WAIT s: $(last "$1")"
	running "$1" || die "$1 ended: $(last "$1")"
}
last() {
	if [ "$PROMOTE_RUNNER" = systemd ]; then
		journalctl -n 1 -o cat -u "$(unit "$1")" 2>/dev/null || true
	else
		tail -n 1 "$PROMOTE_DIR/$1/log"
	fi
}

# stop COLOUR drains it, and waits for its end. A second SIGTERM would cut its clients off, so it is
# not sent again unless the first one can have had no effect.
stop() {
	running "$1" || return 0
	if [ "$PROMOTE_RUNNER" = systemd ]; then
		systemctl stop "$(unit "$1")"
		return
	fi
	local pid dir=$PROMOTE_DIR/$1
	read -r pid _ <"$dir/pid"
	if [ ! -e "$dir/stopping" ] || ready "$(of "$1" URL)"; then
		touch "$dir/stopping"
		kill -TERM "$pid" 2>/dev/null || true
	fi
	poll ended "$1" && return
	say "$1 has not ended $PROMOTE_WAIT s after SIGTERM, and is killed"
	kill -KILL "$pid" 2>/dev/null || true
	poll ended "$1" || die "process $pid does not end"
}

# check URL does what a client does. It goes on in the session that was counted before, if there is
# one: through the balancer that shows that sessions go along.
session=
check() {
	local out
	# shellcheck disable=SC2086
	if ! out=$("$PROMOTE_BENCH" check "$@" $session $PROMOTE_CHECK 2>&1); then
		echo "$out" >&2
		return 1
	fi
	session=$(sed -n 's/^session \([^ ]*\) count \([0-9]*\)$/--session=\1 --count=\2/p' <<<"$out")
}

# replace the balancer's file whole: balancers read at any time.
replace() {
	cat >"$PROMOTE_FILE.new" &&
		chmod --reference="$PROMOTE_FILE" "$PROMOTE_FILE.new" &&
		mv -f "$PROMOTE_FILE.new" "$PROMOTE_FILE"
}
install_live() {
	cp "$PROMOTE_DIR/$1/sluice" "$PROMOTE_LIVE.new" &&
		mv -f "$PROMOTE_LIVE.new" "$PROMOTE_LIVE"
}

# switch COLOUR sends new clients there. It can be repeated. (Where it is called, set -e is off.)
switch() {
	# shellcheck disable=SC2016
	local answer line='^{{ \$active := .*}}$'
	case $PROMOTE_SWITCH in
	haproxy)
		echo "active $1" | replace || return 1
		answer=$(echo "set map $PROMOTE_FILE active $1" |
			socat -t 5 - "UNIX-CONNECT:$PROMOTE_SOCKET") || return 1
		[ -z "$answer" ] || { say "haproxy: $answer" >&2 && return 1; }
		;;
	nginx)
		echo "set \$colour $1;" | replace && $PROMOTE_RELOAD 9>&- || return 1
		;;
	traefik)
		grep -q "$line" "$PROMOTE_FILE" || { say "$PROMOTE_FILE has no line like $line" >&2 && return 1; }
		sed "s/$line/{{ \$active := \"$1\" }}/" "$PROMOTE_FILE" | replace || return 1
		;;
	takeover)
		install_live "$1" || return 1
		if running live || ask "$(site "$PROMOTE_URL")/healthz" 2>/dev/null; then
			"$PROMOTE_LIVE" upgrade --takeover "$PROMOTE_TAKEOVER" || return 1
		else
			start live
		fi
		poll ready "$PROMOTE_URL"
		return
		;;
	esac
	poll serves "$1"
}

# serves COLOUR: 20 new connections through the balancer get there. Its old worker processes may
# accept some more after a reload.
serves() {
	local got
	got=$(ask -D - -H 'Connection: close' "$(site "$PROMOTE_URL")/readyz?[1-20]" 2>/dev/null) || return 1
	[ "$(grep -ci "^x-sluice-colour: $1"$'\r' <<<"$got")" -eq 20 ]
}

other() { if [ "$1" = blue ]; then echo green; else echo blue; fi; }

# revert puts the clients back where they are safe, and ends the colour that was to have them.
revert() {
	if [ "$given" != "$active" ] && [ "$active" != - ]; then
		say "switching back to $active"
		[ "$PROMOTE_SWITCH" = takeover ] || start "$active"
		switch "$active" ||
			die "CANNOT SWITCH BACK: all that runs goes on; mend the balancer, then: promote.sh rollback"
	elif [ "$given" != "$active" ] && [ "$PROMOTE_SWITCH" = takeover ]; then
		stop live # there was nothing before
	fi
	given=$active
	save
	[ "$staged" = - ] || stop "$staged"
	staged=-
	save
}

# finish_retiring goes on where a promote was interrupted.
finish_retiring() {
	[ "$retiring" != - ] || return 0
	say "$retiring drains"
	stop "$retiring"
	retiring=-
	save
}

undo=
at_exit() {
	local status=$?
	trap - EXIT
	[ -z "$undo" ] || { (revert) && say "reverted: ${active/-/nothing} serves"; } >&2
	exit "$status"
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

try() { # the deployed colour, directly
	up "$1"
	session=
	check "$(of "$1" URL)" || die "$1 does not hold what it should"
	say "$1 is ready, and holds what it should"
}

deploy() {
	[ -x "$PROMOTE_BINARY" ] || usage "PROMOTE_BINARY=$PROMOTE_BINARY is no program"
	finish_retiring
	[ "$given" = "$active" ] || { say "an earlier promote was interrupted" && revert; }
	local new=$staged
	[ "$new" != - ] || new=$(other "$active")
	undo=1
	if [ "$staged" = - ] || ! cmp -s "$PROMOTE_BINARY" "$PROMOTE_DIR/$new/sluice"; then
		stop "$new"
		staged=$new previous=-
		save
		cp "$PROMOTE_BINARY" "$PROMOTE_DIR/$new/sluice.new"
		mv -f "$PROMOTE_DIR/$new/sluice.new" "$PROMOTE_DIR/$new/sluice"
	fi
	say "$new: $("$PROMOTE_DIR/$new/sluice" version 2>&1 | head -n 1)"
	try "$new"
	[ "$PROMOTE_SWITCH" != takeover ] || stop "$new" # it was a trial; the takeover starts another
	undo=
	say "$new is deployed; clients stay on ${active/-/nothing} until: promote.sh promote"
}

promote() {
	finish_retiring
	[ "$staged" != - ] || { say "nothing is deployed; ${active/-/nothing} serves" && return; }
	local new=$staged old=$active
	undo=1
	if [ "$PROMOTE_SWITCH" != takeover ]; then
		try "$new"
	elif ready "$PROMOTE_URL"; then
		check "$PROMOTE_URL" || true # its session must be there afterwards
	fi
	given=$new
	save
	switch "$new" || die "the switch to $new failed"
	check "$PROMOTE_URL" || die "through $PROMOTE_URL $new does not hold what it should"
	# From here on the new colour is the right one.
	undo=
	if [ "$previous" = "$new" ]; then previous=-; else previous=$old; fi
	active=$new staged=-
	[ "$PROMOTE_SWITCH" = takeover ] || retiring=$old
	save
	say "$new serves"
	finish_retiring
}

rollback() {
	finish_retiring
	if [ "$staged" != - ] && [ "$staged" != "$previous" ]; then
		say "ending $staged, which was deployed"
		revert
		say "${active/-/nothing} serves"
	elif [ "$previous" != - ]; then
		say "back to $previous"
		staged=$previous
		save
		promote
	else
		say "nothing to roll back; ${active/-/nothing} serves"
	fi
}

status() {
	echo "active ${active/-/none}, deployed ${staged/-/none}, rollback to ${previous/-/none}"
	[ "$given" = "$active" ] || echo "a switch to $given was interrupted: promote goes on with it, rollback undoes it"
	[ "$retiring" = - ] || echo "$retiring drains"
	local c
	for c in live blue green; do
		[ -x "$PROMOTE_DIR/$c/sluice" ] || continue
		local is=stopped
		if running "$c"; then is="running, not ready"; fi
		if ready "$(of "$c" URL)"; then is=ready; fi
		echo "$c: $is, $("$PROMOTE_DIR/$c/sluice" version 2>&1 | head -n 1)"
	done
	if ready "$PROMOTE_URL"; then echo "$PROMOTE_URL: ready"; else echo "$PROMOTE_URL: NOT READY" && return 1; fi
}

if [ "$command" != status ]; then
	exec 9>"$PROMOTE_DIR/lock"
	flock -n 9 || die "another promote.sh is at work in $PROMOTE_DIR"
fi
load
"$command"
