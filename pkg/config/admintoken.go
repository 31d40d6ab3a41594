package config

import (
	"errors"
	"fmt"
	"strings"

	"supervisor/pkg/operator"
)

// adminTokenVariable holds the operator's token itself. Like all of SUPERVISOR_… no worker and no hook sees it.
const adminTokenVariable = supervisorPrefix + "ADMIN_TOKEN"

// ReadAdminToken reads the operator's token, from the environment or else from its file, into AdminToken. It stands in nothing that is written: neither in
// --print-config nor in what the next supervisor gets. Its errors do not hold it.
func (c *Config) ReadAdminToken(getenv func(string) string) error {
	token, err := readAdminToken(getenv(adminTokenVariable), c.AdminTokenFile)
	if err == nil {
		c.AdminToken = token
	}
	return err
}

func readAdminToken(text, file string) (operator.Token, error) {
	if text != "" {
		token, err := operator.ParseToken(text)
		if err != nil {
			return "", fmt.Errorf("the token %w", err)
		}
		return token, nil
	}
	if file == "" {
		return "", nil
	}
	data, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, withoutPath(err))
	}
	text = strings.TrimSpace(string(data))
	if strings.ContainsAny(text, "\r\n") {
		return "", fmt.Errorf("%s: it holds more than one line; the token is all that it shall hold", file)
	}
	token, err := operator.ParseToken(text)
	switch {
	case text == "":
		err = errors.New("is empty: write a token of at least 16 characters into it, as from openssl rand -hex 32")
	case err != nil:
		err = fmt.Errorf("the token %w", err)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	return token, nil
}

// validateAdminToken reads the token, too: a reload takes a new one.
func (l *loader) validateAdminToken() {
	const key = "supervisor.admin_token_file"
	variable := origin{kind: fromEnvironment, name: adminTokenVariable}
	if l.broken[key] {
		return
	}
	from := l.cfg.sources[key]
	if l.src.Env[adminTokenVariable] != "" {
		if from.kind == fromEnvironment && l.cfg.AdminTokenFile != "" {
			l.fail(variable, key, "%s is set as well: which one is it?", from.name)
			return
		}
		from.note = "the token is in " + adminTokenVariable
		l.cfg.sources[key] = from
		from = variable
	}
	if err := l.cfg.ReadAdminToken(func(name string) string { return l.src.Env[name] }); err != nil {
		l.fail(from, key, "%v", err)
	}
}
