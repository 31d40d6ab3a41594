package app

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"io"
	"testing"
)

// FuzzThumbnail: whatever comes, the answer is a picture that fits, or a problem that is the client's.
func FuzzThumbnail(f *testing.F) {
	for _, name := range []string{"video-001.jpeg", "video-001.progressive.jpeg", "video-001.cmyk.jpeg", "video-001.png", "video-001.gif",
		"video-001.lossy.webp", "gopher-doc.with-alpha.lossless.webp"} {
		data := readPicture(f, name)
		f.Add(data)
		f.Add(data[:len(data)/2])
		f.Add(append(data[:len(data)/3:len(data)/3], data[2*len(data)/3:]...)) // a hole
		for _, at := range []int{20, 200, len(data) / 2} {
			flipped := bytes.Clone(data)
			flipped[at] ^= 0xff
			f.Add(flipped)
		}
	}
	photo := readPicture(f, "video-001.jpeg")
	f.Add(withJPEGExif(photo, exifWith(binary.BigEndian, 7)))
	f.Add(withPNGExif(encodePNG(f, filled(3, 2, color.Transparent)), exifWith(binary.LittleEndian, 5)))
	f.Add(withWebPExif(readPicture(f, "video-001.lossy.webp"), []byte("Exif\x00\x00MM")))
	f.Add(pngClaiming(0, 0))
	f.Add(pngClaiming(1000, 1000))
	f.Add(gifClaiming(1000, 1000))
	f.Add(webpClaiming(1000, 1000))
	f.Add(jpegClaiming(1000, 1000, false))
	f.Add(jpegClaiming(1000, 1000, true))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		plan, err := inspect(data)
		if err == nil && plan.canvas.Dx()*plan.canvas.Dy() > 4_000_000 {
			t.Skip("larger than a fuzzer has time for")
		}
		var made *product
		if err == nil {
			made, err = plan.thumbnail(box{64, 48})
		}
		if err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status < 400 || p.status > 499 {
				t.Fatalf("%v is not the client's problem", err)
			}
			return
		}
		picture, _, err := image.Decode(bytes.NewReader(made.body))
		if err != nil {
			t.Fatal(err)
		}
		size := picture.Bounds().Size()
		if size != image.Pt(made.width, made.height) || size.X < 1 || size.Y < 1 || min(size.X, size.Y) > 48 || max(size.X, size.Y) > 64 {
			t.Fatalf("the thumbnail is %v, said to be %d × %d", size, made.width, made.height)
		}
	})
}

func TestDecoderThatPanicsIsTheFilesFault(t *testing.T) {
	p := &plan{format: &format{name: "XYZ", decode: func(io.Reader) (image.Image, error) { panic("index out of range") }}}
	var problem *problem
	if _, err := p.decode(); !errors.As(err, &problem) || problem.status != 422 || problem.code != "damaged_image" {
		t.Errorf("%v", err)
	}
}

// The largest sums in shrink are those of one pixel made of a few of 10 million.
func TestShrinkHoldsTheLargestSums(t *testing.T) {
	white := image.NewUniform(color.White)
	for _, canvas := range []image.Rectangle{image.Rect(0, 0, 3163, 3163), image.Rect(0, 0, 154, maxSourceSide), image.Rect(0, 0, maxSourceSide, 154)} {
		if pixel := shrink(white, canvas, image.Pt(1, 1)).RGBAAt(0, 0); pixel != (color.RGBA{255, 255, 255, 255}) {
			t.Errorf("%v of white is %v", canvas, pixel)
		}
	}
}

func BenchmarkThumbnail(b *testing.B) {
	for name, data := range map[string][]byte{
		"6MP":   encodeJPEG(b, landscape(3000, 2000)),
		"small": readPicture(b, "go-turns-two-280x360.jpeg"),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				plan, err := inspect(data)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := plan.thumbnail(box{defaultSide, defaultSide}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
