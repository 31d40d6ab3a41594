package config

// Elsewhere says what stands here for a setting of gunicorn's that we do not have, as the tail of an error; "" if there is nothing to say.
func Elsewhere(name string) string {
	if text := elsewhere[name]; text != "" {
		return ", one of gunicorn's: " + text
	}
	return ""
}

// unknownTail is for a key that is none.
func unknownTail(name string, known []string) string {
	if text := Elsewhere(name); text != "" {
		return text
	}
	return didYouMean(name, known)
}

// elsewhere is what people who come from gunicorn write. Names that only differ in spelling are left to Nearest.
var elsewhere = map[string]string{
	"worker_class":        "a worker is any program, named by command",
	"threads":             "how many requests a worker serves at once is its program's own; workers counts processes",
	"preload_app":         "each worker executes its command anew, nothing is loaded before a fork",
	"wsgi_app":            "command is what workers execute",
	"raw_env":             "[pool.NAME.env] has the variables of workers, -e NAME=VALUE on the command line",
	"daemon":              "it stays in the foreground, for systemd or a container to run",
	"reload_engine":       "inotify watches files, see [dev]",
	"reload_extra_file":   "write reload_extra_files in [dev]",
	"reuse_port":          `each worker has a socket of its own anyway: sockets = "slots"`,
	"certfile":            "TLS is for a proxy in front, or for the workers themselves",
	"keyfile":             "TLS is for a proxy in front, or for the workers themselves",
	"forwarded_allow_ips": "workers judge that themselves, as app serve --trusted-proxies does",
	"worker_tmp_dir":      "signs of life go through shared memory",
	"capture_output":      "the workers' output is always captured, see output",
}
