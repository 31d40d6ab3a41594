#!/usr/bin/env bash
# Installs what tests and benchmarks use beside Go: a C compiler for -race, foreign workers (gunicorn, node, python),
# the yardsticks (wrk, nginx), Redis and PostgreSQL, shells to complete in, and a systemd to try the units in. Only what is missing, only Debian packages.
#
# usage: scripts/deps.sh           install what is missing
#        scripts/deps.sh --check   only say what is missing; exit 1 if anything is
set -euo pipefail

# program:package. Programs are looked for in /usr/sbin too: nginx lives there and a user's PATH may lack it.
wanted=(
	gcc:gcc
	git:git
	curl:curl
	ps:procps
	ss:iproute2
	python3:python3
	gunicorn:gunicorn
	node:nodejs
	wrk:wrk
	nginx:nginx-light
	redis-server:redis-server
	chromium:chromium
	postgres:postgresql
	aiosmtpd:python3-aiosmtpd
	systemctl:systemd
	prometheus:prometheus
	zsh:zsh
	fish:fish
)
export PATH="$PATH:/usr/sbin:/sbin"
# Debian keeps the server's programs in a directory per version.
for bin in /usr/lib/postgresql/*/bin; do PATH+=:$bin; done

missing_programs=() missing_packages=()
for pair in "${wanted[@]}"; do
	if ! command -v "${pair%%:*}" >/dev/null; then
		missing_programs+=("${pair%%:*}")
		missing_packages+=("${pair##*:}")
	fi
done
# A compiler without headers cannot build cgo.
if [[ "$(uname)" == Linux && ! -e /usr/include/stdlib.h ]]; then
	missing_programs+=(stdlib.h)
	missing_packages+=(libc6-dev)
fi
[[ ${#missing_packages[@]} -eq 0 ]] && exit 0

die() {
	echo "deps: $*" >&2
	exit 1
}
if [[ "${1:-}" == --check ]]; then
	die "missing: ${missing_programs[*]}; run: make deps"
fi
command -v apt-get >/dev/null ||
	die "missing: ${missing_programs[*]}, and there is no apt-get here: install them by hand"

root=()
if [[ $EUID -ne 0 ]]; then
	command -v sudo >/dev/null || die "missing: ${missing_programs[*]}; run as root: apt-get install ${missing_packages[*]}"
	root=(sudo)
	# Without a terminal nobody can type a password: fail rather than hang.
	[[ -t 0 ]] || root=(sudo -n)
fi

# nginx and others want to start a service when they are installed; it would hold port 80 and survive the tests. policy-rc.d is Debian's
# way to say no. One that is there already is somebody else's decision and stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
	printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
	"${root[@]}" chmod 755 "$policy"
	trap '"${root[@]}" rm -f "$policy"' EXIT
fi

log=$(mktemp)
apt() {
	"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 "$@" </dev/null >>"$log" 2>&1
}
install_all() { apt install -y --no-install-recommends "${missing_packages[@]}"; }

echo "deps: installing ${missing_packages[*]}" >&2
# The package lists may be absent (a fresh container) or stale (a 404): refresh and try again, twice.
install_all || { apt update && install_all; } || { sleep 5; apt update && install_all; } || {
	tail -n 20 "$log" >&2
	die "could not install ${missing_packages[*]}; the whole output: $log"
}
rm -f "$log"
