#!/usr/bin/env bash
# A real Redis for development and tests: a redis-server of its own on a unix socket, with an append-only file, all in one directory.
# It touches no other Redis of this machine.
#
# usage: eval "$(scripts/services.sh start)"   start, if it does not run yet, and set REDIS_URL
#        scripts/services.sh status            say whether it runs; exit 1 if not
#        scripts/services.sh stop              stop it and remove its data
#
# SERVICES_DIR  where it lives; ${TMPDIR:-/tmp}/supervisor-services-<uid>
# REDIS_FSYNC   appendfsync: everysec (a crash of the machine loses a second), always, no
set -euo pipefail

dir=${SERVICES_DIR:-${TMPDIR:-/tmp}/supervisor-services-$(id -u)}
pidfile=$dir/redis.pid socket=$dir/redis.sock

die() {
	echo "services: $*" >&2
	exit 1
}

# The pid of our server. A pid file may be left over and its number another's by now: the process must be a redis-server.
redis_pid() {
	local pid
	[[ -s $pidfile ]] && pid=$(<"$pidfile") && [[ $(ps -o comm= -p "$pid" 2>/dev/null) == redis-server ]] && echo "$pid"
}

answers() { [[ $(redis-cli -s "$socket" ping 2>/dev/null) == PONG ]]; }

start() {
	command -v redis-server >/dev/null || die "redis-server is missing: run \`make deps\`"
	if ! redis_pid >/dev/null; then
		# A unix path holds 107 characters.
		[[ ${#socket} -le 107 ]] || die "$socket is too long for a socket: set SERVICES_DIR"
		# Only ours: somebody else could have made the directory before us.
		mkdir -p -m 700 "$dir"
		[[ -O $dir ]] || die "$dir belongs to somebody else: set SERVICES_DIR"
		redis-server --port 0 --unixsocket "$socket" --unixsocketperm 700 --daemonize yes --pidfile "$pidfile" \
			--dir "$dir" --logfile "$dir/redis.log" --save '' --appendonly yes --appendfsync "${REDIS_FSYNC:-everysec}" \
			--maxmemory-policy noeviction >/dev/null
	fi
	for _ in {1..100}; do
		answers && break
		sleep 0.1
	done
	answers || die "redis-server does not answer; its log: $dir/redis.log"
	echo "export REDIS_URL=unix://$socket"
}

status() {
	local pid
	if pid=$(redis_pid) && answers; then
		echo "redis: runs, pid $pid, REDIS_URL=unix://$socket"
	else
		echo "redis: does not run"
		return 1
	fi
}

stop() {
	local pid
	if pid=$(redis_pid); then
		kill "$pid"
		for _ in {1..100}; do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -0 "$pid" 2>/dev/null && die "redis-server (pid $pid) does not stop"
	fi
	if [[ -d $dir && -O $dir ]]; then
		rm -rf "${dir:?}"/{redis.pid,redis.sock,redis.log,appendonlydir}
		rmdir "$dir" 2>/dev/null || true
	fi
}

case ${1:-} in
start | stop | status) "$1" ;;
*)
	sed -n '2,/^set /p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
	exit 2
	;;
esac
