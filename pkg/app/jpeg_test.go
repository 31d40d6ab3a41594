package app

import (
	"bytes"
	"testing"
)

func TestJPEGHeaderTellsWhatDecodingCosts(t *testing.T) {
	for _, c := range []struct {
		file        string
		data        []byte
		progressive bool
		samples     float64
		scans       int
	}{
		{"video-001.jpeg", nil, false, 3, 1},
		{"video-001.progressive.jpeg", nil, true, 3, 10},
		{"video-001.cmyk.jpeg", nil, false, 4, 1},
		{"encoded by Go", encodeJPEG(t, landscape(64, 64)), false, 1.5, 1},
		{"no subsampling", jpegClaiming(10, 10, true), true, 3, 1},
	} {
		if c.data == nil {
			c.data = readPicture(t, c.file)
		}
		h := readJPEGHeader(c.data)
		if h.progressive != c.progressive || h.samples != c.samples || h.scans != c.scans {
			t.Errorf("%s: %+v, want progressive %v, %v samples, %d scans", c.file, h, c.progressive, c.samples, c.scans)
		}
	}
}

func TestJPEGHeaderThatCannotBeReadIsTheCostliest(t *testing.T) {
	whole := jpegClaiming(10, 10, false)
	for length := 3; length < 20; length++ {
		if h := readJPEGHeader(whole[:length]); !h.progressive || h.samples != 4 {
			t.Errorf("%d bytes: %+v", length, h)
		}
	}
}

// image/jpeg skips what does not belong between segments; a frame must not hide behind it.
func TestJPEGFrameCannotHide(t *testing.T) {
	plain := jpegClaiming(6000, 6000, true)
	for name, between := range map[string][]byte{
		"fill":    {0xff, 0xff, 0xff},
		"stuffed": {0xff, 0x00, 0x17},
		"restart": {0xff, 0xd3},
		"garbage": []byte("garbage"),
		"comment": jpegSegment(0xfe, []byte{0xff, 0xc0, 0, 8}),
	} {
		hidden := bytes.Join([][]byte{plain[:2], between, plain[2:]}, nil)
		if h := readJPEGHeader(hidden); !h.progressive || h.samples != 3 {
			t.Errorf("behind %s: %+v", name, h)
		}
	}
}
