package protocol

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// A profile goes over a stream socket of its own, the far end of which comes with VerbProfile:
//
//	worker       begun LF                            it has read the command
//	then         bytes N LF, N bytes, end of stream
//	or           failed WHY LF, end of stream        also in the place of begun
//	supervisor   nothing; its end of the stream ends a profile that runs
//
// A socket, and not a pipe, because either side then sees the other's end at once; and because of older workers: one that does not know the verb
// closes any connection that came along, so its stream ends without a word.

const (
	profileBegun  = "begun"
	profileBytes  = "bytes"
	profileFailed = "failed"
)

// maxProfileLine bounds a line of that, in bytes.
const maxProfileLine = 512

// ProfileArgs reads the arguments of a VerbProfile command.
func (c Command) ProfileArgs() (kind string, d time.Duration, err error) {
	ms, err := strconv.ParseInt(c.Arg(1), 10, 32)
	if err != nil || ms < 0 {
		return "", 0, fmt.Errorf("control: profile: %q is not a number of milliseconds", c.Arg(1))
	}
	return c.Arg(0), time.Duration(ms) * time.Millisecond, nil
}

// BeginProfile says that the command was read.
func BeginProfile(w io.Writer) error {
	_, err := io.WriteString(w, profileBegun+"\n")
	return err
}

// WriteProfile writes a profile, or why there is none.
func WriteProfile(w io.Writer, profile []byte, failed error) error {
	head := profileBytes + " " + strconv.Itoa(len(profile))
	if failed != nil {
		head = profileFailed + " " + strings.Join(strings.Fields(failed.Error()), " ")
		head, profile = head[:min(len(head), maxProfileLine-1)], nil
	}
	if _, err := io.WriteString(w, head+"\n"); err != nil {
		return err
	}
	_, err := w.Write(profile)
	return err
}

// ProfileError is why a worker gave no profile, in its own words.
type ProfileError string

func (e ProfileError) Error() string { return string(e) }

// ReadBegun waits until the worker has read the command. io.EOF says that it closed the stream without a word.
func ReadBegun(r *bufio.Reader) error {
	word, _, err := readProfileLine(r)
	if err == nil && word != profileBegun {
		err = fmt.Errorf("profile: %q in the place of %s", word, profileBegun)
	}
	return err
}

// ReadProfileSize waits for the profile and gives how many bytes of r it is.
func ReadProfileSize(r *bufio.Reader) (int64, error) {
	word, rest, err := readProfileLine(r)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if word != profileBytes || err != nil || n < 0 {
		return 0, fmt.Errorf("profile: %q in the place of its size", word+" "+rest)
	}
	return n, nil
}

// readProfileLine reads one line. The worker's failure is an error.
func readProfileLine(r *bufio.Reader) (word, rest string, err error) {
	var line strings.Builder
	for {
		b, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && line.Len() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", "", err
		}
		if b == '\n' {
			break
		}
		if line.Len() == maxProfileLine {
			return "", "", errors.New("profile: a line without an end")
		}
		line.WriteByte(b)
	}
	word, rest, _ = strings.Cut(line.String(), " ")
	if word == profileFailed {
		return "", "", ProfileError(rest)
	}
	return word, rest, nil
}
