package app

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// The pictures that tests send: photographs from testdata, painted ones of any size, and files that lie.

func readPicture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// landscape paints what a camera sees: a sky that changes slowly, a sun, hills with sharp edges, and the grain of a sensor.
// Such a picture costs a decoder what a photograph does.
func landscape(width, height int) *image.RGBA {
	scene := image.NewRGBA(image.Rect(0, 0, width, height))
	hill := func(x, number float64) float64 {
		return 0.45 + 0.12*number + 0.08*math.Sin(x*(3+number)+number) + 0.03*math.Sin(x*17*number) + 0.008*math.Sin(x*91+number)
	}
	edges := make([][3]float64, width)
	for x := range edges {
		for n := range edges[x] {
			edges[x][n] = hill(2*math.Pi*float64(x)/float64(width), float64(n+1))
		}
	}
	seed := uint32(1)
	for y := range height {
		down := float64(y) / float64(height)
		for x := range width {
			across := float64(x) / float64(width)
			r, g, b := 90+150*down, 130+70*down, 215-60*down
			if dx, dy := (across-0.7)*float64(width)/float64(height), down-0.25; dx*dx+dy*dy < 0.004 {
				r, g, b = 255, 240, 190
			}
			for n, edge := range edges[x] {
				if down > edge {
					shade := 1 - 0.25*float64(n) - 0.4*(down-edge)
					r, g, b = 95*shade, 140*shade, 100*shade
				}
			}
			seed = seed*1664525 + 1013904223
			grain := float64(seed>>24)/16 - 8
			scene.SetRGBA(x, y, color.RGBA{clamp(r + grain), clamp(g + grain), clamp(b + grain), 255})
		}
	}
	return scene
}

func clamp(v float64) uint8 { return uint8(max(0, min(255, v))) }

func encodeJPEG(t testing.TB, picture image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, picture, &jpeg.Options{Quality: 90}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func encodePNG(t testing.TB, picture image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, picture); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// filled is a picture of one colour.
func filled(width, height int, c color.Color) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.Set(x, y, c)
		}
	}
	return m
}

// exifWith is a TIFF structure whose directory says only the orientation, after a tag that is not it.
func exifWith(order binary.AppendByteOrder, orientation uint16) []byte {
	b := []byte("II*\x00")
	if order.String() == "BigEndian" {
		b = []byte("MM\x00*")
	}
	b = order.AppendUint32(b, 8)
	b = order.AppendUint16(b, 2)
	for _, entry := range [][2]uint16{{0x0100, 640}, {0x0112, orientation}} {
		b = order.AppendUint16(b, entry[0])
		b = order.AppendUint16(b, 3) // short
		b = order.AppendUint32(b, 1)
		b = order.AppendUint16(b, entry[1])
		b = append(b, 0, 0)
	}
	return order.AppendUint32(b, 0)
}

func jpegSegment(kind byte, content []byte) []byte {
	segment := binary.BigEndian.AppendUint16([]byte{0xff, kind}, uint16(len(content)+2))
	return append(segment, content...)
}

func withJPEGExif(data, tiff []byte) []byte {
	segment := jpegSegment(0xe1, append([]byte("Exif\x00\x00"), tiff...))
	return bytes.Join([][]byte{data[:2], segment, data[2:]}, nil)
}

func pngChunk(kind string, content []byte) []byte {
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(content)))
	chunk = append(append(chunk, kind...), content...)
	return binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
}

func withPNGExif(data, tiff []byte) []byte {
	const afterHeader = 8 + 25
	return bytes.Join([][]byte{data[:afterHeader], pngChunk("eXIf", tiff), data[afterHeader:]}, nil)
}

func webpChunk(kind string, content []byte) []byte {
	chunk := binary.LittleEndian.AppendUint32([]byte(kind), uint32(len(content)))
	chunk = append(chunk, content...)
	if len(content)%2 == 1 {
		chunk = append(chunk, 0)
	}
	return chunk
}

func withWebPExif(data, tiff []byte) []byte {
	with := append(bytes.Clone(data), webpChunk("EXIF", tiff)...)
	binary.LittleEndian.PutUint32(with[4:], uint32(len(with)-8))
	return with
}

// Files of some dozen bytes whose headers promise enormous pictures.

func pngClaiming(width, height uint32) []byte {
	header := binary.BigEndian.AppendUint32(nil, width)
	header = binary.BigEndian.AppendUint32(header, height)
	header = append(header, 8, 6, 0, 0, 0) // 8 bits, with alpha
	return append([]byte("\x89PNG\r\n\x1a\n"), pngChunk("IHDR", header)...)
}

func gifClaiming(width, height uint16) []byte {
	b := binary.LittleEndian.AppendUint16([]byte("GIF89a"), width)
	b = binary.LittleEndian.AppendUint16(b, height)
	return append(b, 0, 0, 0, 0x2c, 0, 0, 0, 0, byte(width), byte(width>>8), byte(height), byte(height>>8), 0x80, 0, 0, 0, 1, 1, 1, 2)
}

func webpClaiming(width, height uint32) []byte {
	content := []byte{0, 0, 0, 0, byte(width - 1), byte((width - 1) >> 8), byte((width - 1) >> 16), byte(height - 1), byte((height - 1) >> 8), byte((height - 1) >> 16)}
	chunk := webpChunk("VP8X", content)
	b := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(4+len(chunk)))
	return append(append(b, "WEBP"...), chunk...)
}

// jpegClaiming has no subsampling: three samples a pixel.
func jpegClaiming(width, height uint16, progressive bool) []byte {
	frame := []byte{8, byte(height >> 8), byte(height), byte(width >> 8), byte(width), 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0}
	kind := byte(0xc0)
	if progressive {
		kind = 0xc2
	}
	start := jpegSegment(0xda, []byte{3, 1, 0, 2, 0, 3, 0, 0, 63, 0})
	return bytes.Join([][]byte{{0xff, 0xd8}, jpegSegment(kind, frame), start}, nil)
}
