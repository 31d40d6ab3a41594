//go:build !unix

package accesslog

// write1 waits for as long as the reader makes it wait: Close gives up on it.
func (o *output) write1(p []byte, _ func() bool) (done int) {
	n, _ := o.file.Write(p)
	return n
}
