#!/usr/bin/env bash
# A real Redis and a real PostgreSQL for development and tests, each on a unix socket, with their data in one directory. They touch no
# other server of this machine.
#
# usage: eval "$(scripts/services.sh start)"   start what does not run yet, and set REDIS_URL and DATABASE_URL
#        scripts/services.sh status            say what runs; exit 1 if one does not
#        scripts/services.sh stop              stop both and remove their data
#
# SERVICES_DIR  where they live; ${TMPDIR:-/tmp}/supervisor-services-<uid>
# REDIS_FSYNC   appendfsync: everysec (a crash of the machine loses a second), always, no
#
# PostgreSQL refuses to run as root: then it runs as the user postgres, which Debian's package makes.
set -euo pipefail

dir=${SERVICES_DIR:-${TMPDIR:-/tmp}/supervisor-services-$(id -u)}
redis_pidfile=$dir/redis.pid redis_socket=$dir/redis.sock
pg=$dir/postgres # a directory of its own: root gives it to another user

die() {
	echo "services: $*" >&2
	exit 1
}
wait_for() {
	for _ in {1..300}; do
		"$@" && return
		sleep 0.1
	done
	return 1
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# pid_of FILE NAME: the first line of a pid file may be left over and its number another's by now: the process must have that name.
pid_of() {
	local pid
	[[ -s $1 ]] && pid=$(head -n 1 "$1") && [[ $(ps -o comm= -p "$pid" 2>/dev/null) == "$2" ]] && echo "$pid"
}
redis_pid() { pid_of "$redis_pidfile" redis-server; }
pg_pid() { pid_of "$pg/data/postmaster.pid" postgres; }

redis_answers() { [[ $(redis-cli -s "$redis_socket" ping 2>/dev/null) == PONG ]]; }
pg_answers() { pg_isready -q -h "$pg"; }

# Debian keeps the server's programs in a directory per version; the newest comes last.
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done
as_postgres() {
	if [[ $EUID -eq 0 ]]; then
		setpriv --reuid postgres --regid postgres --clear-groups "$@"
	else
		"$@"
	fi
}

redis_url=unix://$redis_socket
database_url="postgres:///postgres?host=$pg&user=postgres"

start_redis() {
	redis_pid >/dev/null || redis-server --port 0 --unixsocket "$redis_socket" --unixsocketperm 700 --daemonize yes --pidfile "$redis_pidfile" \
		--dir "$dir" --logfile "$dir/redis.log" --save '' --appendonly yes --appendfsync "${REDIS_FSYNC:-everysec}" \
		--maxmemory-policy noeviction >/dev/null
	wait_for redis_answers || die "redis-server does not answer; its log: $dir/redis.log"
}

start_postgres() {
	if ! pg_pid >/dev/null; then
		mkdir -p -m 700 "$pg"
		if [[ $EUID -eq 0 ]]; then
			chmod 711 "$dir" # the way to its own
			chown postgres: "$pg"
		fi
		cd "$pg" # a directory that its user may be in
		[[ -e $pg/data/PG_VERSION ]] || as_postgres initdb --no-sync --auth=trust --username=postgres --encoding=UTF8 -D "$pg/data" >"$dir/initdb.log" 2>&1 ||
			die "initdb failed: $(tail -n 3 "$dir/initdb.log")"
		# setsid: a Ctrl-C that is meant for the caller is not meant for the server.
		as_postgres setsid postgres -D "$pg/data" -c listen_addresses= -c "unix_socket_directories=$pg" -c fsync=off \
			>>"$dir/postgres.log" 2>&1 </dev/null &
	fi
	wait_for pg_answers || die "postgres does not answer; its log: $dir/postgres.log"
}

start() {
	command -v redis-server >/dev/null && command -v postgres >/dev/null || die "redis-server or postgres is missing: run \`make deps\`"
	# A unix path holds 107 characters; postgres' name for its socket is the longest.
	[[ ${#pg} -le 90 ]] || die "$dir is too long for sockets: set SERVICES_DIR"
	# Only ours: somebody else could have made the directory before us.
	mkdir -p -m 700 "$dir"
	[[ -O $dir ]] || die "$dir belongs to somebody else: set SERVICES_DIR"
	start_redis
	start_postgres
	echo "export REDIS_URL=$redis_url"
	echo "export DATABASE_URL='$database_url'"
}

status() {
	local pid all=0
	if pid=$(redis_pid) && redis_answers; then
		echo "redis: runs, pid $pid, REDIS_URL=$redis_url"
	else
		echo "redis: does not run"
		all=1
	fi
	if pid=$(pg_pid) && pg_answers; then
		echo "postgres: runs, pid $pid, DATABASE_URL='$database_url'"
	else
		echo "postgres: does not run"
		all=1
	fi
	return $all
}

stop() {
	local pid
	if pid=$(pg_pid); then
		kill -INT "$pid" # at once: open connections are broken, what was committed is kept
		wait_for gone "$pid" || die "postgres (pid $pid) does not stop"
	fi
	if pid=$(redis_pid); then
		kill "$pid"
		wait_for gone "$pid" || die "redis-server (pid $pid) does not stop"
	fi
	if [[ -d $dir && -O $dir ]]; then
		rm -rf "${dir:?}"/{redis.pid,redis.sock,redis.log,appendonlydir,postgres,postgres.log,initdb.log}
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
