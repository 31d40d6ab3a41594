package protocol

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestProfileGoesOver(t *testing.T) {
	var stream bytes.Buffer
	BeginProfile(&stream)
	WriteProfile(&stream, []byte("all of it\n"), nil)
	r := bufio.NewReader(&stream)
	if err := ReadBegun(r); err != nil {
		t.Fatal(err)
	}
	n, err := ReadProfileSize(r)
	rest, _ := io.ReadAll(r)
	if err != nil || n != int64(len(rest)) || string(rest) != "all of it\n" {
		t.Errorf("%d %q, %v", n, rest, err)
	}
	why := "it rains\n" + strings.Repeat("x", 2*maxProfileLine)
	WriteProfile(&stream, []byte("half"), errors.New(why))
	said := ProfileError("")
	if _, err := ReadProfileSize(bufio.NewReader(&stream)); !errors.As(err, &said) || !strings.HasPrefix(string(said), "it rains xxx") {
		t.Errorf("%v", err)
	}
}

// Whatever a worker writes, its reader ends with an error.
func TestProfileOfAStrangeWorker(t *testing.T) {
	for said, want := range map[string]string{
		"":                                       "EOF",
		"beg":                                    "unexpected EOF",
		"hello\n":                                `"hello" in the place of begun`,
		"failed it rains\n":                      "it rains",
		strings.Repeat("x", 2*maxProfileLine):    "a line without an end",
		"begun\n":                                "unexpected EOF",
		"begun\nbytes\n":                         "in the place of its size",
		"begun\nbytes -1\n":                      "in the place of its size",
		"begun\nbytes 99999999999999999999999\n": "in the place of its size",
		"begun\nfailed it rains\n":               "it rains",
	} {
		r := bufio.NewReader(strings.NewReader(said))
		err := ReadBegun(r)
		if err == nil {
			_, err = ReadProfileSize(r)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", said, err)
		}
	}
	if err := ReadBegun(bufio.NewReader(strings.NewReader(""))); err != io.EOF {
		t.Errorf("%v", err)
	}
}

func TestProfileArguments(t *testing.T) {
	kind, d, err := Command{VerbProfile, []string{"cpu", "1500"}}.ProfileArgs()
	if kind != "cpu" || d != 1500*time.Millisecond || err != nil {
		t.Errorf("%s %v %v", kind, d, err)
	}
	for _, args := range [][]string{nil, {"cpu"}, {"cpu", "x"}, {"cpu", "-1"}, {"cpu", "99999999999"}} {
		if _, _, err := (Command{VerbProfile, args}).ProfileArgs(); err == nil {
			t.Errorf("%q is fine", args)
		}
	}
}
