#!/usr/bin/env bash
# Rules of this house that no general linter knows. Each line: files, what must not be in them, and why.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

# never REGEXP REASON FILE...: none of these files may match.
never() {
	local pattern=$1 reason=$2
	shift 2
	[[ $# -gt 0 ]] || return 0
	if grep -nE -- "$pattern" "$@" /dev/null >&2; then
		echo "house rule: $reason" >&2
		failed=1
	fi
}
# sources DIR [find arguments]: the Go files of DIR that are not tests.
sources() {
	[[ -d $1 ]] && find "$@" -name '*.go' ! -name '*_test.go'
}
# The configuration is the master's, in a package of its own: the same goroutine reads it.
mapfile -t master < <(for dir in pkg/supervisor pkg/config pkg/machine; do sources $dir; done)
mapfile -t worker < <(sources pkg/worker -maxdepth 1)
# The exec stub is a main of its own: it never returns. A worker's loop stands in for a signal's default action, which is to end the
# process. The fake supervisor of tests is a main, too.
mapfile -t libraries < <(sources pkg ! -path pkg/supervisor/stub.go ! -path pkg/worker/loop.go ! -path 'pkg/worker/internal/fake/*')

never 'sync\.(RW)?Mutex' 'the master has no mutex: one goroutine owns the state, the others tell it facts' "${master[@]}"
never 'exec\.Command' 'the master starts no process through os/exec: ExtraFiles clears O_NONBLOCK on the shared socket, and a worker then hangs in Close' "${master[@]}"
never 'os\.Exit\(|log\.Fatal' 'only main exits' "${libraries[@]}"
never '^(import)?[[:space:]]*([a-zA-Z_.]+ )?"(github\.com|go\.uber\.org)/' 'pkg/worker is imported by strangers: standard library, golang.org/x/sys and this module only' "${worker[@]}"
exit $failed
