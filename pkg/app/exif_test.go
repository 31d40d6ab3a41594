package app

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image/color"
	"testing"
)

var (
	red   = color.RGBA{200, 0, 0, 255}
	green = color.RGBA{0, 160, 0, 255}
)

// The Exif standard says of each orientation on which side of the scene the stored picture's first row and first column lie.
// So a red spot in the stored top left corner, and a green one in the top right, must show up here.
var corners = map[uint16]struct{ red, green string }{
	1: {"top left", "top right"},
	2: {"top right", "top left"},
	3: {"bottom right", "bottom left"},
	4: {"bottom left", "bottom right"},
	5: {"top left", "bottom left"},
	6: {"top right", "bottom right"},
	7: {"bottom right", "top right"},
	8: {"bottom left", "top left"},
}

func TestPhotographIsTurnedUpright(t *testing.T) {
	stored := filled(200, 100, color.White)
	for y := range 30 {
		for x := range 60 {
			stored.Set(x, y, red)
			stored.Set(199-x, y, green)
		}
	}
	s := serve(t, Config{})
	for orientation, want := range corners {
		for name, data := range map[string][]byte{
			"jpeg, little-endian": withJPEGExif(encodeJPEG(t, stored), exifWith(binary.LittleEndian, orientation)),
			"jpeg, big-endian":    withJPEGExif(encodeJPEG(t, stored), exifWith(binary.BigEndian, orientation)),
			"png":                 withPNGExif(encodePNG(t, stored), exifWith(binary.BigEndian, orientation)),
		} {
			t.Run(fmt.Sprint(orientation, " ", name), func(t *testing.T) {
				s := &site{t: t, app: s.app, addr: s.addr, logs: s.logs}
				width, height := 200, 100
				if orientation >= 5 {
					width, height = 100, 200
				}
				upright := s.post("/images", data).shows("image/jpeg", width, height)
				at := map[string][2]int{
					"top left": {8, 8}, "top right": {width - 9, 8}, "bottom left": {8, height - 9}, "bottom right": {width - 9, height - 9},
				}
				near(t, upright, at[want.red][0], at[want.red][1], red, 30)
				near(t, upright, at[want.green][0], at[want.green][1], green, 30)
				near(t, upright, width/2, height/2, color.RGBA{255, 255, 255, 255}, 10)

				// The box is for the upright picture.
				s.post("/images?width=50&height=200", data).shows("image/jpeg", 50, 50*height/width)
			})
		}
	}
}

func TestWebPTellsItsOrientation(t *testing.T) {
	photo := readPicture(t, "video-001.lossy.webp")
	s := serve(t, Config{})
	for _, tiff := range [][]byte{exifWith(binary.LittleEndian, 6), append([]byte("Exif\x00\x00"), exifWith(binary.BigEndian, 8)...)} {
		s.post("/images", withWebPExif(photo, tiff)).shows("image/jpeg", 103, 150)
	}
}

func TestOddExifMeansUpright(t *testing.T) {
	good := exifWith(binary.LittleEndian, 6)
	odd := [][]byte{nil, {}, []byte("II"), []byte("JUNKJUNK"), exifWith(binary.LittleEndian, 0), exifWith(binary.BigEndian, 9)}
	for length := range len(good) - 4 - 2 { // without the end of the entry
		odd = append(odd, good[:length])
	}
	for _, offset := range []uint32{0xffffffff, 0x7fffffff, uint32(len(good)), uint32(len(good) - 1)} {
		far := bytes.Clone(good)
		binary.LittleEndian.PutUint32(far[4:], offset)
		odd = append(odd, far)
	}
	for _, tiff := range odd {
		if got := exifOrientation(tiff); got != 1 {
			t.Errorf("%x: %d", tiff, got)
		}
	}
	if got := exifOrientation(good); got != 6 {
		t.Errorf("good: %d", got)
	}
}
