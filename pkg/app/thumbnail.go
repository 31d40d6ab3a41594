package app

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	stddraw "image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"github.com/valyala/fasthttp"
	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// What an image may cost. Its header tells, so nothing is decoded to find out. Known gap: the Huffman tables of a lossless WebP
// made for it may take more, which no header tells; max_memory in the supervisor is the net under that.
const (
	// maxPixels is what any camera in use makes, and at 8 bytes for the worst pixel 320 MB.
	maxPixels = 40_000_000
	// maxDecodeBytes bounds the formats that need more than 8 bytes a pixel: see jpegHeader.memory.
	maxDecodeBytes = 8 * maxPixels
	// maxSourceSide is what a JPEG can say. It keeps the sums of shrink within 32 bits.
	maxSourceSide = 65535

	jpegQuality = 85
)

const acceptedFormats = "JPEG, PNG, GIF or WebP"

// format is a kind of image that is accepted.
type format struct {
	name        string
	magic       string // what the file begins with, '?' stands for any byte
	config      func(io.Reader) (image.Config, error)
	decode      func(io.Reader) (image.Image, error) // of an animation its first frame
	orientation func([]byte) int
}

var formats = []format{
	{"JPEG", "\xff\xd8\xff", jpeg.DecodeConfig, jpeg.Decode, jpegOrientation},
	{"PNG", "\x89PNG\r\n\x1a\n", png.DecodeConfig, png.Decode, pngOrientation},
	{"GIF", "GIF8?a", gif.DecodeConfig, gif.Decode, upright},
	{"WebP", "RIFF????WEBPVP8", webp.DecodeConfig, webp.Decode, webpOrientation},
}

func (f *format) matches(data []byte) bool {
	if len(data) < len(f.magic) {
		return false
	}
	for i := range len(f.magic) {
		if f.magic[i] != '?' && f.magic[i] != data[i] {
			return false
		}
	}
	return true
}

// plan is an upload that was looked at but not decoded.
type plan struct {
	data   []byte
	format *format
	canvas image.Rectangle // as stored, before it is turned upright
}

// inspect says what an upload is, and refuses what is not an image or costs too much.
func inspect(data []byte) (*plan, error) {
	for i := range formats {
		f := &formats[i]
		if !f.matches(data) {
			continue
		}
		file := &file{rest: data}
		config, err := f.config(file)
		if err != nil {
			return nil, damaged(f, file, err)
		}
		p := &plan{data, f, image.Rect(0, 0, config.Width, config.Height)}
		return p, p.affordable()
	}
	return nil, newProblem(fasthttp.StatusUnsupportedMediaType, "not_an_image", "this is not a %s", acceptedFormats)
}

func (p *plan) affordable() error {
	width, height := p.canvas.Dx(), p.canvas.Dy()
	if width < 1 || height < 1 {
		return damaged(p.format, &file{}, errors.New("it has no pixels"))
	}
	if width > maxSourceSide || height > maxSourceSide || width*height > maxPixels {
		return newProblem(fasthttp.StatusUnprocessableEntity, "too_many_pixels", "the image is %d × %d pixels: want at most %d million in all, and %d on a side",
			width, height, maxPixels/1_000_000, maxSourceSide)
	}
	if p.format.name == "JPEG" {
		return readJPEGHeader(p.data).affordable(width * height)
	}
	return nil
}

// file is what a decoder reads from. The decoders say in too many ways that a file is cut off, so it is the file that remembers.
type file struct {
	rest     []byte
	overread bool // the decoder wanted more than there is
}

func (f *file) Read(b []byte) (int, error) {
	if len(f.rest) == 0 {
		f.overread = true
		return 0, io.EOF
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// damaged explains why decoding a file failed.
func damaged(f *format, file *file, err error) *problem {
	if file.overread {
		return newProblem(fasthttp.StatusUnprocessableEntity, "truncated_image", "the %s ends too early (%v): send all of it", f.name, err)
	}
	return newProblem(fasthttp.StatusUnprocessableEntity, "damaged_image", "the %s cannot be decoded (%v)", f.name, err)
}

// box is the space that a thumbnail must fit in, in pixels.
type box struct{ width, height int }

// fit gives the size of an image of the given size in the box: same aspect, never larger, at least one pixel.
func (b box) fit(size image.Point) image.Point {
	scale := min(1, float64(b.width)/float64(size.X), float64(b.height)/float64(size.Y))
	return image.Pt(max(1, int(scale*float64(size.X)+0.5)), max(1, int(scale*float64(size.Y)+0.5)))
}

// product is an answer: a PNG when the image shows what is behind it, else a JPEG.
type product struct {
	body          []byte
	contentType   string
	width, height int
}

// thumbnail decodes the image and makes it small. It keeps neither metadata (a photograph says where it was taken) nor colour
// profile: colours outside sRGB come out paler.
func (p *plan) thumbnail(want box) (*product, error) {
	source, err := p.decode()
	if err != nil {
		return nil, err
	}
	turn := orientation(p.format.orientation(p.data))
	if turn.swapsSides() {
		want.width, want.height = want.height, want.width
	}
	small := turn.apply(scale(source, p.canvas, want.fit(p.canvas.Size())))

	made := &product{contentType: "image/jpeg", width: small.Rect.Dx(), height: small.Rect.Dy()}
	var body bytes.Buffer
	if small.Opaque() {
		err = jpeg.Encode(&body, small, &jpeg.Options{Quality: jpegQuality})
	} else {
		made.contentType = "image/png"
		err = png.Encode(&body, small)
	}
	made.body = body.Bytes()
	return made, err
}

// decode runs the decoder. A decoder that panics has met a file that nobody foresaw: that is the file's fault.
func (p *plan) decode() (source image.Image, err error) {
	file := &file{rest: p.data}
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("decoder: %v", cause)
		}
		if err != nil {
			source, err = nil, damaged(p.format, file, err)
		}
	}()
	return p.format.decode(file)
}

// scale makes source, which lies on canvas, exactly size large. CatmullRom looks good but is slow and wants memory in
// proportion to the source, so a plain average brings the image to two or three times the size first.
func scale(source image.Image, canvas image.Rectangle, size image.Point) *image.RGBA {
	between := image.Pt(canvas.Dx()/max(1, canvas.Dx()/(2*size.X)), canvas.Dy()/max(1, canvas.Dy()/(2*size.Y)))
	small := shrink(source, canvas, between)
	if between == size {
		return small
	}
	scaled := image.NewRGBA(image.Rectangle{Max: size})
	draw.CatmullRom.Scale(scaled, scaled.Rect, small, small.Rect, draw.Src, nil)
	return scaled
}

// shrink averages blocks of pixels: size is at most canvas. It holds one row of the source and one of sums, whatever the
// source's format. What of the canvas the source does not cover (a GIF's first frame may be smaller) is transparent.
func shrink(source image.Image, canvas image.Rectangle, size image.Point) *image.RGBA {
	small := image.NewRGBA(image.Rectangle{Max: size})
	row := image.NewRGBA(image.Rect(canvas.Min.X, 0, canvas.Max.X, 1))
	// A block has at most (canvas/2 + 1)² pixels of 255 each: below 2³² for maxPixels and maxSourceSide.
	sums := make([]uint32, 4*size.X)
	for y := range size.Y {
		top, bottom := y*canvas.Dy()/size.Y, (y+1)*canvas.Dy()/size.Y
		clear(sums)
		for sy := top; sy < bottom; sy++ {
			clear(row.Pix)
			stddraw.Draw(row, row.Rect, source, image.Pt(canvas.Min.X, canvas.Min.Y+sy), stddraw.Src)
			for x := range size.X {
				left, right := x*canvas.Dx()/size.X, (x+1)*canvas.Dx()/size.X
				sum := sums[4*x : 4*x+4 : 4*x+4]
				for pixels := row.Pix[4*left : 4*right]; len(pixels) >= 4; pixels = pixels[4:] {
					sum[0] += uint32(pixels[0])
					sum[1] += uint32(pixels[1])
					sum[2] += uint32(pixels[2])
					sum[3] += uint32(pixels[3])
				}
			}
		}
		for x := range size.X {
			left, right := x*canvas.Dx()/size.X, (x+1)*canvas.Dx()/size.X
			count := uint32((right - left) * (bottom - top))
			sum := sums[4*x : 4*x+4]
			small.SetRGBA(x, y, color.RGBA{
				R: uint8((sum[0] + count/2) / count), G: uint8((sum[1] + count/2) / count),
				B: uint8((sum[2] + count/2) / count), A: uint8((sum[3] + count/2) / count),
			})
		}
	}
	return small
}
