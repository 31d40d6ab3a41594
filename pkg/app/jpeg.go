package app

import (
	"bytes"

	"github.com/valyala/fasthttp"
)

// maxScans bounds the passes over a progressive JPEG. Encoders write about ten. A pass over 40 million pixels costs an attacker
// 77 bytes and us 50 ms (measured), so without a bound 10 MiB keep a core busy for two hours; with it, five seconds.
const maxScans = 100

// jpegHeader is what stands before the pixels and decides what they cost.
type jpegHeader struct {
	exif        []byte // the TIFF structure, nil without one
	progressive bool
	samples     float64 // per pixel, 1.5 with 4:2:0
	scans       int     // at most; the two bytes of the mark may also be part of something else
}

// readJPEGHeader walks the segments exactly as image/jpeg does, so that both see the same frame. What it cannot read, it takes
// for the costliest.
func readJPEGHeader(data []byte) jpegHeader {
	h := jpegHeader{progressive: true, samples: 4, scans: bytes.Count(data, []byte{0xff, 0xda})}
	for rest := data[2:]; ; {
		mark := bytes.IndexByte(rest, 0xff)
		if mark < 0 {
			return h
		}
		for rest = rest[mark:]; len(rest) > 0 && rest[0] == 0xff; { // any number may come before the mark's kind
			rest = rest[1:]
		}
		if len(rest) == 0 {
			return h
		}
		kind := rest[0]
		rest = rest[1:]
		if kind == 0 || kind >= 0xd0 && kind <= 0xd7 { // a stuffed byte, or a restart mark: no segment follows
			continue
		}
		if len(rest) < 2 {
			return h
		}
		length := int(rest[0])<<8 | int(rest[1])
		if length < 2 || length > len(rest) {
			return h
		}
		segment := rest[2:length]
		rest = rest[length:]
		switch kind {
		case 0xc0, 0xc1, 0xc2: // frames: baseline, extended, progressive
			if samples, ok := samplesPerPixel(segment); ok {
				h.progressive, h.samples = kind == 0xc2, samples
			}
			return h
		case 0xd9, 0xda: // end of image, start of pixels
			return h
		case 0xe1:
			if exif, ok := bytes.CutPrefix(segment, []byte("Exif\x00\x00")); ok && h.exif == nil {
				h.exif = exif
			}
		}
	}
}

// samplesPerPixel reads the sampling factors of a frame: precision, height (2), width (2), count, then per component id,
// factors, table.
func samplesPerPixel(frame []byte) (float64, bool) {
	if len(frame) < 6 || len(frame) < 6+3*int(frame[5]) {
		return 0, false
	}
	total, maxH, maxV := 0, 1, 1
	for i := range int(frame[5]) {
		h, v := int(frame[7+3*i]>>4), int(frame[7+3*i]&15)
		total, maxH, maxV = total+h*v, max(maxH, h), max(maxV, v)
	}
	return float64(total) / float64(maxH*maxV), true
}

// memory is what decoding takes, in bytes: a byte per sample, and where passes refine it, four more for its coefficient.
func (h jpegHeader) memory(pixels int) int {
	perSample := 1.0
	if h.progressive {
		perSample += 4
	}
	return int(float64(pixels) * h.samples * perSample)
}

func (h jpegHeader) affordable(pixels int) error {
	if h.memory(pixels) > maxDecodeBytes {
		return newProblem(fasthttp.StatusUnprocessableEntity, "too_many_pixels",
			"a progressive JPEG of this size takes %d MB to decode: want at most %d, save it as baseline or smaller", h.memory(pixels)/1_000_000, maxDecodeBytes/1_000_000)
	}
	if h.progressive && h.scans > maxScans {
		return newProblem(fasthttp.StatusUnprocessableEntity, "too_many_scans", "the JPEG has %d passes: want at most %d, save it as baseline", h.scans, maxScans)
	}
	return nil
}
