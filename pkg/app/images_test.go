package app

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"
)

// shows decodes an answer, which must be a thumbnail of the given type and size.
func (a answer) shows(contentType string, width, height int) image.Image {
	a.t.Helper()
	if a.status != 200 || a.header.Get("Content-Type") != contentType {
		a.t.Fatalf("status %d, %s, body %.200q: want 200, %s", a.status, a.header.Get("Content-Type"), a.body, contentType)
	}
	m, _, err := image.Decode(bytes.NewReader(a.body))
	if err != nil {
		a.t.Fatal(err)
	}
	if m.Bounds() != image.Rect(0, 0, width, height) {
		a.t.Errorf("the thumbnail is %v, want %d × %d", m.Bounds(), width, height)
	}
	if w, h := a.header.Get("X-Image-Width"), a.header.Get("X-Image-Height"); w != strconv.Itoa(width) || h != strconv.Itoa(height) {
		a.t.Errorf("the headers say %s × %s, want %d × %d", w, h, width, height)
	}
	a.isGuarded()
	return m
}

func TestEveryAcceptedFormatBecomesAThumbnail(t *testing.T) {
	s := serve(t, Config{})
	for _, c := range []struct {
		file          string
		contentType   string
		width, height int
	}{
		{"go-turns-two-280x360.jpeg", "image/jpeg", 78, 100},
		{"video-001.jpeg", "image/jpeg", 100, 69},
		{"video-001.progressive.jpeg", "image/jpeg", 100, 69},
		{"video-001.cmyk.jpeg", "image/jpeg", 100, 69},
		{"video-001.png", "image/jpeg", 100, 69},
		{"video-001.gif", "image/jpeg", 100, 69},
		{"video-001.lossy.webp", "image/jpeg", 100, 69},
		{"gopher-doc.with-alpha.lossless.webp", "image/png", 75, 100},
	} {
		t.Run(c.file, func(t *testing.T) {
			s := &site{t: t, app: s.app, addr: s.addr, logs: s.logs}
			data := readPicture(t, c.file)
			bare := s.post("/images?width=100&height=100", data)
			bare.shows(c.contentType, c.width, c.height)
			if form := s.form("/images?width=100&height=100", "file", data); !bytes.Equal(form.body, bare.body) {
				t.Errorf("the form's thumbnail differs from the bare body's: %d, %.200q", form.status, form.body)
			}
		})
	}
}

func TestThumbnailLooksLikeThePhotograph(t *testing.T) {
	s := serve(t, Config{})
	photo := landscape(900, 600)
	small := s.post("/images?width=120", encodeJPEG(t, photo)).shows("image/jpeg", 120, 80)
	for y := 2; y < 80; y += 8 {
		for x := 2; x < 120; x += 8 {
			var r, g, b, n int
			for py := y * 600 / 80; py < (y+1)*600/80; py++ {
				for px := x * 900 / 120; px < (x+1)*900/120; px++ {
					c := photo.RGBAAt(px, py)
					r, g, b, n = r+int(c.R), g+int(c.G), b+int(c.B), n+1
				}
			}
			near(t, small, x, y, color.RGBA{uint8(r / n), uint8(g / n), uint8(b / n), 255}, 40)
		}
	}
}

// near checks a pixel against what it should be, give or take.
func near(t testing.TB, m image.Image, x, y int, want color.RGBA, give int) {
	t.Helper()
	got := color.RGBAModel.Convert(m.At(x, y)).(color.RGBA)
	off := func(a, b uint8) bool { return int(a)-int(b) > give || int(b)-int(a) > give }
	if off(got.R, want.R) || off(got.G, want.G) || off(got.B, want.B) || off(got.A, want.A) {
		t.Errorf("pixel %d,%d is %v, want about %v", x, y, got, want)
	}
}

func TestBoxKeepsTheAspectAndNeverEnlarges(t *testing.T) {
	s := serve(t, Config{})
	data := encodeJPEG(t, filled(390, 260, color.White))
	for query, want := range map[string][2]int{
		"":                       {320, 213},
		"?width=90&height=90":    {90, 60},
		"?width=90":              {90, 60},
		"?height=90":             {135, 90},
		"?width=2048":            {390, 260},
		"?width=1&height=1":      {1, 1},
		"?width=195&height=2000": {195, 130},
	} {
		s.post("/images"+query, data).shows("image/jpeg", want[0], want[1])
	}
	s.post("/images", encodePNG(t, filled(1, 1, color.Black))).shows("image/jpeg", 1, 1)
	s.post("/images", encodePNG(t, filled(3000, 1, color.Black))).shows("image/jpeg", 320, 1)
	s.post("/images", encodePNG(t, filled(1, 3001, color.Black))).shows("image/jpeg", 1, 320)
}

func TestTransparencySurvives(t *testing.T) {
	s := serve(t, Config{})
	picture := filled(160, 160, color.Transparent)
	for y := range 160 {
		for x := range 80 {
			picture.SetNRGBA(x, y, color.NRGBA{200, 50, 0, 255})
		}
	}
	small := s.post("/images?width=50", encodePNG(t, picture)).shows("image/png", 50, 50)
	near(t, small, 12, 25, color.RGBA{200, 50, 0, 255}, 2)
	near(t, small, 37, 25, color.RGBA{}, 2)
}

func TestFirstFrameOfAnAnimationIsShown(t *testing.T) {
	s := serve(t, Config{})
	red := image.NewPaletted(image.Rect(50, 0, 100, 100), color.Palette{color.RGBA{255, 0, 0, 255}}) // the right half of the canvas
	blue := image.NewPaletted(image.Rect(0, 0, 100, 100), color.Palette{color.RGBA{0, 0, 255, 255}})
	var b bytes.Buffer
	err := gif.EncodeAll(&b, &gif.GIF{Image: []*image.Paletted{red, blue}, Delay: []int{1, 1}, Config: image.Config{Width: 100, Height: 100}})
	if err != nil {
		t.Fatal(err)
	}
	small := s.post("/images?width=50", b.Bytes()).shows("image/png", 50, 50)
	near(t, small, 12, 25, color.RGBA{}, 2)
	near(t, small, 37, 25, color.RGBA{255, 0, 0, 255}, 2)
}

func TestUploadThatIsNoImage(t *testing.T) {
	s := serve(t, Config{})
	for _, body := range []string{"GIF", "hello", "<svg xmlns='http://www.w3.org/2000/svg'/>", "BM\x00\x00\x00\x00", "\x00\x00\x00\x1cftypheic", "II*\x00", "RIFF\x00\x00\x00\x00WAVEfmt "} {
		s.post("/images", []byte(body)).fails(415, "not_an_image", acceptedFormats)
		s.form("/images", "file", []byte(body)).fails(415, "not_an_image", acceptedFormats)
	}
}

func TestEmptyUpload(t *testing.T) {
	s := serve(t, Config{})
	s.post("/images", nil).fails(400, "empty_body", `"file"`, "--data-binary")
	s.form("/images", "file", nil).fails(400, "empty_body", `"file"`)
}

func TestWrongForm(t *testing.T) {
	s := serve(t, Config{})
	photo := readPicture(t, "video-001.jpeg")
	s.form("/images", "photo", photo).fails(400, "missing_field", `"file"`, `"comment", "photo"`)
	s.do("POST", "/images", "multipart/form-data", photo).fails(400, "bad_request", "boundary")
	s.do("POST", "/images", "multipart/mixed; boundary=b", photo).fails(400, "bad_request", "multipart/form-data")
	s.do("POST", "/images", "multipart/form-data; boundary=b", photo).fails(400, "missing_field", "but nothing")
	contentType, form := formWith(t, "file", photo)
	s.do("POST", "/images", contentType, form[:len(form)/2]).fails(400, "bad_request", "cut off")
	s.do("POST", "/images", contentType, nil).fails(400, "empty_body")

	var many bytes.Buffer
	for i := range 10_000 {
		fmt.Fprintf(&many, "--b\r\nContent-Disposition: form-data; name=\"f%d\"\r\n\r\n\r\n", i)
	}
	s.do("POST", "/images", "multipart/form-data; boundary=b", many.Bytes()).fails(400, "missing_field", `"f4"`)
}

func TestBadSize(t *testing.T) {
	s := serve(t, Config{})
	photo := readPicture(t, "video-001.jpeg")
	for _, query := range []string{"width=0", "width=-1", "height=2049", "width=99999999999999999999", "height=ten", "width=", "width=1.5", "width=%00"} {
		s.post("/images?"+query, photo).fails(400, "bad_request", "1 to 2048", query[:5])
	}
}

func TestDamagedImages(t *testing.T) {
	s := serve(t, Config{})
	for _, file := range []string{"video-001.jpeg", "video-001.progressive.jpeg", "video-001.png"} {
		data := readPicture(t, file)
		for _, length := range []int{12, 100, len(data) / 2, len(data) - 20} {
			s.post("/images", data[:length]).fails(422, "truncated_image", "ends too early")
		}
	}
	for _, file := range []string{"video-001.gif", "video-001.lossy.webp", "gopher-doc.with-alpha.lossless.webp"} {
		data := readPicture(t, file)
		if got := s.post("/images", data[:len(data)/2]); got.status != 422 {
			t.Errorf("half of %s: %d %s", file, got.status, got.body)
		}
	}
	garbled := bytes.Clone(readPicture(t, "video-001.png"))
	garbled[60] ^= 0xff
	s.post("/images", garbled).fails(422, "damaged_image", "PNG", "checksum")
}

func TestBombsAreRefusedByTheirHeader(t *testing.T) {
	s := serve(t, Config{})
	for name, bomb := range map[string][]byte{
		"png":  pngClaiming(50_000, 50_000),
		"thin": pngClaiming(1, 1<<30),
		"gif":  gifClaiming(65535, 65535),
		"webp": webpClaiming(16384, 16384),
		"jpeg": jpegClaiming(65535, 65535, false),
		// Within 40 million pixels, but each of its coefficients is kept until the last pass.
		"progressive": jpegClaiming(6000, 6000, true),
	} {
		s.post("/images", bomb).fails(422, "too_many_pixels")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := inspect(bomb); err == nil {
			t.Errorf("%s: accepted", name)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("%s: refusing it took %d bytes", name, took)
		}
	}
	// The largest that is let through is refused for what it lacks.
	s.post("/images", jpegClaiming(8000, 5000, false)).fails(422, "damaged_image", "JPEG")
}

func TestEndlessPassesAreRefused(t *testing.T) {
	photo := readPicture(t, "video-001.progressive.jpeg")
	scan := bytes.LastIndex(photo, []byte{0xff, 0xda})
	last := photo[scan : len(photo)-2]
	endless := bytes.Join([][]byte{photo[:len(photo)-2], bytes.Repeat(last, 10_000), photo[len(photo)-2:]}, nil)
	s := serve(t, Config{})
	s.post("/images", endless[:min(len(endless), maxUploadBytes)]).fails(422, "too_many_scans", "100")
}

func TestUploadHasALimit(t *testing.T) {
	s := serve(t, Config{})
	photo := readPicture(t, "video-001.jpeg")
	padded := func(size int) []byte { return append(bytes.Clone(photo), make([]byte, size-len(photo))...) }
	s.post("/images?width=10", padded(maxUploadBytes)).shows("image/jpeg", 10, 7)
	s.form("/images?width=10", "file", padded(maxUploadBytes)).shows("image/jpeg", 10, 7)
	s.post("/images", padded(maxUploadBytes+1)).fails(413, "too_large", "10485760", "10 MiB")
	s.form("/images", "file", padded(maxUploadBytes+1)).fails(413, "too_large")
}

// A client that sends far too much must read the 413, not a reset.
func TestOversizedUploadReadsItsAnswer(t *testing.T) {
	s := serve(t, Config{})
	s.post("/images", make([]byte, 2*maxUploadBytes)).fails(413, "too_large")

	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "POST /images HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := append(append([]byte("100000\r\n"), make([]byte, 1<<20)...), "\r\n"...)
	for range 15 {
		if _, err := conn.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	io.WriteString(conn, "0\r\n\r\n")
	readAnswer(t, conn).fails(413, "too_large")
}

func TestCrowdIsToldToComeBack(t *testing.T) {
	s := serve(t, Config{}, func(a *app) { a.images = &queue{slots: make(chan struct{}, 1), longest: 20 * time.Millisecond} })
	photo := readPicture(t, "video-001.jpeg")
	s.app.images.slots <- struct{}{}
	got := s.post("/images", photo)
	got.fails(503, "busy")
	if got.header.Get("Retry-After") != "2" {
		t.Errorf("Retry-After is %q", got.header.Get("Retry-After"))
	}
	// What needs no decoding is answered all the same.
	s.post("/images", []byte("hello")).fails(415, "not_an_image")
	if got := s.get("/health"); got.status != 200 {
		t.Errorf("health is %d", got.status)
	}
	<-s.app.images.slots
	s.post("/images?width=10", photo).shows("image/jpeg", 10, 7)
}

func TestManyClientsGetTheirOwnThumbnail(t *testing.T) {
	s := serve(t, Config{})
	photos := [][]byte{readPicture(t, "video-001.jpeg"), readPicture(t, "go-turns-two-280x360.jpeg"), readPicture(t, "video-001.png"), readPicture(t, "gopher-doc.with-alpha.lossless.webp")}
	want := make([][]byte, len(photos))
	for i, photo := range photos {
		want[i] = s.post("/images?width=60", photo).body
	}
	var clients sync.WaitGroup
	for c := range 16 {
		clients.Go(func() {
			for i := range 5 {
				n := (c + i) % len(photos)
				response, err := http.Post("http://"+s.addr+"/images?width=60", "image/jpeg", bytes.NewReader(photos[n]))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(response.Body)
				response.Body.Close()
				if err != nil || response.StatusCode != 200 || !bytes.Equal(got, want[n]) {
					t.Errorf("photo %d: %d, %v, %d bytes, want %d", n, response.StatusCode, err, len(got), len(want[n]))
				}
			}
		})
	}
	clients.Wait()
}
