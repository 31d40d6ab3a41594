package config

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const sample = "../../etc/supervisor.toml"

func TestSampleLoads(t *testing.T) {
	cfg := mustLoad(t, Sources{File: sample})
	if len(cfg.Pools) != 1 || cfg.Pools[0].Name != "web" || len(cfg.Pools[0].Bind) == 0 {
		t.Errorf("%+v", cfg)
	}
}

// The sample shows each key with its default: as a comment, or as a line in force. Above each stands a sentence.
func TestSampleShowsEveryKeyWithItsDefault(t *testing.T) {
	text, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^(# )?([a-z_.]+) = (.*)$`)
	header := regexp.MustCompile(`^\[([a-z.]+)\]$`)
	shown, section := map[string][]string{}, ""
	lines := strings.Split(string(text), "\n")
	for i, l := range lines {
		if m := header.FindStringSubmatch(l); m != nil {
			section = m[1]
		}
		m := line.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		key := section + "." + m[2]
		shown[key] = append(shown[key], m[3])
		above := lines[i-1]
		if !strings.HasPrefix(above, "# ") && !strings.HasPrefix(above, m[2]+" = ") {
			t.Errorf("line %d: no sentence above %s", i+1, key)
		}
	}
	defaults := Defaults()
	want := map[string]string{}
	for _, s := range supervisorSettings {
		want["supervisor."+s.key] = s.kind.show(s.field(defaults))
	}
	for _, s := range devSettings {
		want["dev."+s.key] = s.kind.show(s.field(&defaults.Dev))
	}
	for _, s := range poolSettings {
		want["pool.web."+s.key] = s.kind.show(s.field(defaults.Pools[0]))
	}
	delete(want, "pool.web.command") // has none
	if len(shown["pool.web.command"]) == 0 {
		t.Error("the sample does not show command")
	}
	for key, value := range want {
		if !slices.Contains(shown[key], value) {
			t.Errorf("the sample shows %s = %q, the default is %s", key, shown[key], value)
		}
	}
	for key := range shown {
		if _, ok := want[key]; !ok && key != "pool.web.command" {
			t.Errorf("the sample shows %s, which is no setting", key)
		}
	}
}

func TestDurationsAndSizes(t *testing.T) {
	for in, want := range map[string]string{
		"30": `"30s"`, "1.5": `"1.5s"`, "1m30s": `"1m30s"`, "60": `"1m"`, "3600": `"1h"`, "24h": `"24h"`, "0": `"0s"`, " 5s ": `"5s"`, "10m": `"10m"`, "20ms": `"20ms"`, "1h0m10s": `"1h0m10s"`,
	} {
		p := Defaults().Pools[0]
		if _, err := (durationKind{}).parse(literal(in), &p.Timeout); err != nil || (durationKind{}).show(&p.Timeout) != want {
			t.Errorf("%q gives %s, %v, want %s", in, durationKind{}.show(&p.Timeout), err, want)
		}
	}
	for in, want := range map[string]string{
		"256MiB": `"256MiB"`, "1GiB": `"1GiB"`, "1g": `"1GiB"`, "1.5GiB": `"1536MiB"`, "512 MB": `"500000KiB"`, "1048577": "1048577", "0": "0", "2048 kib": `"2MiB"`, "2097152b": `"2MiB"`,
	} {
		p := Defaults().Pools[0]
		if _, err := (sizeKind{}).parse(literal(in), &p.MaxMemory); err != nil || (sizeKind{}).show(&p.MaxMemory) != want {
			t.Errorf("%q gives %s, %v, want %s", in, sizeKind{}.show(&p.MaxMemory), err, want)
		}
	}
}
