package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// namePattern is what pools and binds are called: both stand in lists and in names of variables.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

const nameRule = "letters, digits, _ and -"

// unixPathMax is the room in sockaddr_un, less the final NUL.
const unixPathMax = 107

// defaultSocketMode: nobody but the owner connects, unless the config says so.
const defaultSocketMode fs.FileMode = 0o600

// parseBind reads [name=]address:
//
//	:8080  host:8080  [::1]:8080           TCP; without a host all addresses, IPv4 and IPv6
//	tcp4:…  tcp6:…                         the same, of one family
//	unix:/path?mode=0660&user=U&group=G    a unix socket
//	systemd:NAME                           a socket that systemd passed under that FileDescriptorName
func parseBind(s string) (Bind, error) {
	b, rest := Bind{}, s
	if name, address, ok := strings.Cut(s, "="); ok && !strings.ContainsAny(name, ":/?[") {
		if !namePattern.MatchString(name) {
			return b, fmt.Errorf("%q: the name %q must be of %s", s, name, nameRule)
		}
		b.Name, rest = name, address
	}
	scheme, address, _ := strings.Cut(rest, ":")
	var err error
	switch scheme {
	case "unix":
		err = b.parseUnix(address)
	case "systemd":
		b.Network, b.Address = "systemd", address
		if address == "" || strings.ContainsAny(address, ":\x00") || len(address) > 255 {
			err = errors.New("systemd: wants the FileDescriptorName of a socket, as in systemd:web")
		}
	case "tcp", "tcp4", "tcp6":
		if strings.Contains(address, ":") {
			err = b.parseTCP(scheme, address)
		} else {
			err = b.parseTCP("tcp", rest) // a host called tcp
		}
	default:
		err = b.parseTCP("tcp", rest)
	}
	if err != nil {
		return b, fmt.Errorf("%q: %w", s, err)
	}
	return b, nil
}

func (b *Bind) parseTCP(network, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		switch {
		case isPort(address):
			return fmt.Errorf(`write ":%s"`, address)
		case strings.HasPrefix(address, "/") || strings.HasPrefix(address, "."):
			return fmt.Errorf(`write "unix:%s"`, address)
		case strings.Count(address, ":") > 1 && !strings.HasPrefix(address, "["):
			return errors.New(`an IPv6 address stands in brackets, as in "[::1]:8080"`)
		case !strings.Contains(address, ":"):
			return errors.New(`has no port; write ":8080", "host:8080" or "unix:/path"`)
		}
		return errors.New(`is not an address; write ":8080", "host:8080", "[::1]:8080" or "unix:/path"`)
	}
	if !isPort(port) {
		return fmt.Errorf("the port %q is not a number from 0 to 65535", port)
	}
	if strings.ContainsAny(host, " \t\n/?#@=\x00") {
		return fmt.Errorf("%q is not a host", host)
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		switch {
		case ip.Is4() && network == "tcp6":
			return errors.New("tcp6: wants an IPv6 address")
		case ip.Is6() && network == "tcp4":
			return errors.New("tcp4: wants an IPv4 address")
		case ip.Is4() && ip.IsUnspecified():
			network = "tcp4" // Go takes 0.0.0.0 for both families; nobody who writes it does
		}
		host = ip.String()
	} else if strings.ContainsAny(host, ":%") {
		return fmt.Errorf("%q is not an IPv6 address", host)
	}
	number, _ := strconv.Atoi(port) // 080 is 80
	b.Network, b.Address = network, net.JoinHostPort(host, strconv.Itoa(number))
	return nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func (b *Bind) parseUnix(s string) error {
	path, query, _ := strings.Cut(s, "?")
	b.Network, b.Mode = "unix", defaultSocketMode
	switch {
	case path == "" || strings.ContainsRune(path, 0):
		return errors.New("unix: wants a path, as in unix:/run/app.sock")
	case strings.HasPrefix(path, "@"):
		return errors.New("an abstract socket has no owner and no mode: anybody may connect; use a path")
	case strings.HasSuffix(path, "/"):
		return errors.New("unix: wants the path of a socket, not of a directory")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if b.Address = path; len(path) > unixPathMax {
		return fmt.Errorf("the path is %d bytes long; a unix socket's has room for %d", len(path), unixPathMax)
	}
	options, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("the part after ? is not name=value&name=value: %w", err)
	}
	for key, values := range options {
		value := values[len(values)-1]
		switch key {
		case "mode":
			n, err := strconv.ParseUint(strings.TrimPrefix(value, "0o"), 8, 32)
			if err != nil || n > 0o777 {
				return fmt.Errorf("mode %q is not an octal mode such as 0660", value)
			}
			b.Mode = fs.FileMode(n)
		case "user":
			b.User = value
		case "group":
			b.Group = value
		default:
			return fmt.Errorf("unknown option %q%s", key, didYouMean(key, []string{"mode", "user", "group"}))
		}
	}
	return nil
}

// String gives the address as it would stand in a config file.
func (b Bind) String() string {
	name := ""
	if b.Name != "" {
		name = b.Name + "="
	}
	switch b.Network {
	case "tcp":
		if strings.HasPrefix(b.Address, "tcp:") || strings.HasPrefix(b.Address, "unix:") || strings.HasPrefix(b.Address, "systemd:") ||
			strings.HasPrefix(b.Address, "tcp4:") || strings.HasPrefix(b.Address, "tcp6:") {
			return name + "tcp:" + b.Address // a host of that name
		}
		return name + b.Address
	case "unix":
		options := url.Values{}
		if b.Mode != defaultSocketMode {
			options.Set("mode", fmt.Sprintf("%04o", b.Mode.Perm()))
		}
		if b.User != "" {
			options.Set("user", b.User)
		}
		if b.Group != "" {
			options.Set("group", b.Group)
		}
		if len(options) > 0 {
			return name + "unix:" + b.Address + "?" + options.Encode()
		}
	}
	return name + b.Network + ":" + b.Address
}

// overlaps reports whether two addresses cannot be bound at once.
func (b Bind) overlaps(other Bind) bool {
	tcp := strings.HasPrefix(b.Network, "tcp")
	if tcp != strings.HasPrefix(other.Network, "tcp") {
		return false
	}
	if !tcp {
		return b.Network == other.Network && b.Address == other.Address
	}
	host, port, _ := net.SplitHostPort(b.Address)
	otherHost, otherPort, _ := net.SplitHostPort(other.Address)
	if port != otherPort || port == "0" {
		return false
	}
	families, otherFamilies := b.families(host), other.families(otherHost)
	if families&otherFamilies == 0 {
		return false
	}
	return host == otherHost || isAnyHost(host) || isAnyHost(otherHost)
}

// families gives bit 4 for IPv4 and bit 6 for IPv6.
func (b Bind) families(host string) int {
	ip, err := netip.ParseAddr(host)
	switch {
	case b.Network == "tcp4" || (err == nil && ip.Is4()):
		return 1 << 4
	case b.Network == "tcp6" || (err == nil && !ip.IsUnspecified()):
		return 1 << 6
	}
	return 1<<4 | 1<<6
}

func isAnyHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || (err == nil && ip.IsUnspecified())
}

// bindsKind is a list of addresses, or one. Load gives names to those that have none.
type bindsKind struct{}

func (bindsKind) parse(v any, to any) (string, error) {
	const what = `a list of addresses: write [":8080"]`
	var list []string
	switch x := v.(type) {
	case string:
		list = []string{x}
	case []any:
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return "", want(e, `an address: write ":8080" in quotes`)
			}
			list = append(list, s)
		}
	case literals:
		for _, s := range x {
			list = append(list, string(s))
		}
	case literal:
		list = strings.FieldsFunc(string(x), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	default:
		return "", want(v, what)
	}
	var binds []Bind
	for _, s := range list {
		b, err := parseBind(s)
		if err != nil {
			return "", err
		}
		binds = append(binds, b)
	}
	*to.(*[]Bind) = binds
	return "", nil
}

func (bindsKind) show(from any) string {
	binds := *from.(*[]Bind)
	list := make([]string, len(binds))
	for i, b := range binds {
		list[i] = b.String()
	}
	return quoteList(list)
}
