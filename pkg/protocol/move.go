package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// A connection moves from one process to another as one message on the adopt socket of its bind, a SOCK_SEQPACKET pair. The
// message is a header (below) and two descriptors: the connection, and the far end of a stream socketpair, the receipt. The taker
// writes one byte into the receipt before it serves; the giver, who waits for the byte, serves no longer once it has come. So
// exactly one of the two serves, whatever fails (move_linux.go has both sides):
//
//	queue full, too many descriptors in flight      the message never leaves: the giver serves
//	taker at its descriptor limit (MSG_CTRUNC)      it closes what it got: the giver sees EOF, and serves
//	taker dies or hangs before its byte             EOF, or no byte in ReceiptTimeout: the giver serves
//	the byte comes in the moment the giver gives up the giver shuts its end for reading, then looks once more: the byte is there
//	                                                (the taker serves) or can never come (its write fails with EPIPE)
//
//	offset  size  header, big endian
//	0       4     magic
//	4       1     version
//	5       1     length of the bind's name
//	6       2     length of the remote address
//	8       8     requests served so far
//	16      …     the bind's name, then the remote address

// ReceiptTimeout is how long a giver waits for the receipt. A taker that runs needs some 30 µs; a quarter of a second is short enough
// for a client whose request arrived meanwhile.
const ReceiptTimeout = 250 * time.Millisecond

const (
	moveMagic   = 0x53_4D_4F_56 // "SMOV"
	moveVersion = 1
	moveHeader  = 16
	maxMove     = 1024 // bytes of a message without its descriptors
)

// Move says what a connection takes along.
type Move struct {
	Bind   string // name of the bind that accepted it, at most 255 bytes
	Served uint64 // requests answered so far; 0: its first one is still to come
	Remote string // the client's address as the giver knows it; "" when the kernel's is right
}

// ErrNotTaken says that the giver still has the connection, and serves it.
var ErrNotTaken = errors.New("move: nobody took the connection")

// ErrTruncated says that a taker could not receive a message whole, as a rule because it is at its descriptor limit. The giver
// serves the connection. The taker should pause before it takes the next one.
var ErrTruncated = errors.New("move: message without its descriptors")

func (m Move) packet() ([]byte, error) {
	if len(m.Bind) > 255 || moveHeader+len(m.Bind)+len(m.Remote) > maxMove {
		return nil, fmt.Errorf("move: bind %q or address %q is too long", m.Bind, m.Remote)
	}
	p := make([]byte, moveHeader, moveHeader+len(m.Bind)+len(m.Remote))
	binary.BigEndian.PutUint32(p, moveMagic)
	p[4], p[5] = moveVersion, byte(len(m.Bind))
	binary.BigEndian.PutUint16(p[6:], uint16(len(m.Remote)))
	binary.BigEndian.PutUint64(p[8:], m.Served)
	return append(append(p, m.Bind...), m.Remote...), nil
}

func parseMove(p []byte) (Move, error) {
	if len(p) < moveHeader || binary.BigEndian.Uint32(p) != moveMagic {
		return Move{}, errors.New("move: not a moved connection")
	}
	if p[4] != moveVersion {
		return Move{}, fmt.Errorf("move: version %d, this program knows %d", p[4], moveVersion)
	}
	bind, remote := int(p[5]), int(binary.BigEndian.Uint16(p[6:]))
	if len(p) != moveHeader+bind+remote {
		return Move{}, fmt.Errorf("move: message of %d bytes", len(p))
	}
	return Move{
		Bind:   string(p[moveHeader : moveHeader+bind]),
		Served: binary.BigEndian.Uint64(p[8:]),
		Remote: string(p[moveHeader+bind:]),
	}, nil
}
