package app

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"
)

const (
	uploadField = "file" // of a multipart form
	defaultSide = 320    // pixels; of the box that a thumbnail fits in when the request says nothing
	maxSide     = 2048   // pixels; beyond it is not a thumbnail
	maxFields   = 100    // of a form, before uploadField: parsing them is work that nobody waits in line for
)

// postImage takes an image. With background tasks it answers 202 as soon as the image and its job are stored, without them it makes the
// client wait for the thumbnail.
func (a *app) postImage(ctx *fasthttp.RequestCtx) error {
	want, err := boxOf(ctx.QueryArgs())
	if err != nil {
		return err
	}
	upload, err := uploadOf(ctx)
	if err != nil {
		return err
	}
	plan, err := inspect(upload)
	if err != nil {
		return err
	}
	if a.tasks != nil {
		limit, cancel := askingTime(ctx)
		defer cancel()
		id, err := a.tasks.enqueueThumbnail(limit, upload, want)
		if err != nil {
			return a.taskProblem(id, err)
		}
		accepted(ctx, id)
		return nil
	}
	if err := a.images.enter(); err != nil {
		return err
	}
	defer a.images.leave()
	made, err := plan.thumbnail(want)
	if err != nil {
		return err
	}
	answerProduct(ctx, made)
	return nil
}

func answerProduct(ctx *fasthttp.RequestCtx, made *product) {
	header := &ctx.Response.Header
	if made.width > 0 {
		header.Set("X-Image-Width", strconv.Itoa(made.width))
		header.Set("X-Image-Height", strconv.Itoa(made.height))
	}
	ctx.SetContentType(made.contentType)
	ctx.Response.SetBodyRaw(made.body)
}

// boxOf reads ?width= and ?height=. One alone leaves the other side free, up to maxSide.
func boxOf(query *fasthttp.Args) (box, error) {
	if !query.Has("width") && !query.Has("height") {
		return box{defaultSide, defaultSide}, nil
	}
	want := box{maxSide, maxSide}
	for name, side := range map[string]*int{"width": &want.width, "height": &want.height} {
		if !query.Has(name) {
			continue
		}
		n, err := strconv.Atoi(string(query.Peek(name)))
		if err != nil || n < 1 || n > maxSide {
			return box{}, badRequest("%s=%s: want a whole number of pixels from 1 to %d", name, query.Peek(name), maxSide)
		}
		*side = n
	}
	return want, nil
}

// uploadOf gives the bytes of the image: the form's field, or the bare body. They are valid until the handler returns.
func uploadOf(ctx *fasthttp.RequestCtx) ([]byte, error) {
	upload := ctx.PostBody()
	kind, parameters, _ := mime.ParseMediaType(string(ctx.Request.Header.ContentType()))
	if strings.HasPrefix(kind, "multipart/") && len(upload) > 0 {
		var err error
		if upload, err = fieldOf(upload, kind, parameters["boundary"]); err != nil {
			return nil, err
		}
	}
	switch {
	case len(upload) == 0:
		return nil, newProblem(fasthttp.StatusBadRequest, "empty_body",
			"there is no image in the request: send one as form field %q (curl -F file=@photo.jpg) or as the body (curl --data-binary @photo.jpg)", uploadField)
	case len(upload) > maxUploadBytes:
		return nil, tooLarge()
	}
	return upload, nil
}

// fieldOf finds uploadField in a multipart body. The body is in memory and bounded already, so there is nothing to gain from
// files on disk.
func fieldOf(body []byte, kind, boundary string) ([]byte, error) {
	if kind != "multipart/form-data" || boundary == "" {
		return nil, badRequest("Content-Type is %s with boundary %q: want multipart/form-data with a boundary, or the image as the body", kind, boundary)
	}
	var others []string
	form := multipart.NewReader(bytes.NewReader(body), boundary)
	for range maxFields {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badRequest("the multipart body is damaged or cut off (%v)", err)
		}
		if part.FormName() != uploadField {
			if len(others) < 5 {
				others = append(others, strconv.Quote(part.FormName()))
			}
			continue
		}
		image, err := io.ReadAll(part)
		if err != nil {
			return nil, badRequest("the multipart body is damaged or cut off (%v)", err)
		}
		return image, nil
	}
	found := "nothing"
	if len(others) > 0 {
		found = strings.Join(others, ", ")
	}
	return nil, newProblem(fasthttp.StatusBadRequest, "missing_field", "the form has no field %q, but %s: curl -F file=@photo.jpg", uploadField, found)
}

func tooLarge() *problem {
	return newProblem(fasthttp.StatusRequestEntityTooLarge, "too_large", "an image may have at most %d bytes (%d MiB)", maxUploadBytes, maxUploadBytes>>20)
}
