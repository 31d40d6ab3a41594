package main

import "strings"

// helpText is what --help prints.
func helpText() string {
	var flags strings.Builder
	for _, o := range options {
		flags.WriteString(o.line())
	}
	return strings.Replace(help, "FLAGS\n", "FLAGS\n"+flags.String(), 1)
}

const help = `supervisor runs N copies of a server on sockets that it holds, and replaces them without losing a request.

USAGE
   supervisor [flags] -- COMMAND [ARGUMENT…]
   supervisor -c FILE [flags] [-- COMMAND [ARGUMENT…]]
   supervisor ctl COMMAND                          talk to one that runs: status, logs, reload, …; see ctl --help
   supervisor completion bash|zsh|fish             a script that completes all this in a shell
   supervisor healthcheck                          is it ready? Exit code 0 or 1; see healthcheck --help

EXAMPLES
   supervisor -w 4 -b :8080 -- bin/app serve       four workers on one port, no file
   supervisor -c etc/supervisor.toml               all pools of a file
   supervisor -c etc/supervisor.toml --pool jobs   one of them
   supervisor --reload -b :8080 -- bin/app serve   development: builds and reloads whenever a file is saved
   supervisor -c FILE --check-config && kill -HUP "$(cat PIDFILE)"
                                                   deploy: nothing changes unless the file is good

FLAGS

   Flags are about the pool called web, or with a file the one pool with bind; with --pool, about that pool.
   A flag wins over the environment, the environment over the file, the file over the default.
   A worker's flags stand after --; before it there are no arguments.

SIGNALS
   TERM         graceful stop: no new connections, running requests end within graceful_timeout; drain_delay comes
                before it, and a second TERM ends that
   INT, QUIT    quick stop
   HUP          reload: read the configuration again and replace all workers; if it fails, nothing changes
   USR2         self-upgrade: the supervisor on disk takes addresses, workers and connections over; if it does not
                come up, nothing changes
   USR1         reopen the log files
   TTIN, TTOU   one worker more, one less, in the (first) pool with an address
   WINCH        all workers drain, the sockets stay, until HUP or TTIN; nothing where there is a terminal

EXIT CODES
   0    stopped as asked              69   an address or the pidfile is taken
   1    failed while running          75   no worker became ready
   64   bad flags or arguments        78   bad configuration

ENVIRONMENT
   WORKERS, WORKER_TIMEOUT, MAX_REQUESTS, MAX_REQUESTS_JITTER, GRACEFUL_TIMEOUT, KEEPALIVE
                                   for the one pool with bind
   SUPERVISOR_POOL_<NAME>_<KEY>    any key of [pool.NAME], as in SUPERVISOR_POOL_WEB_MAX_MEMORY=512MiB
   SUPERVISOR_<KEY>                any key of [supervisor], as in SUPERVISOR_LOGLEVEL=debug
   SUPERVISOR_DEV_<KEY>            any key of [dev]
   An empty variable counts as not set.
`
