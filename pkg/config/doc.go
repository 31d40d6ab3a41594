// Package config is what the supervisor is told: it reads the file, the environment and the flags, refuses what it does not understand, and
// knows of each value where it came from. The master (pkg/supervisor) reads the result and never changes it. Linux only.
//
// # From sources to a Config
//
//	Sources → Load: defaults → file → environment → flags → validate → Config → Print, Check
//
// A later source wins. Load finds all problems before it gives up, so that an operator mends them in one go, and names each by file and
// line, variable or flag. It asks about this machine only what a value means here (users, directories, env_file). Check looks further:
// whether a start or a reload would work now, without disturbing anybody.
//
// # Adding a setting
//
// A field in Config, Pool or Dev, its row in a table of settings.go or dev.go, and its default in Defaults, where the zero value is not it. Key,
// variable, --print-config and what a bad value is told follow from the row. What single values cannot show is judged in validate.go. Tests say
// what is missing in etc/supervisor.toml and testdata/full.toml, and, of a setting with a flag, in cmd/supervisor/flags.go.
//
// # Rooms
//
//	config.go       what there is: Config, Pool, Bind       load.go         the order of things
//	settings.go     the tables of settings                  configfile.go   the file; document.go TOML with its lines
//	values.go       kinds of values: numbers, words, texts  environment.go  variables; envfile.go env_file
//	quantities.go   durations and sizes                     flags.go        the command line, and which pool it is about
//	words.go        commands, variables, quoting            validate.go     what follows from several settings
//	bind.go         addresses; socket.go their sockets      problem.go      what is wrong, and where values come from
//	check.go        --check-config; checkbind.go addresses  print.go        --print-config, without secrets
//	admin.go        where operators ask                     admintoken.go   their token
//	dev.go          [dev], --reload
package config
