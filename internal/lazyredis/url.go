package lazyredis

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// refreshEvery is how often a client of a cluster or of Sentinels asks who is the primary, beside what it hears by itself: a server that
// hangs breaks no connection, and a message may be missed.
const refreshEvery = 5 * time.Second

// errURL does not say where the parser stumbled: where a password has such characters, that is in the middle of it.
var errURL = errors.New("want redis://[user:password@]host[:port][/db], rediss://… or unix:/path; in a password write % / ? # : @ as %25 %2F %3F %23 %3A %40")

// Parse reads a URL as rueidis.ParseURL does (redis://, rediss://, unix://; ?db=, ?addr=, ?master_set=, ?skip_verify= …), and besides
//
//	ca=FILE              rediss: who signs the servers' certificates, instead of the system's list
//	cert=FILE&key=FILE   rediss: this client's own
//	sentinel_username=, sentinel_password=   of the Sentinels; what stands before the @ is for the servers that they watch
//
// with the settings that all our clients share. Its errors do not repeat the URL, which may hold a password.
func Parse(address string) (rueidis.ClientOption, error) {
	base, query, _ := strings.Cut(address, "?")
	base = strings.TrimSuffix(base, "/") // redis://host/ is how many write redis://host; the parser takes the empty path for a database number
	if query != "" {
		base += "?" + query
	}
	settings, err := rueidis.ParseURL(base)
	if err != nil || settings.InitAddress[0] == "" {
		return settings, errURL
	}
	settings.DisableCache = true // no CLIENT TRACKING: nothing here is read twice
	settings.DisableRetry = true // it would retry until the context ends; callers know better what may be sent twice
	settings.ReadBufferEachConn, settings.WriteBufferEachConn = 64<<10, 64<<10
	settings.RingScaleEachConn = 8 // few calls are under way at once
	settings.ClusterOption.ShardsRefreshInterval = refreshEvery
	settings.Sentinel.TopologyRefreshInterval = refreshEvery
	values, err := url.ParseQuery(query)
	if err != nil {
		return settings, errURL
	}
	settings.Sentinel.Username, settings.Sentinel.Password = values.Get("sentinel_username"), values.Get("sentinel_password")
	if err := secure(settings.TLSConfig, values); err != nil {
		return settings, err
	}
	settings.Sentinel.TLSConfig = settings.TLSConfig
	return settings, nil
}

// secure reads the files of a rediss:// URL.
func secure(config *tls.Config, values url.Values) error {
	ca, cert, key := values.Get("ca"), values.Get("cert"), values.Get("key")
	switch {
	case ca == "" && cert == "" && key == "":
		return nil
	case config == nil:
		return errors.New("ca, cert and key are for rediss://")
	case (cert == "") != (key == ""):
		return errors.New("cert and key go together")
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return fmt.Errorf("ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca: there is no certificate in %s", ca)
		}
	}
	if cert != "" {
		own, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("cert and key: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	return nil
}
