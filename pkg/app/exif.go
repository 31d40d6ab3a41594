package app

import (
	"bytes"
	"encoding/binary"
	"image"
)

// orientation is Exif's: how the stored image is to be turned, 1 to 8. A camera held upright stores its picture lying down, and
// says so.
type orientation int

func upright([]byte) int { return 1 }

func jpegOrientation(data []byte) int { return exifOrientation(readJPEGHeader(data).exif) }

// pngOrientation looks for the chunk eXIf. A chunk: length, kind, data, checksum.
func pngOrientation(data []byte) int {
	for rest := data[8:]; len(rest) >= 12; {
		length := uint64(binary.BigEndian.Uint32(rest))
		if length > uint64(len(rest)-12) {
			break
		}
		if string(rest[4:8]) == "eXIf" {
			return exifOrientation(rest[8 : 8+length])
		}
		rest = rest[12+length:]
	}
	return 1
}

// webpOrientation looks for the chunk EXIF. A chunk: kind, length, data, padding to an even length.
func webpOrientation(data []byte) int {
	for rest := data[12:]; len(rest) >= 8; {
		length := uint64(binary.LittleEndian.Uint32(rest[4:]))
		if length > uint64(len(rest)-8) {
			break
		}
		if string(rest[:4]) == "EXIF" {
			return exifOrientation(bytes.TrimPrefix(rest[8:8+length], []byte("Exif\x00\x00")))
		}
		rest = rest[min(uint64(len(rest)), 8+length+length%2):]
	}
	return 1
}

// exifOrientation reads tag 0x0112 of the first directory of a TIFF structure. Anything odd means upright: better a picture on
// its side than none.
func exifOrientation(tiff []byte) int {
	const (
		tagOrientation = 0x0112
		typeShort      = 3
		entrySize      = 12
	)
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch string(tiff[:4]) {
	case "II*\x00":
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	directory := uint64(order.Uint32(tiff[4:]))
	if directory+2 > uint64(len(tiff)) {
		return 1
	}
	count := int(order.Uint16(tiff[directory:]))
	entries := tiff[directory+2:]
	for ; count > 0 && len(entries) >= entrySize; count, entries = count-1, entries[entrySize:] {
		if order.Uint16(entries) != tagOrientation {
			continue
		}
		if value := int(order.Uint16(entries[8:])); order.Uint16(entries[2:]) == typeShort && value >= 1 && value <= 8 {
			return value
		}
		break
	}
	return 1
}

// swapsSides reports whether width becomes height.
func (o orientation) swapsSides() bool { return o >= 5 }

// apply turns an image upright.
func (o orientation) apply(source *image.RGBA) *image.RGBA {
	if o == 1 {
		return source
	}
	w, h := source.Rect.Dx(), source.Rect.Dy()
	turned := image.NewRGBA(image.Rect(0, 0, w, h))
	if o.swapsSides() {
		turned = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			var tx, ty int
			switch o {
			case 2: // mirrored
				tx, ty = w-1-x, y
			case 3: // upside down
				tx, ty = w-1-x, h-1-y
			case 4: // mirrored, upside down
				tx, ty = x, h-1-y
			case 5: // mirrored, its top on the left
				tx, ty = y, x
			case 6: // its top on the left
				tx, ty = h-1-y, x
			case 7: // mirrored, its top on the right
				tx, ty = h-1-y, w-1-x
			case 8: // its top on the right
				tx, ty = y, w-1-x
			}
			turned.SetRGBA(tx, ty, source.RGBAAt(x, y))
		}
	}
	return turned
}
